"""The learning rate's way up, along, and down."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, SequentialLR

from sishu.train.schedule import Schedule, rate_factor, trapezoid

STEPS, WARMUP, RATE = 200, 20, 0.5


def test_up_flat_down() -> None:
    factors = [trapezoid(step, 100, warmup=0.1, cooldown=0.4) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10:60] == [1.0] * 50
    assert factors[60:] == pytest.approx([(100 - i) / 40 for i in range(60, 100)])


def test_without_warmup_the_first_step_is_whole_and_without_cooldown_the_last() -> None:
    assert trapezoid(0, 50, 0.0, 1.0) == 1.0
    assert trapezoid(49, 50, 0.0, 0.0) == 1.0
    assert trapezoid(0, 1, 0.02, 0.6) == 1.0


@given(
    st.sampled_from(["trapezoid", "cosine", "linear"]),
    st.integers(1, 300),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_step_is_wasted_and_none_is_too_large(
    schedule: Schedule, steps: int, warmup: float, cooldown: float, final: float
) -> None:
    factors = [
        rate_factor(schedule, step, steps, warmup=warmup, cooldown=cooldown, final=final)
        for step in range(steps)
    ]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def torchs(optimizer: torch.optim.Optimizer, schedule: Schedule, final: float) -> LRScheduler:
    """The same rates put together from torch's schedulers."""
    rise = LinearLR(optimizer, start_factor=1 / WARMUP, end_factor=1, total_iters=WARMUP - 1)
    left = STEPS - WARMUP
    if schedule == "cosine":
        return SequentialLR(
            optimizer, [rise, CosineAnnealingLR(optimizer, left, eta_min=final * RATE)], [WARMUP]
        )
    if schedule == "linear":
        fall = LinearLR(optimizer, start_factor=1, end_factor=final, total_iters=left)
        return SequentialLR(optimizer, [rise, fall], [WARMUP])
    flat = LambdaLR(optimizer, lambda _: 1.0)
    fall = LinearLR(optimizer, start_factor=1, end_factor=final, total_iters=left // 2)
    return SequentialLR(optimizer, [rise, flat, fall], [WARMUP, WARMUP + left // 2])


@pytest.mark.parametrize("schedule", ["trapezoid", "cosine", "linear"])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_it_is_torchs(schedule: Schedule, final: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler = torchs(optimizer, schedule, final)
    cooldown = (STEPS - WARMUP) // 2 / STEPS
    for step in range(STEPS):
        ours = rate_factor(schedule, step, STEPS, warmup=WARMUP / STEPS, cooldown=cooldown, final=final)
        assert RATE * ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-7), step
        optimizer.step()
        scheduler.step()


def test_the_end_is_the_share_that_is_left() -> None:
    for schedule in ("trapezoid", "cosine", "linear"):
        last = rate_factor(schedule, 9999, 10_000, warmup=0.1, cooldown=0.5, final=0.25)
        assert math.isclose(last, 0.25, abs_tol=1e-3), schedule
