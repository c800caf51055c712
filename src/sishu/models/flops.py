"""Floating-point operations of a decoder's passes.

A forward pass takes 2 per weight and token for the matrix products, the output head among the weights (the
embedding is a look-up), and 4·L·H·K·T per token for the attention, of whose T×T square the causal half counts
too; a backward pass takes twice as much. So training takes 6·N + 12·L·H·K·T a token (Kaplan et al. 2020,
arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, app. B). Left out: norms, softmax and
the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from sishu.models.decoder_config import DecoderConfig


@dataclass(frozen=True)
class Flops:
    """Floating-point operations."""

    products: float = 0.0
    attention: float = 0.0
    optimizer: float = 0.0
    generation: float = 0.0
    """Answers drawn token by token: bound by memory traffic and overhead, so timed apart."""
    recomputed: float = 0.0
    """Done twice to save memory (activation checkpointing)."""

    @property
    def total(self) -> float:
        return self.products + self.attention + self.optimizer + self.generation + self.recomputed

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> Flops:
        return Flops(*(getattr(self, f.name) * factor for f in fields(self)))


def forward(c: DecoderConfig, tokens: float, length: float, head_tokens: float) -> Flops:
    """A forward pass over `tokens` in rows of `length`, with logits for `head_tokens` of them. Of experts
    those count that work on a token."""
    e = c.experts
    working = c if e is None else replace(c, experts=replace(e, count=e.chosen))
    body, head = working.parameters(embedding=False), c.vocabulary * c.width
    attention = 4 * c.layers * c.heads * c.head_width * length * tokens
    return Flops(2 * (body * tokens + head * head_tokens), attention)
