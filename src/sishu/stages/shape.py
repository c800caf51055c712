"""The shape of a decoder, how fast it learns and how long it trains: a well-known shape by its name, or one
dial, the depth, that decides the other sizes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, field_validator, model_validator

from sishu.config import Section
from sishu.console import UserError
from sishu.models.config_file import written_shape
from sishu.models.decoder import DecoderConfig
from sishu.models.families.decoders import DECODERS
from sishu.models.presets import PRESETS
from sishu.train.trainer import TrainSettings

USUAL_DEPTH = 4


class ModelSettings(Section):
    """The size of a decoder. Everything not given is the preset's, or follows from the depth."""

    preset: str | None = None
    """A well-known shape, such as gpt2 or qwen3-0.6b (`sishu.models.presets`). The vocabulary is the
    tokenizer's all the same; what else is given takes the place of the preset's."""
    depth: int | None = Field(None, ge=1, le=128)
    """Blocks; the one dial where there is no preset, and then 4 if not given."""
    width: int | None = Field(None, ge=8)
    """Size of the stream."""
    heads: int | None = Field(None, ge=1)
    """Query heads."""
    kv_heads: int | None = Field(None, ge=1)
    """Key-value heads."""
    hidden: int | None = Field(None, ge=8)
    """Size of the network inside a block."""
    context_length: int = Field(512, ge=8)
    """Tokens the model sees at once; with a preset, the preset's if not given."""

    @field_validator("preset")
    @classmethod
    def _trainable(cls, name: str | None) -> str | None:
        if name is not None and name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PRESETS)}"
            raise ValueError(f"there is no preset {name!r} ({hint})")
        if name is not None and PRESETS[name].experts is not None:
            raise ValueError(f"{name} has experts, and no loss here keeps all of them busy: take another")
        return name

    @model_validator(mode="before")
    @classmethod
    def _context_of_the_preset(cls, data: Any) -> Any:
        known = PRESETS.get(str(data.get("preset"))) if isinstance(data, Mapping) else None
        return {"context_length": known.context_length, **data} if known is not None else data


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
    """Fill in what the settings leave open; raises UserError when what they give does not go together, or
    makes a model that files of its family cannot describe."""
    sizes, reasons = _by_depth(m) if m.preset is None else _by_preset(m.preset, m)
    known = PRESETS[m.preset] if m.preset is not None else None
    try:
        if known is None:
            config = DecoderConfig(vocabulary=vocabulary, context_length=m.context_length, **sizes)
        else:
            config = replace(known, vocabulary=vocabulary, context_length=m.context_length, **sizes)
    except ValueError as error:
        raise UserError(f"This shape cannot be built: {error}.") from error
    family = DECODERS[config.family]
    written_shape(family, config, family.causal)  # sooner than after a day of training
    return config, reasons


def _by_depth(m: ModelSettings) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Sizes that follow from the depth, with the reasons."""
    reasons = []
    depth = m.depth or USUAL_DEPTH
    width = m.width or 64 * depth
    if m.width is None:
        reasons.append(("width", str(width), "64 × depth (nanochat's ratio)"))
    head_width = 64 if width % 64 == 0 else 32
    if m.heads is None:
        heads = max(1, width // head_width)
        reasons.append(("heads", str(heads), f"width / {head_width}"))
    else:
        heads = m.heads
    if m.kv_heads is None:
        kv_heads = heads // 2 if heads % 2 == 0 else heads
        why = "half the heads where they pair up (grouped queries)"
        reasons.append(("kv_heads", str(kv_heads), why))
    else:
        kv_heads = m.kv_heads
    hidden = m.hidden or max(64, _multiple_of_64(width * 8 / 3))
    if m.hidden is None:
        why = "8/3 × width, to a multiple of 64 (SwiGLU at equal cost)"
        reasons.append(("hidden", str(hidden), why))
    sizes = {"width": width, "layers": depth, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    return sizes | {"head_width": max(2, width // heads // 2 * 2)}, reasons


def _by_preset(name: str, m: ModelSettings) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """A preset's sizes under those given, which the others follow in its proportions, with the reasons.
    Raises UserError where the proportions do not come out whole."""
    p = PRESETS[name]
    width, layers = m.width or p.width, m.depth or p.layers
    heads = m.heads or _whole(width * p.heads, p.width, name, "heads", f"width {width}")
    if p.width != p.heads * p.head_width or width == heads * p.head_width:
        head_width = p.head_width
    else:
        head_width = _whole(width, heads, name, "heads", f"width {width}")
    group = p.heads // p.kv_heads
    kv_heads = m.kv_heads or _whole(heads, group, name, "kv_heads", f"heads {heads}")
    scaled = p.hidden if width == p.width else _multiple_of_64(p.hidden * width / p.width)
    hidden = m.hidden or scaled
    about = f"{layers} blocks of width {width}, {heads} heads of {head_width}, hidden {hidden}"
    reasons = [("preset", name, about)]
    for field, size, known, why in (
        ("heads", heads, p.heads, f"as many to a width as {name} has"),
        ("kv_heads", kv_heads, p.kv_heads, "one for each head" if group == 1 else f"one for {group} heads"),
        ("hidden", hidden, p.hidden, f"{p.hidden / p.width:.3g} × width, to a multiple of 64"),
    ):
        if getattr(m, field) is None and size != known:
            reasons.append((field, str(size), why))
    sizes = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    return sizes | {"head_width": head_width}, reasons


def _whole(size: int, parts: int, preset: str, field: str, beside: str) -> int:
    if size % parts:
        raise UserError(
            f"The proportions of {preset} do not come out whole with {beside}: give model.{field} as well, "
            "or another size."
        )
    return size // parts


def _multiple_of_64(size: float) -> int:
    return 64 * math.ceil(round(size / 64, 6))


def derive_plan(m: ModelSettings, t: TrainSettings, vocabulary: int, corpus_tokens: int) -> Plan:
    """Shape, learning rate and steps for a corpus of `corpus_tokens` training tokens."""
    config, reasons = derive_shape(m, vocabulary)
    per_step = t.batch * config.context_length
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
