"""Attention with grouped key-value heads; what sees what is the layout's to say."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from sishu.nn import compiled
from sishu.nn.layout import Layout
from sishu.nn.norm import RMSNorm
from sishu.nn.positions import alibi_slopes
from sishu.nn.rotary import rotate


class Attention(nn.Module):
    """Self-attention (Vaswani et al. 2017, arXiv:1706.03762) with grouped key-value heads (Ainslie et al.
    2023, arXiv:2305.13245), one for each query head or one for all included.

    `qk_norm` normalises queries and keys head by head (Henry et al. 2020, arXiv:2010.04245); `bias` and
    `output_bias` are on for families that have them; a layer with a `window` sees that many positions, its
    own included; `alibi` takes distance from the scores instead of turning queries and keys.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        eps: float = 1e-6,
        *,
        qk_norm: bool = False,
        bias: bool = False,
        output_bias: bool = False,
        window: int | None = None,
        alibi: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.window = heads, kv_heads, head_width, window
        self.query = nn.Linear(width, heads * head_width, bias=bias)
        self.key = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.value = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.output = nn.Linear(heads * head_width, width, bias=output_bias)
        self.query_norm = RMSNorm(head_width, eps) if qk_norm else None
        self.key_norm = RMSNorm(head_width, eps) if qk_norm else None
        self.slopes_H = alibi_slopes(heads) if alibi else None

    def forward(
        self, x_BTD: Tensor, layer: int, layout: Layout, rotary: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). `layer` counts from 0, for the layout's cache; `rotary` holds cosines and
        sines of the layout's positions, (B or 1, T, K/2)."""
        B, T, _ = x_BTD.shape
        q = self.query(x_BTD).view(B, T, self.heads, self.head_width)
        k = self.key(x_BTD).view(B, T, self.kv_heads, self.head_width)
        v = self.value(x_BTD).view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        q, k = self._apart(q, self.query_norm, rotary), self._apart(k, self.key_norm, rotary)
        y_BHTK = layout.attend(layer, q, k, v, self.window, self.slopes_H)
        return cast(Tensor, self.output(y_BHTK.transpose(1, 2).reshape(B, T, -1)))

    @staticmethod
    def _apart(x_BTHK: Tensor, norm: RMSNorm | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Queries or keys as they are looked up, (B, H, T, K)."""
        weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        if rotary is not None and compiled.learns(x_BTHK, weight):
            return compiled.heads_apart(x_BTHK, weight, eps, rotary)
        x_BHTK = x_BTHK.transpose(1, 2)
        x_BHTK = x_BHTK if norm is None else norm(x_BHTK)
        return x_BHTK if rotary is None else rotate(x_BHTK, *rotary)
