"""The static key-value cache: every row has its place, allotted before the first token."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sishu.nn import masks
from sishu.nn.layout import Layout, attend


class StaticCache:
    """Keys and values of all layers for B rows of up to S positions, each two tensors (B, G, S + 1, K).

    Every row writes at its own absolute positions and sees all positions up to its own, so rows of
    different lengths share a batch. What stands at position -1 is padding: it is written to a place of its
    own before the others, which nobody sees. A position that there is no room for raises IndexError.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.keys, self.values = keys, values

    @classmethod
    def empty(
        cls,
        layers: int,
        batch: int,
        kv_heads: int,
        length: int,
        head_width: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> StaticCache:
        """Room for `batch` rows of `length` positions."""
        shape = (batch, kv_heads, length + 1, head_width)
        both = [[torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)] for _ in range(2)]
        return cls(*both)

    @property
    def length(self) -> int:
        """Positions that a row has room for."""
        return self.keys[0].shape[2] - 1

    def rows(self, rows: Tensor) -> StaticCache:
        """A cache of these rows, in this order; a row may be taken more than once."""
        return StaticCache([k[rows] for k in self.keys], [v[rows] for v in self.values])

    def layout(self, positions_BT: Tensor) -> CachedLayout:
        """A forward pass of tokens at these absolute positions."""
        keys_1S = torch.arange(self.length, device=positions_BT.device)[None]
        # padding sees the first position: of nothing at all there is no mean
        seen = masks.causal(positions_BT.clamp(min=0), keys_1S)
        return CachedLayout(positions_BT, seen, causal=False, cache=self, keys_1S=keys_1S)


@dataclass
class CachedLayout(Layout):
    """A forward pass whose keys and values go into a `StaticCache` and are read from it."""

    cache: StaticCache = field(kw_only=True)
    keys_1S: Tensor = field(kw_only=True)

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        window: int | None = None,
        slopes_H: Tensor | None = None,
    ) -> Tensor:
        """See `Layout.attend`."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        rows = torch.arange(k_BGTK.shape[0], device=k_BGTK.device)[:, None]
        places_BT = self.positions_BT + 1
        keys[rows, :, places_BT] = k_BGTK.transpose(1, 2).to(keys.dtype)
        values[rows, :, places_BT] = v_BGTK.transpose(1, 2).to(values.dtype)
        k, v = keys[:, :, 1:].to(q_BHTK.dtype), values[:, :, 1:].to(q_BHTK.dtype)
        mask, _ = self.mask(self.keys_1S, self.seen, window, slopes_H)
        return attend(q_BHTK, k, v, mask, causal=False)
