"""The decoder: a causal Transformer of the Qwen3 shape, and the same trunk with one number per token."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.nn.attention import Attention, LayerCache
from sishu.nn.mlp import SwiGLU
from sishu.nn.norm import RMSNorm
from sishu.nn.rotary import rotary_table


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; every size in units of elements."""

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

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size is not self.tied and size <= 0:
                raise ValueError(f"{name} must be positive, not {size}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_width % 2:
            raise ValueError(f"head_width ({self.head_width}) must be even for rotary positions")

    def parameters(self, embedding: bool = True) -> int:
        """How many weights the decoder has, with or without its token embedding (and untied head)."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        block = attention + 3 * self.width * self.hidden + 2 * self.width + 2 * self.head_width
        tables = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * block + self.width + (tables if embedding else 0)


class Block(nn.Module):
    """Attention, then the network, each on a normalised input and added to the stream (pre-norm)."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(c.width, c.norm_eps)
        self.attention = Attention(c.width, c.heads, c.kv_heads, c.head_width, c.norm_eps)
        self.mlp_norm = RMSNorm(c.width, c.norm_eps)
        self.mlp = SwiGLU(c.width, c.hidden)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        positions_BT: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary, positions_BT, cache)
        return cast(Tensor, x_BTD + self.mlp(self.mlp_norm(x_BTD)))


class Decoder(nn.Module):
    """Token ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)
        cos, sin = rotary_table(config.context_length, config.head_width, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights: matrices uniform with variance 1/fan_in, those that write to the stream zero,
        so that every block starts as the identity; the embedding small because the head shares it."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0)
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                weight.zero_()
            elif name == "embedding.weight":
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
            else:
                bound = math.sqrt(3 / weight.shape[1])
                weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)

    def hidden(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
        """Normalised last states (B, T, D). Positions are absolute, 0 to T - 1 when not given; with a
        cache they must be given (see `Attention`)."""
        cos, sin = cast(Tensor, self.cos), cast(Tensor, self.sin)
        if positions_BT is None:
            rotary = cos[None, : ids_BT.shape[1]], sin[None, : ids_BT.shape[1]]
        else:
            rotary = cos[positions_BT], sin[positions_BT]
        x_BTD = self.embedding(ids_BT)
        for i, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, rotary, positions_BT, cache[i] if cache else None)
        return cast(Tensor, self.norm(x_BTD))

    def logits(self, x_BTD: Tensor) -> Tensor:
        """States (…, D) -> logits (…, V)."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(x_BTD, weight)

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
        return self.logits(self.hidden(ids_BT, positions_BT, cache))

    def new_cache(self, batch: int, length: int) -> list[LayerCache]:
        """An empty cache for `batch` rows of up to `length` positions, on the model's device."""
        c = self.config
        shape = (batch, c.kv_heads, length, c.head_width)
        device = self.embedding.weight.device
        return [
            LayerCache(torch.zeros(shape, device=device), torch.zeros(shape, device=device))
            for _ in range(c.layers)
        ]


class Scorer(nn.Module):
    """A decoder's trunk with one number per token: a reward model reads the last, a value model all."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Decoder(config)
        self.score = nn.Linear(config.width, 1, bias=False)

    @torch.no_grad()
    def start_from(self, decoder: Decoder, seed: int) -> None:
        """Take the decoder's weights; the new head is N(0, 1/√(D + 1)) (Stiennon et al. 2020)."""
        self.trunk.load_state_dict(decoder.state_dict())
        generator = torch.Generator().manual_seed(seed)
        shape, deviation = self.score.weight.shape, (self.config.width + 1) ** -0.5
        self.score.weight.copy_(torch.randn(shape, generator=generator) * deviation)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids (B, T), padded on the right -> scores (B, T) in float32."""
        return cast(Tensor, self.score(self.trunk.hidden(ids_BT)).float().squeeze(-1))
