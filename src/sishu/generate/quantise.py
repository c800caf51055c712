"""A decoder made ready for generating: matrices joined that read the same input, and weights in bfloat16, 8
or 4 bits.

To write one token every weight is read once, so the time it takes is that of reading them: half the bytes,
twice the tokens. The stream stays in float32; matrices multiply in bfloat16 where their weights are smaller.
Where there is compiled code, it does the same without the interpreter (`sishu.generate.native_step`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.models.decoder import Block, Decoder
from sishu.native import decode
from sishu.native.build import library
from sishu.nn.attention import Attention
from sishu.nn.experts import MixtureOfExperts
from sishu.nn.layout import Layout
from sishu.nn.mlp import SwiGLU
from sishu.nn.rotary import rotate

Weights = Literal["fp32", "bf16", "int8", "int4"]

GROUP = 32
"""Inputs that share a scale in 4 bits."""
FEW_ROWS = 8
"""Rows up to which 8-bit weights are multiplied as they are; for more, a bfloat16 copy is faster."""


class ReadyLinear(nn.Module):
    """A matrix (outputs, inputs) that is ready to be multiplied with: (…, I) -> (…, O)."""

    kind: Weights
    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight_OI: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.outputs, self.inputs = weight_OI.shape
        self.register_buffer("bias", bias)
        self.store(weight_OI)

    def store(self, weight_OI: Tensor) -> None:
        """Keep the weights, each kind in its own way."""
        raise NotImplementedError

    def product(self, rows_NI: Tensor) -> Tensor:
        """Rows times the matrix, (N, O), in whatever type that gives."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x.reshape(-1, x.shape[-1])).to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class Fp32Linear(ReadyLinear):
    """A matrix in float32."""

    kind = "fp32"

    def store(self, weight_OI: Tensor) -> None:
        """See `ReadyLinear.store`."""
        self.register_buffer("weight", weight_OI.float())

    def product(self, rows_NI: Tensor) -> Tensor:
        """See `ReadyLinear.product`."""
        return F.linear(rows_NI, self.weight)


class Bf16Linear(ReadyLinear):
    """A matrix in bfloat16."""

    kind = "bf16"

    def store(self, weight_OI: Tensor) -> None:
        """See `ReadyLinear.store`."""
        self.register_buffer("weight", weight_OI.to(torch.bfloat16))

    def product(self, rows_NI: Tensor) -> Tensor:
        """See `ReadyLinear.product`."""
        return F.linear(rows_NI.to(torch.bfloat16), self.weight)


class Int8Linear(ReadyLinear):
    """A matrix in 8 bits with a scale for each output."""

    kind = "int8"
    scale: Tensor

    def store(self, weight_OI: Tensor) -> None:
        """See `ReadyLinear.store`."""
        # the scale that is stored is the one rounded with, so that its own rounding costs nothing
        scale_O = (weight_OI.float().abs().amax(1) / 127).clamp(min=1e-12).to(torch.bfloat16)
        codes_OI = (weight_OI.float() / scale_O.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("weight", codes_OI.to(torch.int8))
        self.register_buffer("scale", scale_O)

    def product(self, rows_NI: Tensor) -> Tensor:
        """See `ReadyLinear.product`."""
        rows_NI = rows_NI.to(torch.bfloat16)
        if len(rows_NI) <= FEW_ROWS and rows_NI.device.type == "cpu":
            return cast(Tensor, torch.ops.aten._weight_int8pack_mm(rows_NI, self.weight, self.scale))
        return F.linear(rows_NI, self.weight.to(torch.bfloat16)) * self.scale


class Int4Linear(ReadyLinear):
    """A matrix in 4 bits, with a scale and a lowest value for each group of 32 inputs."""

    kind = "int4"
    scale: Tensor

    def store(self, weight_OI: Tensor) -> None:
        """See `ReadyLinear.store`."""
        groups_OGg = weight_OI.float().view(len(weight_OI), -1, GROUP)
        low_OG = groups_OGg.amin(2).to(torch.bfloat16)
        scale_OG = (groups_OGg.amax(2) - low_OG.float()) / 15
        scale_OG = scale_OG.clamp(min=1e-8).to(torch.bfloat16)
        codes_OGg = (groups_OGg - low_OG.float()[..., None]) / scale_OG.float()[..., None]
        codes_OGg = codes_OGg.round().clamp(0, 15).to(torch.uint8)
        self.for_torch = weight_OI.device.type == "cpu" and library() is None
        if self.for_torch:  # in the order of its own kernel, which counts from the middle
            codes_OI = codes_OGg.flatten(1).int()
            self.register_buffer("weight", torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_OI, 1))
            both = torch.stack((scale_OG, low_OG + 8 * scale_OG), 2)
            self.register_buffer("scale", both.transpose(0, 1).contiguous())
        else:
            half = GROUP // 2
            self.register_buffer("weight", codes_OGg[..., :half] | codes_OGg[..., half:] << 4)
            self.register_buffer("scale", torch.stack((scale_OG, low_OG), 2))

    def product(self, rows_NI: Tensor) -> Tensor:
        """See `ReadyLinear.product`."""
        rows_NI, weight, scale = rows_NI.to(torch.bfloat16), self.weight, self.scale
        if self.for_torch:
            return cast(Tensor, torch.ops.aten._weight_int4pack_mm_for_cpu(rows_NI, weight, GROUP, scale))
        if weight.device.type == "cpu":
            return F.linear(rows_NI, decode.unpacked(weight, scale))
        codes_OGg = torch.cat((weight & 15, weight >> 4), dim=2).to(torch.bfloat16)
        return F.linear(rows_NI, (codes_OGg * scale[..., :1] + scale[..., 1:]).flatten(1))


Make = Callable[[Tensor, Tensor | None], nn.Module]


def _maker(kind: Weights) -> Make:
    def make(weight_OI: Tensor, bias: Tensor | None) -> nn.Module:
        outputs, inputs = weight_OI.shape
        if kind == "fp32":
            return Fp32Linear(weight_OI, bias)
        # what the kernels for small weights cannot cut evenly stays larger
        if kind == "bf16" or outputs % 16 or inputs % 16:
            return Bf16Linear(weight_OI, bias)
        if kind == "int8" or inputs % GROUP or outputs % 64:
            return Int8Linear(weight_OI, bias)
        return Int4Linear(weight_OI, bias)

    return make


class JoinedAttention(nn.Module):
    """An `Attention` whose queries, keys and values come of one product, and are turned together."""

    def __init__(self, a: Attention, make: Make) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.window = a.heads, a.kv_heads, a.head_width, a.window
        parts = (a.query, a.key, a.value)
        bias = torch.cat([p.bias for p in parts]) if a.query.bias is not None else None
        self.joined = make(torch.cat([p.weight for p in parts]), bias)
        self.output = make(a.output.weight, a.output.bias)
        self.query_norm, self.key_norm, self.slopes_H = a.query_norm, a.key_norm, a.slopes_H

    def forward(
        self, x_BTD: Tensor, layer: int, layout: Layout, rotary: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """See `Attention.forward`."""
        B, T, _ = x_BTD.shape
        H, G = self.heads, self.kv_heads
        heads = self.joined(x_BTD).view(B, T, H + 2 * G, self.head_width).transpose(1, 2)
        both, v = heads[:, : H + G], heads[:, H + G :]
        if self.query_norm is not None and self.key_norm is not None:
            both = torch.cat((self.query_norm(both[:, :H]), self.key_norm(both[:, H:])), dim=1)
        if rotary is not None:
            both = rotate(both, *rotary)
        y_BHTK = layout.attend(layer, both[:, :H], both[:, H:], v, self.window, self.slopes_H)
        return cast(Tensor, self.output(y_BHTK.transpose(1, 2).reshape(B, T, -1)))


class JoinedSwiGLU(nn.Module):
    """A `SwiGLU` whose two inner matrices are one."""

    def __init__(self, joined: nn.Module, down: nn.Module, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.joined, self.down, self.act = joined, down, act

    @classmethod
    def of(cls, m: SwiGLU, make: Make) -> JoinedSwiGLU:
        """The same network."""
        bias = torch.cat((m.gate.bias, m.up.bias)) if m.gate.bias is not None else None
        joined = make(torch.cat((m.gate.weight, m.up.weight)), bias)
        return cls(joined, make(m.down.weight, m.down.bias), m.act)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.joined(x_BTD).chunk(2, dim=-1)
        return cast(Tensor, self.down(self.act(gate) * up))


class JoinedExperts(MixtureOfExperts):
    """A `MixtureOfExperts`, each of which is a `JoinedSwiGLU`."""

    def __init__(self, m: MixtureOfExperts, make: Make) -> None:
        nn.Module.__init__(self)
        self.chosen, self.normalised, self.act, self.router = m.chosen, m.normalised, m.act, m.router
        self.experts = nn.ModuleList(
            JoinedSwiGLU(make(torch.cat((gate, up)), None), make(down, None), m.act)
            for gate, up, down in zip(m.gate, m.up, m.down, strict=True)
        )

    def expert(self, number: int, x_ND: Tensor) -> Tensor:
        """See `MixtureOfExperts.expert`."""
        return cast(Tensor, self.experts[number](x_ND))


class Table(nn.Module):
    """Embeddings stored in bfloat16 that are read in float32."""

    def __init__(self, weight_VD: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight_VD.to(torch.bfloat16))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, cast(Tensor, self.weight)).float()


@torch.no_grad()
def ready(model: Decoder, weights: Weights = "fp32") -> Decoder:
    """Make a decoder ready for generating, in place: it cannot be trained or saved any more.

    In `fp32` the numbers are those of the model as it was, up to
    rounding.
    """
    make = _maker(weights)
    # the head before the blocks: it reads the table that is replaced
    table = model.embedding.weight if model.head is None else model.head.weight
    if weights != "fp32":
        model.head = cast(nn.Linear, make(table, None))
        model.embedding = cast(nn.Embedding, Table(model.embedding.weight))
    for block in cast(list[Block], list(model.blocks)):
        block.attention = cast(Attention, JoinedAttention(block.attention, make))
        if isinstance(block.mlp, SwiGLU):
            block.mlp = JoinedSwiGLU.of(block.mlp, make)
        elif isinstance(block.mlp, MixtureOfExperts):
            block.mlp = JoinedExperts(block.mlp, make)
        else:
            for name, child in list(block.mlp.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(block.mlp, name, make(child.weight, child.bias))
    for parameter in model.parameters():  # norms and routers, whatever they were stored as
        parameter.data = parameter.data.float()
    return model.eval()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of weights that are read to write one token: all but the table of tokens, of which one row is
    read, unless the head shares it."""
    all_bytes = {id(t): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    if isinstance(model, Decoder) and model.head is not None:
        all_bytes.pop(id(model.embedding.weight), None)
    return sum(all_bytes.values())
