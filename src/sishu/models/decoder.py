"""The decoder: a causal Transformer, whose shape says which family it is of, and the same trunk with one
number per token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.models.decoder_config import DecoderConfig, Experts
from sishu.nn.attention import Attention
from sishu.nn.cache import StaticCache
from sishu.nn.embedding import embedding
from sishu.nn.experts import MixtureOfExperts
from sishu.nn.layout import Layout
from sishu.nn.mlp import MLP, SwiGLU
from sishu.nn.norm import norm
from sishu.nn.positions import sinusoids
from sishu.nn.rotary import rotary_angles, rotary_frequencies

__all__ = ["Decoder", "DecoderConfig", "Experts", "Scorer"]


class Block(nn.Module):
    """Attention, then the network, each on a normalised input and added to the stream (pre-norm)."""

    def __init__(self, c: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = norm(c.norm, c.width, c.norm_eps)
        self.attention = Attention(
            c.width,
            c.heads,
            c.kv_heads,
            c.head_width,
            c.norm_eps,
            qk_norm=c.qk_norm,
            bias=c.attention_bias,
            output_bias=c.output_bias,
            window=c.window_of(layer),
            alibi=c.positions == "alibi",
        )
        self.mlp_norm = norm(c.norm, c.width, c.norm_eps)
        self.mlp: nn.Module
        if (e := c.experts) is not None and e.at(layer):
            self.mlp = MixtureOfExperts(c.width, e.hidden, e.count, e.chosen, e.normalised, c.activation)
        elif c.gated:
            self.mlp = SwiGLU(c.width, c.hidden, c.activation, c.mlp_bias)
        else:
            self.mlp = MLP(c.width, c.hidden, c.activation, c.mlp_bias)

    def forward(self, x_BTD: Tensor, layout: Layout, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), self.layer, layout, rotary)
        return cast(Tensor, x_BTD + self.mlp(self.mlp_norm(x_BTD)))


Through = Callable[[Block, Tensor, Layout, tuple[Tensor, Tensor] | None], Tensor]
"""How a block is worked through: (block, x_BTD, layout, rotary) -> (B, T, D)."""


def plainly(block: Block, x_BTD: Tensor, layout: Layout, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """The block, called."""
    return cast(Tensor, block(x_BTD, layout, rotary))


class Decoder(nn.Module):
    """Token ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = embedding(c.vocabulary, c.width)
        self.position_embedding = embedding(c.context_length, c.width) if c.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.layers))
        self.norm = norm(c.norm, c.width, c.norm_eps)
        self.head = None if c.tied else nn.Linear(c.width, c.vocabulary, bias=False)
        self.through: Through = plainly
        """Training has other ways (`sishu.train.blocks`)."""
        # no buffer: it stays in float32 whatever the weights are turned into
        self._frequencies = rotary_frequencies(c.head_width, c.rope_theta, c.rope_scaling)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights. Matrices uniform with variance 1/fan_in, those that write to the stream zero, so
        that every block starts as the identity; the embedding small because the head shares it. GPT-2's
        shape starts as GPT-2 did: normal with deviation 0.02, that of what writes to the stream divided by
        the root of how often that is done (Radford et al. 2019, section 2.3)."""
        generator = torch.Generator().manual_seed(seed)
        as_gpt2 = self.config.family == "gpt2"
        for name, weight in self.named_parameters():
            writes = name.endswith(("attention.output.weight", "mlp.down.weight", "mlp.down"))
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            elif "embedding" in name or as_gpt2:
                deviation = 0.02 * (2 * self.config.layers) ** -0.5 if writes else 0.02
                weight.copy_(deviation * torch.randn(weight.shape, generator=generator))
            elif writes:
                weight.zero_()
            else:
                bound = math.sqrt(3 / weight.shape[-1])
                weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)

    def rotary(self, positions_BT: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines (B, T, K/2) of these positions, where the family turns queries and keys."""
        c = self.config
        if c.positions != "rotary":
            return None
        if self._frequencies.device != positions_BT.device:
            self._frequencies = self._frequencies.to(positions_BT.device)
        frequencies, scaling = self._frequencies, c.rope_scaling
        if scaling is not None and scaling.kind == "dynamic":
            length = int(positions_BT.max()) + 1
            frequencies = rotary_frequencies(c.head_width, c.rope_theta, scaling, length).to(
                frequencies.device
            )
        return rotary_angles(positions_BT, frequencies, scaling.grown() if scaling else 1.0)

    def embed(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """What the first block reads, (B, T, D)."""
        x_BTD: Tensor = self.embedding(ids_BT)
        if self.position_embedding is not None:
            return x_BTD + cast(Tensor, self.position_embedding(positions_BT.clamp(min=0)))
        if self.config.positions == "sinusoidal":
            return x_BTD + sinusoids(positions_BT, self.config.width).to(x_BTD.dtype)
        return x_BTD

    def hidden(self, ids_BT: Tensor, layout: Layout | None = None) -> Tensor:
        """Normalised last states (B, T, D); causal over the ids, at positions 0 to T - 1, where no layout
        says otherwise."""
        c = self.config
        if layout is None:
            if ids_BT.shape[1] > c.context_length:
                raise ValueError(f"{ids_BT.shape[1]} tokens exceed the context of {c.context_length}")
            layout = Layout.plain(ids_BT.shape[1], ids_BT.device)
        x_BTD = self.embed(ids_BT, layout.positions_BT)
        rotary = self.rotary(layout.positions_BT)
        for block in self.blocks:
            x_BTD = self.through(cast(Block, block), x_BTD, layout, rotary)
        return cast(Tensor, self.norm(x_BTD))

    @property
    def head_weight(self) -> Tensor:
        """What states are multiplied with to become logits, (V, D)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def logits(self, x_BTD: Tensor) -> Tensor:
        """States (…, D) -> logits (…, V)."""
        if self.head is None:
            return F.linear(x_BTD, self.embedding.weight)
        return cast(Tensor, self.head(x_BTD))

    def forward(self, ids_BT: Tensor, layout: Layout | None = None) -> Tensor:
        return self.logits(self.hidden(ids_BT, layout))

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> StaticCache:
        """An empty cache for `batch` rows of up to `length` positions, on the model's device; in the
        precision of its weights unless another is asked for."""
        c = self.config
        if length > c.context_length:
            raise ValueError(f"a cache of {length} positions exceeds the context of {c.context_length}")
        like = self.embedding.weight
        return StaticCache.empty(
            c.layers, batch, c.kv_heads, length, c.head_width, like.device, dtype or like.dtype
        )


class Scorer(nn.Module):
    """A decoder's trunk with one number per token: a reward model reads the last, a value model all."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Decoder(replace(config, tied=True))  # which has no head of its own
        self.score = nn.Linear(config.width, 1, bias=False)

    @torch.no_grad()
    def start_from(self, decoder: Decoder, seed: int) -> None:
        """Take the decoder's weights; the new head is N(0, 1/√(D + 1)) (Stiennon et al. 2020)."""
        own = self.trunk.state_dict()
        self.trunk.load_state_dict({n: w for n, w in decoder.state_dict().items() if n in own})
        generator = torch.Generator().manual_seed(seed)
        shape, deviation = self.score.weight.shape, (self.config.width + 1) ** -0.5
        self.score.weight.copy_(torch.randn(shape, generator=generator) * deviation)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids (B, T), padded on the right -> scores (B, T) in float32."""
        return cast(Tensor, self.score(self.trunk.hidden(ids_BT)).float().squeeze(-1))
