"""A longer context for a decoder that turns queries and keys: the same weights, other rotary angles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from sishu.console import UserError
from sishu.models.decoder_config import DecoderConfig
from sishu.nn.rotary import RopeScaling

Stretch = Literal["yarn", "linear", "ntk", "dynamic"]
"""The kinds of `RopeScaling` that a context can be made longer with here."""


def longer(config: DecoderConfig, factor: float, kind: Stretch = "yarn") -> DecoderConfig:
    """The shape of the same decoder with `factor` times its context, in tokens, by angles of this kind.

    Extending twice composes: the scaling tells its factor relative to the context before the first time. A
    decoder that was stretched already, here or by its makers, goes on with the kind it has; a larger base
    (`ntk`) is part of the plain angles once it is written to a file, and any kind may follow it.

    Raises UserError for positions that are not rotary, for a factor that makes nothing longer, and for a
    kind other than the one the decoder was stretched with.
    """
    if config.positions != "rotary":
        why = {
            "learned": "there are none behind the last one",
            "sinusoidal": "they are added to the tokens, and no angle can be slowed down",
            "alibi": "its attention has no last position",
        }[config.positions]
        raise UserError(
            f"The context of a model with {config.positions} positions cannot be made longer by rotary "
            f"angles: {why}; take a model of a rotary family, such as Qwen or Llama."
        )
    if not (math.isfinite(factor) and factor > 1):
        raise UserError(f"A context is made longer by a factor above 1, not {factor:g}.")
    if kind not in ("yarn", "linear", "ntk", "dynamic"):
        raise UserError(f"kind is {kind!r}; it must be yarn, linear, ntk or dynamic.")
    before = config.rope_scaling
    if before is None:
        scaling = RopeScaling(kind, factor, config.context_length)
    elif before.kind == kind:
        original = before.original_context
        if kind == "linear":  # files do not say it, and reading one puts the stretched context there
            original = round(config.context_length / before.factor)
        scaling = replace(before, factor=before.factor * factor, original_context=original)
    else:
        raise UserError(
            f"This model's context was made longer with {before.kind} before, and {kind} would undo that: "
            + ("it cannot be stretched further." if before.kind == "llama3" else f"set kind={before.kind}.")
        )
    # as a file that tells the factor and the original context is read: down to a whole position
    context = int(config.context_length * factor + 1e-6)
    return replace(config, context_length=context, rope_scaling=scaling)
