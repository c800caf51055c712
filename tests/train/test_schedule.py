"""The learning rate's way up, along, and down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.train.schedule import trapezoid


def test_up_flat_down() -> None:
    factors = [trapezoid(step, 100, warmup=0.1, cooldown=0.4) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10:60] == [1.0] * 50
    assert factors[60:] == pytest.approx([(100 - i) / 40 for i in range(60, 100)])


def test_without_warmup_the_first_step_is_whole_and_without_cooldown_the_last() -> None:
    assert trapezoid(0, 50, 0.0, 1.0) == 1.0
    assert trapezoid(49, 50, 0.0, 0.0) == 1.0
    assert trapezoid(0, 1, 0.02, 0.6) == 1.0


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_no_step_is_wasted_and_none_is_too_large(steps: int, warmup: float, cooldown: float) -> None:
    factors = [trapezoid(step, steps, warmup, cooldown) for step in range(steps)]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
