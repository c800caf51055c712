"""The learning rate over time."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["trapezoid", "cosine", "linear"]


def trapezoid(step: int, steps: int, warmup: float, cooldown: float, final: float = 0.0) -> float:
    """Factor on the learning rate at `step` of `steps`: up in a line over the first `warmup` share, flat,
    and down in a line to `final` over the last `cooldown` share (Hägele et al. 2024, arXiv:2405.18392; also
    known as warmup-stable-decay)."""
    up = (step + 1) / max(1.0, warmup * steps)
    down = (steps - step) / max(1.0, cooldown * steps)
    return min(1.0, up, final + (1 - final) * min(1.0, down))


def cosine(step: int, steps: int, warmup: float, final: float = 0.0) -> float:
    """The same factor, up in a line and then down half a cosine (Loshchilov & Hutter 2017,
    arXiv:1608.03983)."""
    left = (1 + math.cos(math.pi * _gone(step, steps, warmup))) / 2
    return min(_up(step, steps, warmup), final + (1 - final) * left)


def linear(step: int, steps: int, warmup: float, final: float = 0.0) -> float:
    """The same factor, up in a line and then down in a line."""
    return min(_up(step, steps, warmup), final + (1 - final) * (1 - _gone(step, steps, warmup)))


def rate_factor(
    schedule: Schedule, step: int, steps: int, *, warmup: float, cooldown: float, final: float
) -> float:
    """Factor on the learning rate at `step` of `steps` by the schedule's name; never more than 1, and 0 for
    no step. `cooldown` shapes the trapezoid alone."""
    if schedule == "cosine":
        return cosine(step, steps, warmup, final)
    if schedule == "linear":
        return linear(step, steps, warmup, final)
    return trapezoid(step, steps, warmup, cooldown, final)


def _up(step: int, steps: int, warmup: float) -> float:
    return min(1.0, (step + 1) / max(1.0, warmup * steps))


def _gone(step: int, steps: int, warmup: float) -> float:
    """Which share of the steps after the warm-up lies behind."""
    return max(0.0, step - warmup * steps) / max(1.0, steps - warmup * steps)
