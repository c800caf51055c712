"""Grouped-query attention with normalised queries and keys, and the cache it reads when generating."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.nn.norm import RMSNorm
from sishu.nn.rotary import rotate

LONGEST_PLAIN = 1024
"""Positions up to which `attend` forms the T×T scores itself, where it does at all."""


@dataclass
class LayerCache:
    """Keys and values of one layer: two tensors (B, G, S, K), S positions allotted, G key-value heads."""

    keys: Tensor
    values: Tensor

    def write(self, positions_BT: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> None:
        """Put new keys and values at their absolute positions, row by row."""
        rows = torch.arange(k_BGTK.shape[0], device=k_BGTK.device)[:, None]
        self.keys[rows, :, positions_BT] = k_BGTK.transpose(1, 2).to(self.keys.dtype)
        self.values[rows, :, positions_BT] = v_BGTK.transpose(1, 2).to(self.values.dtype)


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √K) v, causal where no boolean mask (B, 1, T, S) says what is seen: (B, H, T, K).
    Each of the G key-value heads serves H / G query heads.

    The fused kernel everywhere but for bfloat16 on a CPU, where two plain batched products with the softmax
    in float32 between them take half the time, forward and backward (context 512, two cores).
    """
    T, group = q_BHTK.shape[2], q_BHTK.shape[1] // k_BGSK.shape[1]
    if mask is None and q_BHTK.device.type == "cpu" and q_BHTK.dtype == torch.bfloat16 and T <= LONGEST_PLAIN:
        unseen = torch.full((T, T), -torch.inf).triu(1)
        k_BHSK, v_BHSK = (x.repeat_interleave(group, dim=1) for x in (k_BGSK, v_BGSK))
        scores = (q_BHTK @ k_BHSK.mT).float() * q_BHTK.shape[3] ** -0.5 + unseen
        y_BHTK: Tensor = scores.softmax(-1).to(v_BHSK.dtype) @ v_BHSK
        return y_BHTK
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, is_causal=mask is None, enable_gqa=group > 1
    )


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017) with grouped key-value heads (Ainslie et al. 2023,
    arXiv:2305.13245) and QK-norm (Henry et al. 2020, arXiv:2010.04245).

    Without a cache the call is causal over the T positions given; padding belongs on the right, where
    no earlier position can see it. With a cache every row writes at its own absolute positions and sees
    all positions up to its own, so rows of different lengths share a batch.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int, eps: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(width, kv_heads * head_width, bias=False)
        self.value = nn.Linear(width, kv_heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        self.query_norm = RMSNorm(head_width, eps)
        self.key_norm = RMSNorm(head_width, eps)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        positions_BT: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); `rotary` holds cosines and sines of these positions, (B or 1, T, K/2)."""
        B, T, _ = x_BTD.shape
        q = self.query(x_BTD).view(B, T, self.heads, self.head_width).transpose(1, 2)
        k = self.key(x_BTD).view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        v = self.value(x_BTD).view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        q, k = rotate(self.query_norm(q), *rotary), rotate(self.key_norm(k), *rotary)
        mask = None
        if cache is not None:
            assert positions_BT is not None
            cache.write(positions_BT, k, v)
            k, v = cache.keys.to(q.dtype), cache.values.to(q.dtype)
            seen = torch.arange(k.shape[2], device=k.device)
            mask = (seen <= positions_BT[:, :, None]).unsqueeze(1)
        y = attend(q, k, v, mask)
        out: Tensor = self.output(y.transpose(1, 2).reshape(B, T, -1))
        return out
