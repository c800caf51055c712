"""One dial: the depth decides a decoder's other sizes, its learning rates, and how long it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from sishu.config import Section
from sishu.console import UserError
from sishu.models.decoder import DecoderConfig
from sishu.train.trainer import TrainSettings


class ModelSettings(Section):
    """The size of a decoder. Everything not given follows from the depth."""

    depth: int = Field(4, ge=1, le=128)
    """Blocks; the one dial."""
    width: int | None = Field(None, ge=8)
    """Size of the stream."""
    heads: int | None = Field(None, ge=1)
    """Query heads."""
    kv_heads: int | None = Field(None, ge=1)
    """Key-value heads."""
    hidden: int | None = Field(None, ge=8)
    """Size of the network inside a block."""
    context_length: int = Field(512, ge=8)
    """Tokens the model sees at once."""


@dataclass(frozen=True)
class Plan:
    """A decoder's shape and how it trains, with the reason for every derived value."""

    config: DecoderConfig
    steps: int
    learning_rate: float
    tokens: int
    reasons: list[tuple[str, str, str]]
    """(name, value, why)."""


def derive_shape(m: ModelSettings, vocabulary: int) -> tuple[DecoderConfig, list[tuple[str, str, str]]]:
    """Fill in what the settings leave open; raises UserError when what they give does not go together."""
    reasons = []
    width = m.width or 64 * m.depth
    if m.width is None:
        reasons.append(("width", str(width), "64 × depth (nanochat's ratio)"))
    head_width = 64 if width % 64 == 0 else 32
    if m.heads is None:
        heads = max(1, width // head_width)
        reasons.append(("heads", str(heads), f"width / {head_width}"))
    else:
        heads = m.heads
    head_width = max(2, width // heads // 2 * 2)
    if m.kv_heads is None:
        kv_heads = heads // 2 if heads % 2 == 0 else heads
        reasons.append(
            (
                "kv_heads",
                str(kv_heads),
                "half the heads where they pair up (grouped queries)",
            )
        )
    else:
        kv_heads = m.kv_heads
    hidden = m.hidden or max(64, -(-width * 8 // 3 // 64) * 64)
    if m.hidden is None:
        reasons.append(
            (
                "hidden",
                str(hidden),
                "8/3 × width, to a multiple of 64 (SwiGLU at equal cost)",
            )
        )
    try:
        config = DecoderConfig(
            vocabulary=vocabulary,
            width=width,
            layers=m.depth,
            heads=heads,
            kv_heads=kv_heads,
            head_width=head_width,
            hidden=hidden,
            context_length=m.context_length,
        )
    except ValueError as error:
        raise UserError(f"This shape cannot be built: {error}.") from error
    return config, reasons


def derive_plan(m: ModelSettings, t: TrainSettings, vocabulary: int, corpus_tokens: int) -> Plan:
    """Shape, learning rate and steps for a corpus of `corpus_tokens` training tokens."""
    config, reasons = derive_shape(m, vocabulary)
    per_step = t.batch * m.context_length
    learning_rate = t.learning_rate
    if learning_rate is None:
        learning_rate = 0.012 * math.sqrt(256 / config.width)
        reasons.append(("learning_rate", f"{learning_rate:.4g}", "0.012 × √(256 / width)"))
    if t.steps is not None:
        steps = t.steps
    else:
        wanted = 12 * config.parameters(embedding=False)
        ceiling = 10 * corpus_tokens
        steps = max(20, min(wanted, ceiling) // per_step)
        why = "12 per weight outside the embedding (nanochat)"
        if ceiling < wanted:
            why = "ten passes over the corpus; more would be learning by heart"
        reasons.append(("tokens", f"{steps * per_step:,}", why))
    return Plan(config, steps, learning_rate, steps * per_step, reasons)
