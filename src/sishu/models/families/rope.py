"""Rotary positions as published configurations tell of them."""

from __future__ import annotations

import math
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

from sishu.models.decoder import DecoderConfig
from sishu.nn.rotary import RopeScaling, ntk_base

Fields = dict[str, Any]
DEFAULT_THETA = 10_000.0
YARN = ("fast", "slow", "attention_factor", "truncate")
LLAMA3 = ("low_frequency_factor", "high_frequency_factor")
"""What one kind of scaling alone uses."""


def read_rope(fields: Fields) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and `context_length` of a shape. Both ways of writing are read:
    `rope_parameters`, and `rope_theta` beside `rope_scaling`."""
    rope = dict(fields.get("rope_scaling") or {}) | dict(fields.get("rope_parameters") or {})
    theta = float({"rope_theta": DEFAULT_THETA, **fields, **rope}["rope_theta"])
    if (rope.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1) != 1:
        raise ValueError("partial_rotary_factor other than 1 is not supported")
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError("rotary positions that differ from layer to layer are not supported")
    context = fields["max_position_embeddings"]
    scaling = _scaling(rope, context)
    if scaling is not None and scaling.kind == "dynamic":
        # published is the context before stretching, and what a text may have is the factor times that
        context = int(context * scaling.factor)
    return {"rope_theta": theta, "rope_scaling": scaling, "context_length": context}


def _scaling(rope: Fields, context: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "mrope"):
        return None
    if kind not in ("linear", "ntk", "dynamic", "yarn", "llama3"):
        raise ValueError(f"the rope type {kind!r} is not supported")
    original = int(rope.get("original_max_position_embeddings") or context)
    if kind == "dynamic":
        original = context
    unsaid = kind == "yarn" and rope.get("factor") is None
    factor = context / original if unsaid else float(rope["factor"])
    attention = rope.get("attention_factor")
    if kind == "yarn" and attention is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        attention = _mscale(factor, rope["mscale"]) / _mscale(factor, rope["mscale_all_dim"])
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=original,
        fast=float(rope.get("beta_fast") or 32.0),
        slow=float(rope.get("beta_slow") or 1.0),
        attention_factor=None if attention is None else float(attention),
        truncate=bool(rope.get("truncate", True)),
        low_frequency_factor=float(rope.get("low_freq_factor", 1.0)),
        high_frequency_factor=float(rope.get("high_freq_factor", 4.0)),
    )


def _mscale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def write_rope(c: DecoderConfig) -> Fields:
    """The fields that say it, and the context length. Without scaling it is written in the old way, which
    software of either time reads."""
    fields: Fields = {"max_position_embeddings": c.context_length, "rope_theta": c.rope_theta}
    rope: Fields = {}
    if (s := c.rope_scaling) is not None:
        if s.kind == "ntk":
            # a larger base is all it is, and every reader knows that
            return write_rope(as_written(c))
        rope = {"rope_type": s.kind, "rope_theta": c.rope_theta, "factor": s.factor}
        if s.kind == "dynamic":
            fields["max_position_embeddings"] = s.original_context
        if s.kind in ("yarn", "llama3"):
            rope["original_max_position_embeddings"] = s.original_context
        if s.kind == "yarn":
            said = {
                "beta_fast": s.fast,
                "beta_slow": s.slow,
                "truncate": s.truncate,
                "attention_factor": s.attention_factor,
            }
            usual = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, "attention_factor": None}
            rope |= {name: value for name, value in said.items() if value != usual[name]}
        if s.kind == "llama3":
            rope |= {
                "low_freq_factor": s.low_frequency_factor,
                "high_freq_factor": s.high_frequency_factor,
            }
    return fields | ({"rope_parameters": rope} if rope else {})


def as_written(c: DecoderConfig) -> DecoderConfig:
    """The same angles in the words of published files: no word that its kind of scaling does not use, and
    `ntk` as the larger base that it is."""
    s = c.rope_scaling
    if s is None:
        return c
    if s.kind == "ntk":
        return replace(c, rope_theta=ntk_base(c.rope_theta, s.factor, c.head_width), rope_scaling=None)
    unused = {"linear": YARN + LLAMA3, "dynamic": YARN + LLAMA3, "yarn": LLAMA3, "llama3": YARN}[s.kind]
    used = {one.name: getattr(s, one.name) for one in fields_of(s) if one.name not in unused}
    if s.kind == "linear":
        used["original_context"] = c.context_length
    return replace(c, rope_scaling=RopeScaling(**used))
