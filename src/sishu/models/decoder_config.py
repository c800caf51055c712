"""The shape of a decoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sishu.nn.mlp import Activation
from sishu.nn.norm import Norm
from sishu.nn.rotary import RopeScaling

Positions = Literal["rotary", "learned", "sinusoidal", "alibi"]


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the network of some blocks."""

    count: int
    chosen: int
    """Experts that work on one token."""
    hidden: int
    """Size inside one expert."""
    normalised: bool = True
    """Whether the shares of a token's experts sum to 1."""
    layers: tuple[int, ...] | None = None
    """Blocks, from 0, that have experts; None: all."""

    def at(self, layer: int) -> bool:
        """Whether this block has experts."""
        return self.layers is None or layer in self.layers


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; every size in units of elements. The defaults are Qwen3's shape."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    context_length: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tied: bool = True
    family: str = "qwen3"
    """Whose names and files it is written with (`sishu.models.families`)."""
    norm: Norm = "rms"
    positions: Positions = "rotary"
    rope_scaling: RopeScaling | None = None
    qk_norm: bool = True
    attention_bias: bool = False
    """Whether queries, keys and values have one."""
    output_bias: bool = False
    gated: bool = True
    activation: Activation = "silu"
    mlp_bias: bool = False
    window: int | None = None
    """Positions that a layer sees, its own included; None: all."""
    window_layers: tuple[int, ...] | None = None
    """Layers, from 0, that have the window; None: all."""
    experts: Experts | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            size = getattr(self, one.name)
            if isinstance(size, (int, float)) and not isinstance(size, bool) and size <= 0:
                raise ValueError(f"{one.name} must be positive, not {size}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_width % 2 and self.positions == "rotary":
            raise ValueError(f"head_width ({self.head_width}) must be even for rotary positions")
        if (s := self.rope_scaling) is not None:
            if self.rope_theta <= 1:
                raise ValueError(f"rope_theta ({self.rope_theta}) must be more than 1 for rope scaling")
            if s.kind in ("ntk", "dynamic") and self.head_width <= 2:
                raise ValueError(f"head_width ({self.head_width}) must be more than 2 for a larger base")
        e = self.experts
        if e is not None and (not 0 < e.chosen <= e.count or e.hidden <= 0):
            raise ValueError(
                f"experts: {e.chosen} of {e.count} of size {e.hidden} cannot be chosen for a token"
            )
        for name, some in (("window_layers", self.window_layers), ("experts", e.layers if e else None)):
            if some is not None and not all(0 <= layer < self.layers for layer in some):
                raise ValueError(f"{name} names blocks {some} of {self.layers}")

    @property
    def networks(self) -> int:
        """How many position-wise networks the blocks have, every expert counted."""
        e = self.experts
        if e is None:
            return self.layers
        sparse = self.layers if e.layers is None else len(e.layers)
        return self.layers + sparse * (e.count - 1)

    def window_of(self, layer: int) -> int | None:
        """The sliding window of a layer, if it has one."""
        return self.window if self.window_layers is None or layer in self.window_layers else None

    def parameters(self, embedding: bool = True) -> int:
        """How many weights the decoder has, with or without its tables (tokens, positions, untied head)."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        norm = self.width * (1 if self.norm == "rms" else 2)
        attention = 2 * self.width * (queries + keys) + 2 * self.head_width * self.qk_norm
        attention += (queries + 2 * keys) * self.attention_bias + self.width * self.output_bias
        inner = 2 if self.gated else 1
        dense = (inner + 1) * self.width * self.hidden
        dense += (inner * self.hidden + self.width) * self.mlp_bias
        blocks = self.layers * (attention + 2 * norm + dense)
        if (e := self.experts) is not None:
            sparse = self.width * e.count + 3 * e.count * self.width * e.hidden
            blocks += sum(map(e.at, range(self.layers))) * (sparse - dense)
        tables = self.vocabulary * self.width * (1 if self.tied else 2)
        tables += self.context_length * self.width * (self.positions == "learned")
        return blocks + norm + (tables if embedding else 0)
