"""What a forward pass tells all its layers: where the tokens stand, and what each may see."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.nn import compiled, masks

LONGEST_PLAIN = 1024
"""Positions up to which `attend` forms the T×T scores itself, where it does at all."""


def attend(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(q kᵀ / √K + mask) v: (B, H, T, K). Each of the G key-value heads serves H / G query heads.
    The mask (B, 1 or H, T, S) is boolean, true where a key is seen, or is added to the scores; where there is
    one, `causal` says that it is boolean and lets no query see what comes after it.

    The fused kernel everywhere but for causal bfloat16 on a CPU, where two plain batched products with the
    softmax in float32 between them take half the time, forward and backward (context 512, two cores).
    """
    T, group = q_BHTK.shape[2], q_BHTK.shape[1] // k_BGSK.shape[1]
    plain = causal and q_BHTK.device.type == "cpu" and q_BHTK.dtype == torch.bfloat16
    if plain and T <= LONGEST_PLAIN:
        k_BHSK, v_BHSK = (x if group == 1 else x.repeat_interleave(group, dim=1) for x in (k_BGSK, v_BGSK))
        scores_BHTS, scale = q_BHTK @ k_BHSK.mT, q_BHTK.shape[3] ** -0.5
        if mask is not None:  # unseen by autograd: where a share is 0, so is the gradient of its score
            scores_BHTS.detach().masked_fill_(~mask, -torch.inf)
        if compiled.learns(scores_BHTS):
            y_BHTK: Tensor = compiled.causal_softmax(scores_BHTS, scale) @ v_BHSK
            return y_BHTK
        unseen = torch.full((T, T), -torch.inf).triu(1)
        shares_BHTS = (scores_BHTS.float() * scale + unseen).softmax(-1).to(v_BHSK.dtype)
        y_BHTK = shares_BHTS @ v_BHSK
        return y_BHTK
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q_BHTK.dtype)
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=group > 1
    )


@dataclass
class Layout:
    """A forward pass without a cache: T tokens a row that see each other as `seen` says.

    `seen` is boolean, (B or 1, 1, T, T); where it is None the pass is causal over the T tokens, or, with
    `causal=False`, everything is seen. With both, what is seen is never later. Layers that look through a
    sliding window or weigh distances narrow that down themselves.
    """

    positions_BT: Tensor
    seen: Tensor | None = None
    causal: bool = True
    _masks: dict[tuple[int | None, int | None], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def plain(cls, length: int, device: torch.device) -> Layout:
        """Causal over `length` tokens at positions 0, 1, …; padding belongs on the right."""
        return cls(torch.arange(length, device=device)[None])

    @classmethod
    def padded(cls, present_BT: Tensor, causal: bool = True) -> Layout:
        """Rows with padding on either side: `present_BT` is true where a token is none. Positions count the
        tokens alone; no token sees padding, and padding sees itself."""
        positions_BT = (present_BT.long().cumsum(1) - 1).clamp(min=0)
        T = present_BT.shape[1]
        place = torch.arange(T, device=present_BT.device)[None]
        seen = present_BT[:, None, None, :].expand(-1, 1, T, -1)
        if causal:
            seen = seen & masks.causal(place, place)
        return cls(positions_BT, seen | torch.eye(T, dtype=torch.bool, device=seen.device), causal=False)

    @classmethod
    def packed(cls, document_BT: Tensor) -> Layout:
        """Rows of several documents, numbered by `document_BT`: each sees itself alone, causally, and its
        positions begin at 0."""
        positions_BT = masks.document_positions(document_BT)
        place_1T = torch.arange(document_BT.shape[1], device=document_BT.device)[None]
        return cls(positions_BT, masks.documents(document_BT) & masks.causal(place_1T, place_1T))

    @classmethod
    def with_prefix(cls, length: int, prefix_B: Tensor) -> Layout:
        """Causal, but the first `prefix_B` tokens of each row see each other in both directions."""
        positions = torch.arange(length, device=prefix_B.device)[None]
        return cls(positions, masks.prefix(positions, prefix_B), causal=False)

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        window: int | None = None,
        slopes_H: Tensor | None = None,
    ) -> Tensor:
        """What the queries of one layer read, (B, H, T, K); `slopes_H` are ALiBi's."""
        mask, causal = self.mask(self.positions_BT, self.seen, window, slopes_H)
        return attend(q_BHTK, k_BGTK, v_BGTK, mask, causal)

    def mask(
        self, keys_BS: Tensor, seen: Tensor | None, window: int | None, slopes_H: Tensor | None
    ) -> tuple[Tensor | None, bool]:
        """The mask for keys at these positions, and whether the pass is causal, by itself or within
        the mask."""
        if window is None and slopes_H is None:
            return seen, self.causal
        wanted = (window, None if slopes_H is None else len(slopes_H))
        if wanted not in self._masks:
            queries_BT = self.positions_BT
            if seen is None and self.causal:
                seen = masks.causal(queries_BT, keys_BS)
            if window is not None:
                near = masks.windowed(queries_BT, keys_BS, window)
                seen = near if seen is None else seen & near
            mask = seen
            if slopes_H is not None:
                distance = (queries_BT[:, :, None] - keys_BS[:, None, :]).abs().unsqueeze(1)
                bias = -distance * slopes_H.to(keys_BS.device)[:, None, None]
                mask = bias if seen is None else bias.masked_fill(~seen, -torch.inf)
            assert mask is not None
            self._masks[wanted] = mask
        return self._masks[wanted], False
