"""Curves in bounded memory."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sishu.watch.curves import MOST_POINTS, Curve


def curve(values: list[tuple[int, float]]) -> Curve:
    made = Curve()
    for step, value in values:
        made.add(step, value)
    return made


def test_a_short_curve_is_kept_whole() -> None:
    values = [(step, float(step % 7)) for step in range(MOST_POINTS // 4)]
    assert curve(values).points() == values


@given(
    steps=st.lists(st.integers(0, 10**7), min_size=1, max_size=3000, unique=True).map(sorted),
    seed=st.integers(0, 99),
)
def test_of_a_long_curve_first_last_and_extremes_are_kept(steps: list[int], seed: int) -> None:
    draw = random.Random(seed)
    values = [(step, draw.gauss(0, 1)) for step in steps]
    points = (made := curve(values)).points()
    assert len(points) <= MOST_POINTS
    assert set(points) <= set(values) and points == sorted(points)
    assert (points[0], points[-1]) == (values[0], values[-1])
    assert made.last == values[-1][1]
    for extreme in (min, max):
        assert extreme(y for _, y in points) == extreme(y for _, y in values)


def test_one_peak_among_many_steps_is_seen() -> None:
    steps = 100_000
    made = curve([(step, 99.0 if step == 77_777 else 1.0) for step in range(steps)])
    points = made.points()
    assert (77_777, 99.0) in points and points[-1] == (steps - 1, 1.0)
    assert len(points) > 100
