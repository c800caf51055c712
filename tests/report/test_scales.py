"""Ticks are round, thinning keeps the mean, spread labels keep their distance."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sishu.report.scales import clean, interpolate, spread, thin, tick_words, ticks

SMALL = st.floats(-1e6, 1e6)


@given(low=SMALL, span=st.floats(1e-6, 1e6), about=st.integers(2, 8))
def test_ticks_are_round_inside_and_not_too_many(low: float, span: float, about: int) -> None:
    high = low + span
    assume(high > low)
    values = ticks(low, high, about)
    slack = span * 1e-6 + abs(low) * 1e-12
    assert all(low - slack <= value <= high + slack for value in values)
    assert len(values) <= about + 1
    if len(values) > 1:
        step = values[1] - values[0]
        assume(step > 1e-9 * max(abs(low), 1))
        leading = round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6)
        assert leading in (1, 2, 2.5, 5)


def test_tick_words_tell_ticks_apart() -> None:
    assert tick_words([0, 0.25, 0.5]) == ["0", "0.25", "0.50"]
    assert tick_words([0, 5000, 10000]) == ["0", "5k", "10k"]
    assert tick_words([-2500, 0, 2500]) == ["−2,500", "0", "2,500"]
    assert tick_words([0, 2.5e6]) == ["0", "2.5M"]
    assert len(set(tick_words([1e-9, 2e-9]))) == 2


@given(values=st.lists(SMALL, min_size=1, max_size=300), most=st.integers(1, 50))
def test_thinning_keeps_count_range_and_mean(values: list[float], most: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    thinned = thin(points, most)
    assert len(thinned) == min(most, len(points))
    assert min(values) - 1e-6 <= min(y for _, y in thinned)
    assert max(y for _, y in thinned) <= max(values) + 1e-6
    if len(values) % most == 0:
        mean = statistics.fmean(y for _, y in thinned)
        assert mean == pytest.approx(statistics.fmean(values), rel=1e-6, abs=1e-6)


def test_thinning_drops_what_cannot_be_drawn() -> None:
    points = [(0, math.nan), (1, math.inf), (2, 1e300), (3, 4.0), (math.nan, 1.0)]
    assert clean(points) == thin(points) == [(3, 4.0)]
    assert thin([]) == []


@given(wanted=st.lists(st.floats(0, 100), max_size=6))
def test_spread_keeps_distance_order_and_bounds(wanted: list[float]) -> None:
    placed = spread(wanted, 15, 0, 100)
    assert len(placed) == len(wanted)
    assert all(-1e-9 <= y <= 100 + 1e-9 for y in placed)
    ordered = sorted(placed)
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(ordered))
    for a, b in zip(wanted, placed, strict=True):
        for c, d in zip(wanted, placed, strict=True):
            assert not a < c or b < d


def test_interpolation_between_and_outside() -> None:
    points = [(0.0, 0.0), (10.0, 100.0)]
    assert [interpolate(points, x) for x in (-5, 0, 2.5, 10, 20)] == [
        0,
        0,
        25,
        100,
        100,
    ]
    assert interpolate([], 1) is None
