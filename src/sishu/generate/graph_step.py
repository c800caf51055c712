"""The next token of every text at once, in tensors of a few fixed shapes, so that a GPU can record and repeat
the step as one CUDA graph.

A decoding step is many short kernels, which Python would start one by one, and attention text by text
(`PagedLayout`) adds some for every text and layer. Here texts are the rows of a batch that is padded to a
power of two, and what each has read is gathered from its blocks to a length that is padded to a power of two
as well. The first step of each shape is recorded; later ones repeat the recording with new inputs.

Memory. Of one layer at a time, 2·B·G·S·K numbers are gathered (keys and values of B rows, G heads, S
positions of width K): at most `MOST_GATHERED` bytes, or the step is left to the other way. All recordings
share one pool of memory, which grows to what the largest needs, and one tensor of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.console import warn
from sishu.generate.paged_cache import PagedCache, Span
from sishu.models.decoder import Decoder
from sishu.models.decoder_config import DecoderConfig
from sishu.nn.layout import Layout

MOST_ROWS = 64
"""Texts that a step takes at most."""
FEWEST_POSITIONS = 128
"""Positions that are gathered of each text at least, so that short texts do not make many shapes."""
MOST_GATHERED = 1 << 29
"""Bytes of keys and values that are gathered at once at most (512 MiB): 64 texts of 8,192 positions of
SmolLM2-135M in bfloat16 take 384 MiB."""
WARMING = 2
"""Runs before recording, in which libraries choose their kernels and take their memory."""


def knows(c: DecoderConfig) -> bool:
    """Whether a decoder of this shape can be run with fixed shapes: the experts that work, and the angles of
    `dynamic` scaling, depend on the numbers; ALiBi's distances are left to the other way too."""
    scaled = c.rope_scaling is not None and c.rope_scaling.kind == "dynamic"
    return c.experts is None and c.positions != "alibi" and not scaled


@dataclass(kw_only=True)
class FixedLayout(Layout):
    """A forward pass of one token of each of B texts, (B, 1), over a `PagedCache`."""

    cache: PagedCache
    table_BN: Tensor
    """The blocks of each text, the last ones perhaps none of its own."""
    new_B: Tensor
    """Slots of the new tokens."""
    keys_1S: Tensor
    """Positions 0 to S - 1 of what is gathered, S = N · block size."""
    _added: dict[int | None, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cache: PagedCache, positions_B1: Tensor, table_BN: Tensor) -> FixedLayout:
        """Tokens at these positions of texts whose keys and values lie, and will lie, in these blocks."""
        size = cache.block_size
        block_B1 = table_BN.gather(1, positions_B1 // size)
        return cls(
            positions_B1,
            causal=False,
            cache=cache,
            table_BN=table_BN,
            new_B=(block_B1 * size + positions_B1 % size)[:, 0],
            keys_1S=torch.arange(table_BN.shape[1] * size, device=table_BN.device)[None],
        )

    def attend(
        self,
        layer: int,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        window: int | None = None,
        slopes_H: Tensor | None = None,
    ) -> Tensor:
        """See `Layout.attend`. The heads of a group are queries of one head, so that nothing is repeated."""
        B, H, _, K = q_BHTK.shape
        G = k_BGTK.shape[1]
        k_BGSK = self._taken_in(self.cache.keys[layer], k_BGTK).to(q_BHTK.dtype)
        v_BGSK = self._taken_in(self.cache.values[layer], v_BGTK).to(q_BHTK.dtype)
        q_BGgK = q_BHTK.reshape(B, G, H // G, K)
        mask = self._unseen(window, q_BHTK.dtype).expand(B, G, H // G, -1)
        y_BGgK = F.scaled_dot_product_attention(q_BGgK, k_BGSK, v_BGSK, attn_mask=mask)
        return y_BGgK.reshape(B, H, 1, K)

    def _taken_in(self, pool_GSK: Tensor, new_BGTK: Tensor) -> Tensor:
        """Write new keys or values (B, G, 1, K) into one layer's pool; all of these texts, (B, G, S, K)."""
        pool_GSK.index_copy_(1, self.new_B, new_BGTK[:, :, 0].transpose(0, 1).to(pool_GSK.dtype))
        (G, _, K), (B, _) = pool_GSK.shape, self.table_BN.shape
        blocks = pool_GSK.view(G, -1, self.cache.block_size * K).index_select(1, self.table_BN.flatten())
        return blocks.view(G, B, -1, K).transpose(0, 1)

    def _unseen(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """What is added to the scores, (B, 1, 1, S): 0 where a key is seen, else -inf; made once for all
        layers with this window."""
        if window not in self._added:
            seen = self.keys_1S <= self.positions_BT
            if window is not None:
                seen = seen & (self.positions_BT - self.keys_1S < window)
            added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._added[window] = added.masked_fill(~seen, -torch.inf)[:, None, None]
        return self._added[window]


class _Recording:
    """A step of one shape as a CUDA graph, with the tensors it reads and writes."""

    def __init__(self, step: GraphStep, inputs: Tensor) -> None:
        """`inputs` (B, 2 + N) are read at each repetition. Running them more than once does no harm: each
        run writes the same keys and values to the same places."""
        self.inputs, self.graph = inputs, torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch gives it no types
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMING):
                logits_BV = step.run(inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.logits_BV = step.room(logits_BV)
        with torch.cuda.graph(self.graph, pool=step.pool):
            self.logits_BV.copy_(step.run(inputs))

    def __call__(self, inputs: Tensor) -> Tensor:
        self.inputs.copy_(inputs)
        self.graph.replay()
        return self.logits_BV


class GraphStep:
    """Runs one new token of each of a few texts through a decoder and its cache: on a GPU as a recording, on
    a CPU, for tests, the same operations as they are."""

    @classmethod
    def of(cls, model: Decoder, cache: PagedCache) -> GraphStep | None:
        """None for a decoder that has parts which cannot be recorded, or is not on an NVIDIA GPU."""
        return cls(model, cache) if cache.keys.device.type == "cuda" and knows(model.config) else None

    def __init__(self, model: Decoder, cache: PagedCache) -> None:
        """Sets the whole cache to 0: what is not seen is gathered too and counts 0 times, so it must be a
        number. What texts that are gone have left there is one, unless the model gave them none."""
        self.model, self.cache = model, cache
        self.device = cache.keys.device
        cache.keys.zero_()
        cache.values.zero_()
        self.recording = self.device.type == "cuda"
        """Whether steps are recorded; no longer when that has failed once."""
        self.recordings: dict[tuple[int, int], _Recording] = {}
        """By rows and blocks."""
        self.steps = 0
        """How many steps have been run this way."""
        self.pool = torch.cuda.graph_pool_handle() if self.recording else None
        self._room: Tensor | None = None

    def shape(self, spans: Sequence[Span]) -> tuple[int, int] | None:
        """Rows, and blocks of each, to which these texts are padded; None where some text has more than one
        new token, or there are too many texts, or too long ones."""
        if not 0 < len(spans) <= MOST_ROWS or any(span.count != 1 for span in spans):
            return None
        c, size = self.model.config, self.cache.block_size
        longest = max(FEWEST_POSITIONS, *(span.past + 1 for span in spans))
        rows, blocks = _power_of_two(len(spans)), -(-_power_of_two(longest) // size)
        gathered = 2 * rows * c.kv_heads * blocks * size * c.head_width * self.cache.keys.itemsize
        return (rows, blocks) if gathered <= MOST_GATHERED else None

    def __call__(self, ids: Sequence[int], spans: Sequence[Span], shape: tuple[int, int]) -> Tensor:
        """Take one new token of each text into the cache; logits (B, V) of what follows them, which the next
        call overwrites. `shape` is what `shape` says of the spans."""
        inputs = self._inputs(ids, spans, shape)
        self.steps += 1
        if not self.recording:
            return self.run(inputs.to(self.device))[: len(spans)]
        if shape not in self.recordings:
            try:
                self.recordings[shape] = _Recording(self, inputs.to(self.device))
            except RuntimeError as error:
                self.recording = False
                self.recordings.clear()
                reason = str(error).partition("\n")[0]
                warn(f"Steps cannot be recorded as CUDA graphs ({reason}) and are run kernel by kernel.")
                return self.run(inputs.to(self.device))[: len(spans)]
        return self.recordings[shape](inputs)[: len(spans)]

    def run(self, inputs: Tensor) -> Tensor:
        """The step itself, which does nothing that depends on numbers but by operations on the device. Rows
        of `inputs` (B, 2 + N) are a token, its position, and the text's blocks; logits are (B, V)."""
        layout = FixedLayout.of(self.cache, inputs[:, 1:2], inputs[:, 2:])
        return self.model.logits(self.model.hidden(inputs[:, :1], layout)[:, 0])

    def room(self, logits_BV: Tensor) -> Tensor:
        """Where the logits of recordings of this many rows are left."""
        if self._room is None:
            self._room = logits_BV.new_empty(MOST_ROWS, logits_BV.shape[1])
        return self._room[: len(logits_BV)]

    def _inputs(self, ids: Sequence[int], spans: Sequence[Span], shape: tuple[int, int]) -> Tensor:
        """See `run`. Rows that stand for no text are token 0 at the first position of the cache's spare
        block, which no text owns; it also stands for blocks that a text has not."""
        (rows, blocks), spare = shape, self.cache.spare
        table = []
        for token, span in zip(ids, spans, strict=True):
            own = span.blocks[:blocks]
            table.append([token, span.past, *own, *[spare] * (blocks - len(own))])
        table += [[0, 0, *[spare] * blocks] for _ in range(rows - len(table))]
        return torch.tensor(table)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is no less than a number, from 1."""
    return 1 << (number - 1).bit_length()
