"""A decoder made ready for generating whose next tokens are computed by compiled code (`sishu.native`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ctypes import byref
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from sishu.generate.paged_cache import PagedCache, Span
from sishu.generate.quantise import Fp32Linear, JoinedAttention, JoinedSwiGLU, ReadyLinear, weight_bytes
from sishu.models.decoder import Block, Decoder
from sishu.native import decode
from sishu.native.build import library
from sishu.nn.mlp import MLP

FEW_ROWS = 32
"""Tokens up to which compiled code is faster than torch everywhere."""
WORTH_A_THREAD = 1 << 21
"""Bytes of weights for which another thread is worth being started."""


class NativeStep:
    """Runs the next tokens of a few texts through a decoder and its cache, both in float32 on the CPU."""

    @classmethod
    def of(cls, model: Decoder, cache: PagedCache) -> NativeStep | None:
        """None for a decoder that was not made ready, that has parts which the compiled code does not know,
        or where there is no compiled code."""
        c = model.config
        known = c.positions != "alibi" and c.experts is None and cache.keys.dtype == torch.float32
        joined = all(isinstance(cast(Block, block).attention, JoinedAttention) for block in model.blocks)
        if not (known and joined and cache.keys.device.type == "cpu") or library() is None:
            return None
        return cls(model, cache)

    def __init__(self, model: Decoder, cache: PagedCache) -> None:
        """See `of`."""
        c = model.config
        built = library()
        assert built is not None
        self._decode_step = built.decode_step
        self._cache, self._decoder = cache, model
        self._kept: list[Tensor] = []
        """What the compiled code has addresses of."""
        blocks = [self._block(cast(Block, block)) for block in model.blocks]
        self._layers = (decode.Layer * len(blocks))(*blocks)
        table = model.embedding if model.head is None else model.head
        head = table if isinstance(table, ReadyLinear) else Fp32Linear(table.weight, None)
        self._outputs = c.vocabulary
        self._together = max(1, decode.QUERIES * c.kv_heads // c.heads)
        """Neighbouring tokens of a text that are looked up together at most."""
        self.most_rows = sys.maxsize if built.many_rows() else FEW_ROWS
        """Tokens of a step up to which this is faster than torch."""
        self.threads = min(torch.get_num_threads(), 1 + weight_bytes(model) // WORTH_A_THREAD)
        self._model = decode.Model(
            len(blocks),
            *(c.width, c.heads, c.kv_heads, c.head_width, c.hidden, c.gated),
            decode.ACTIVATIONS.index(c.activation),
            self._layers,
            self._norm(model.norm),
            self._matrix(head),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            cache.keys.shape[2],
            cache.block_size,
        )

    def __call__(self, ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """Take new tokens of some texts into the cache; logits (W, V) of what follows those `wanted`."""
        positions = torch.tensor([[at for s in spans for at in range(s.past, s.past + s.count)]])
        x_ND = self._decoder.embed(torch.tensor([ids]), positions)[0].contiguous()
        rotary = self._decoder.rotary(positions)
        turns = [None, None] if rotary is None else [part.contiguous() for part in rotary]
        longest = max(len(s.blocks) for s in spans)
        blocks_TB = torch.tensor([[*s.blocks, *[0] * (longest - len(s.blocks))] for s in spans])
        text_N = torch.tensor([text for text, s in enumerate(spans) for _ in range(s.count)])
        seen_N = positions[0] + 1
        wanted_W, logits_WV = torch.tensor(wanted), torch.empty(len(wanted), self._outputs)
        begins = accumulate((s.count for s in spans), initial=0)
        groups = torch.tensor(
            [
                (begin + at, min(self._together, s.count - at))
                for s, begin in zip(spans, begins, strict=False)
                for at in range(0, s.count, self._together)
            ]
        )
        step = decode.Step(
            *(len(ids), longest, self.threads, len(wanted), len(groups), x_ND.data_ptr()),
            *(None if part is None else part.data_ptr() for part in turns),
            *(part.data_ptr() for part in (seen_N, text_N, blocks_TB, groups, wanted_W, logits_WV)),
        )
        self._decode_step(byref(self._model), byref(step))
        return logits_WV

    def _block(self, block: Block) -> decode.Layer:
        attention, mlp = cast(JoinedAttention, block.attention), block.mlp
        up = mlp.joined if isinstance(mlp, JoinedSwiGLU) else cast(MLP, mlp).up
        return decode.Layer(
            self._norm(block.attention_norm),
            self._norm(attention.query_norm),
            self._norm(attention.key_norm),
            self._norm(block.mlp_norm),
            *map(self._matrix, (attention.joined, attention.output, up, cast(nn.Module, mlp.down))),
            attention.window or 0,
        )

    def _norm(self, norm: nn.Module | None) -> decode.Norm:
        if norm is None:
            return decode.Norm(None, None, 0.0)
        weight, bias = (self._numbers(getattr(norm, name, None)) for name in ("weight", "bias"))
        return decode.Norm(weight, bias, cast(float, norm.eps))

    def _matrix(self, module: nn.Module) -> decode.Matrix:
        assert isinstance(module, ReadyLinear)
        weight, scale = module.weight, getattr(module, "scale", None)
        kind = decode.KINDS.index(module.kind)
        assert weight.dtype == decode.TYPES[kind], f"{weight.dtype} is no {module.kind}"
        parts = self._address(weight), self._address(scale), self._numbers(module.bias)
        return decode.Matrix(kind, module.outputs, module.inputs, *parts)

    def _numbers(self, tensor: object) -> int | None:
        return self._address(tensor.float() if isinstance(tensor, Tensor) else None)

    def _address(self, tensor: Tensor | None) -> int | None:
        """Where a tensor's numbers lie, row by row; they stay there as long as this object lives."""
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()
