"""The encoder: every token sees every other (Devlin et al. 2019, arXiv:1810.04805), with a head that guesses
masked tokens where it has one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.nn.attention import Attention
from sishu.nn.embedding import embedding
from sishu.nn.layout import Layout
from sishu.nn.mlp import MLP, Activation, activation


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder; every size in units of elements. The defaults are BERT's."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    context_length: int
    """Tokens that it reads at once."""
    types: int = 2
    """Kinds of segments that a token may belong to."""
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    family: str = "bert"
    pad: int = 0
    first_position: int = 0
    """Row of the table of positions that the first token takes (RoBERTa: 2)."""
    pooled: bool = True
    """Whether there is a layer over the first token's state."""
    masked_head: bool = False
    """Whether there is a head that guesses masked tokens."""
    tied: bool = True

    def __post_init__(self) -> None:
        for one in fields(self):
            size = getattr(self, one.name)
            may_be_zero = one.name in ("pad", "first_position")
            if isinstance(size, bool) or not isinstance(size, (int, float)):
                continue
            if size < 0 or (size == 0 and not may_be_zero):
                raise ValueError(f"{one.name} must be positive, not {size}")
        if self.pad >= self.vocabulary:
            raise ValueError(f"pad ({self.pad}) must be one of the {self.vocabulary} tokens")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")


class EncoderBlock(nn.Module):
    """Attention, then the network, each added to the stream and normalised afterwards (post-norm)."""

    def __init__(self, c: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        head_width = c.width // c.heads
        self.attention = Attention(c.width, c.heads, c.heads, head_width, bias=True, output_bias=True)
        self.attention_norm = nn.LayerNorm(c.width, c.norm_eps)
        self.mlp = MLP(c.width, c.hidden, c.activation)
        self.mlp_norm = nn.LayerNorm(c.width, c.norm_eps)

    def forward(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, self.layer, layout))
        return cast(Tensor, self.mlp_norm(x_BTD + self.mlp(x_BTD)))


class MaskedHead(nn.Module):
    """States (…, D) -> logits (…, V) by one more layer and the table of tokens."""

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(c.width, c.width)
        self.act = activation(c.activation)
        self.norm = nn.LayerNorm(c.width, c.norm_eps)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary))
        self.table = None if c.tied else nn.Linear(c.width, c.vocabulary, bias=False)

    def forward(self, x: Tensor, embedding: nn.Embedding) -> Tensor:
        table = embedding.weight if self.table is None else self.table.weight
        return F.linear(self.norm(self.act(self.dense(x))), table, self.bias)


class Encoder(nn.Module):
    """Token ids (B, T) -> states (B, T, D)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = embedding(c.vocabulary, c.width)
        self.position_embedding = embedding(c.context_length + c.first_position, c.width)
        self.type_embedding = embedding(c.types, c.width)
        self.embedding_norm = nn.LayerNorm(c.width, c.norm_eps)
        self.blocks = nn.ModuleList(EncoderBlock(c, layer) for layer in range(c.layers))
        self.pooler = nn.Linear(c.width, c.width) if c.pooled else None
        self.head = MaskedHead(c) if c.masked_head else None

    def forward(
        self, ids_BT: Tensor, present_BT: Tensor | None = None, types_BT: Tensor | None = None
    ) -> Tensor:
        """`present_BT` is false where there is padding, on whichever side; `types_BT` numbers segments."""
        layout = Layout.plain(ids_BT.shape[1], ids_BT.device)
        layout.causal = False
        if present_BT is not None and not bool(present_BT.all()):
            layout = Layout.padded(present_BT, causal=False)
        if ids_BT.shape[1] > self.config.context_length:
            raise ValueError(f"{ids_BT.shape[1]} tokens exceed the context of {self.config.context_length}")
        types_BT = torch.zeros_like(ids_BT) if types_BT is None else types_BT
        places_BT = layout.positions_BT + self.config.first_position
        x_BTD = self.embedding(ids_BT) + self.type_embedding(types_BT) + self.position_embedding(places_BT)
        x_BTD = self.embedding_norm(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, layout)
        return cast(Tensor, x_BTD)

    def pool(self, x_BTD: Tensor) -> Tensor:
        """The first token's state through one more layer, (B, D); raises ValueError where there is none."""
        if self.pooler is None:
            raise ValueError("this encoder has no layer over its first token")
        return torch.tanh(self.pooler(x_BTD[:, 0]))

    def logits(self, x: Tensor) -> Tensor:
        """States (…, D) -> logits of the masked tokens (…, V); raises ValueError where there is no head."""
        if self.head is None:
            raise ValueError("this encoder has no head for masked tokens")
        return cast(Tensor, self.head(x, self.embedding))
