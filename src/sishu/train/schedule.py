"""The learning rate over time."""

from __future__ import annotations


def trapezoid(step: int, steps: int, warmup: float, cooldown: float) -> float:
    """Factor on the learning rate at `step` of `steps`: up in a line over the first `warmup` share, flat,
    and down in a line to zero over the last `cooldown` share (Hägele et al. 2024, arXiv:2405.18392)."""
    up = (step + 1) / max(1.0, warmup * steps)
    down = (steps - step) / max(1.0, cooldown * steps)
    return min(1.0, up, down)
