"""Rotary positions in GGUF files: the order in which llama's queries and keys lie, and longer contexts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sishu.console import UserError
from sishu.models.decoder import DecoderConfig
from sishu.models.gguf.metadata import Metadata
from sishu.nn.rotary import RopeScaling, rotary_frequencies

DIVISORS = "rope_freqs.weight"
"""The tensor of numbers by which Llama 3.1 and later divide their frequencies, (K/2,)."""
YARN_TURNS = (32.0, 1.0)
"""The borders that llama.cpp computes with: it has keys for others, but reads them for few architectures."""
LLAMA3_CONTEXT = 8192
"""What all published Llama 3.1 to 3.3 were first trained on."""


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows (H·K, …) whose pairs are half a head apart -> rows whose pairs stand side by side, as files of
    the llama architecture have them."""
    rows = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)


def half_split(weight: Tensor, heads: int) -> Tensor:
    """The way back."""
    rows = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)


def read_rope(about: Metadata, head_width: int, context: int, divisors: Tensor | None) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a shape; raises UserError for a stretching that is not known."""
    theta = about.number("rope.freq_base", 10_000.0)
    turned = about.whole("rope.dimension_count", head_width)
    if turned != head_width:
        raise about.wrong("rope.dimension_count", turned, f"the width of a head, {head_width}")
    kind = about.word("rope.scaling.type", "none")
    if divisors is not None and bool((divisors != 1).any()):
        if kind != "none":
            raise about.wrong("rope.scaling.type", kind, f"none beside the tensor {DIVISORS}")
        return {"rope_theta": theta, "rope_scaling": _llama3(about, head_width, theta, divisors)}
    if kind == "none" and not about.has("rope.scale_linear"):
        return {"rope_theta": theta, "rope_scaling": None}
    old = about.number("rope.scale_linear") if about.has("rope.scale_linear") else None
    factor = about.number("rope.scaling.factor", old)
    original = about.whole("rope.scaling.original_context_length", context)
    try:
        if kind in ("none", "linear"):
            scaling = RopeScaling("linear", factor, original) if factor != 1 else None
        elif kind == "yarn":
            grown = 0.1 * math.log(max(factor, 1.0)) + 1.0
            own = about.number("rope.scaling.attn_factor", 1.0)
            scaling = RopeScaling(
                "yarn",
                factor,
                original,
                fast=about.number("rope.scaling.yarn_beta_fast", YARN_TURNS[0]),
                slow=about.number("rope.scaling.yarn_beta_slow", YARN_TURNS[1]),
                attention_factor=None if own == 1 else own * grown,
            )
        else:
            raise about.wrong("rope.scaling.type", kind, "none, linear or yarn")
    except ValueError as error:
        raise UserError(f"{about.path}: {error}.") from error
    return {"rope_theta": theta, "rope_scaling": scaling}


def _llama3(about: Metadata, head_width: int, theta: float, divisors: Tensor) -> RopeScaling:
    """The scaling whose divisors these are: files hold the outcome, not what it was computed from."""
    factor = float(divisors.float().max())
    contexts = {about.whole("rope.scaling.original_context_length", LLAMA3_CONTEXT), LLAMA3_CONTEXT}
    if divisors.shape == (head_width // 2,) and math.isfinite(factor) and factor >= 1:
        for context in contexts:
            scaling = RopeScaling("llama3", factor, context)
            expected = divisors_of(head_width, theta, scaling)
            if torch.allclose(divisors.float(), expected, rtol=1e-3, atol=0):
                return scaling
    raise UserError(
        f"{about.path} stretches its positions by a tensor, {DIVISORS}, that is not Llama 3.1's: this model "
        "cannot be read from GGUF; get its safetensors files."
    )


def divisors_of(head_width: int, theta: float, scaling: RopeScaling) -> Tensor:
    """What frequencies are divided by, (K/2,) in float32."""
    plain = rotary_frequencies(head_width, theta)
    return plain / rotary_frequencies(head_width, theta, scaling)


def write_rope(c: DecoderConfig, turned: bool) -> tuple[dict[str, Any], Tensor | None]:
    """The fields, without the architecture's name, and the tensor of divisors where there is one.

    `turned` tells of an architecture that may have such a tensor. Raises UserError for a stretching that
    GGUF cannot tell.
    """
    s, theta, divisors = c.rope_scaling, c.rope_theta, None
    fields: dict[str, Any] = {"rope.dimension_count": c.head_width}
    if s is None:
        pass
    elif s.kind == "ntk":
        theta *= s.factor ** (c.head_width / (c.head_width - 2))
    elif s.kind == "llama3" and turned and (s.low_frequency_factor, s.high_frequency_factor) == (1.0, 4.0):
        divisors = divisors_of(c.head_width, theta, s)
        if s.original_context != LLAMA3_CONTEXT:
            fields["rope.scaling.original_context_length"] = s.original_context
    elif s.kind == "linear" or (s.kind == "yarn" and s.truncate and (s.fast, s.slow) == YARN_TURNS):
        fields |= {
            "rope.scaling.type": s.kind,
            "rope.scaling.factor": s.factor,
            "rope.scaling.original_context_length": s.original_context,
        }
        if s.kind == "yarn" and s.attention_factor is not None:
            fields["rope.scaling.attn_factor"] = s.attention_factor / (0.1 * math.log(s.factor) + 1.0)
    else:
        raise UserError(
            f"GGUF has no words for how this model's positions are stretched ({s.kind}): export it with "
            "--to hf."
        )
    return fields | {"rope.freq_base": theta}, divisors
