"""Keys and values of many texts in one pool of blocks, and attention that reads them there."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.nn.layout import Layout
from sishu.nn.masks import causal


@dataclass(frozen=True)
class Span:
    """The tokens of one text in a step: `count` new ones behind `past` that the cache holds, and the blocks
    of both."""

    past: int
    count: int
    blocks: tuple[int, ...]


class PagedCache:
    """Keys and values of all layers, (L, G, slots, K) each; a block is `block_size` neighbouring slots. One
    more block than asked for, the last one, belongs to no text."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_width: int,
        blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.block_size = block_size
        self.spare = blocks
        """The block that belongs to no text, for rows that only fill up a batch (`GraphStep`)."""
        shape = (layers, kv_heads, (blocks + 1) * block_size, head_width)
        # untouched memory costs nothing on a CPU, so the pool may be larger than what is used of it
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)

    def slots(self, span: Span) -> list[int]:
        """Where the new tokens of a text go."""
        size = self.block_size
        return [span.blocks[at // size] * size + at % size for at in range(span.past, span.past + span.count)]

    def runs(self, span: Span) -> list[tuple[int, int]]:
        """All slots of a text, its new tokens included, as few stretches from … to."""
        size, found = self.block_size, list[tuple[int, int]]()
        left = span.past + span.count
        for block in span.blocks:
            if left <= 0:
                break
            begin, end = block * size, block * size + min(size, left)
            if found and found[-1][1] == begin:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
            left -= size
        return found

    def layout(self, spans: list[Span]) -> PagedLayout:
        """A forward pass of the new tokens of several texts, one after another in one row."""
        device = self.keys.device
        positions = [at for s in spans for at in range(s.past, s.past + s.count)]
        return PagedLayout(
            torch.tensor([positions], device=device),
            causal=False,
            cache=self,
            spans=spans,
            new=torch.tensor([slot for s in spans for slot in self.slots(s)], device=device),
            stretches=[self.runs(s) for s in spans],
        )


@dataclass(kw_only=True)
class PagedLayout(Layout):
    """A forward pass over a `PagedCache`: one row (1, N) of the new tokens of several texts, each of which
    sees what the cache holds of its own text."""

    cache: PagedCache
    spans: list[Span]
    new: Tensor
    """Slots of the new tokens, (N,)."""
    stretches: list[list[tuple[int, int]]]
    """Slots of all tokens of each text."""
    _seen: dict[tuple[int, int | None], Tensor] = field(default_factory=dict, repr=False)

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        window: int | None = None,
        slopes_H: Tensor | None = None,
    ) -> Tensor:
        """See `Layout.attend`. Text by text: each reads its own stretch of the pool in place, so that no
        text is padded to the length of another."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys.index_copy_(1, self.new, k_BGTK[0].to(keys.dtype))
        values.index_copy_(1, self.new, v_BGTK[0].to(values.dtype))
        group = q_BHTK.shape[1] // k_BGTK.shape[1]
        parts, at = [], 0
        for number, (span, runs) in enumerate(zip(self.spans, self.stretches, strict=True)):
            q = q_BHTK[:, :, at : at + span.count]
            at += span.count
            k, v = _stretch(keys, runs)[None].to(q.dtype), _stretch(values, runs)[None].to(q.dtype)
            if span.count == 1 and window is None and slopes_H is None:
                # the heads of a group as queries of one head: nothing is repeated
                y = F.scaled_dot_product_attention(q.view(1, k.shape[1], group, -1), k, v)
                parts.append(y.view(1, q.shape[1], 1, -1))
            elif span.past == 0 and window is None and slopes_H is None:
                parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=group > 1))
            else:
                mask = self._mask(number, window, slopes_H)
                parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=group > 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _mask(self, number: int, window: int | None, slopes_H: Tensor | None) -> Tensor:
        """What the new tokens of one text see of it, (1, 1 or H, T, S); made once for all layers."""
        if (number, window) not in self._seen:
            span, device = self.spans[number], self.new.device
            queries = torch.arange(span.past, span.past + span.count, device=device)[None]
            keys = torch.arange(span.past + span.count, device=device)[None]
            one = Layout(queries, causal(queries, keys), causal=False)
            mask, _ = one.mask(keys, one.seen, window, slopes_H)
            assert mask is not None
            self._seen[number, window] = mask
        return self._seen[number, window]


def _stretch(pool_GSK: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    """The slots of one text: a view where they are neighbours, else a copy."""
    parts = [pool_GSK[:, begin:end] for begin, end in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
