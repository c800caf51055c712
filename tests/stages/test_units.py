"""Large numbers and times as people read them."""

from __future__ import annotations

from sishu.stages.units import duration, si


def test_numbers_are_short() -> None:
    assert [si(x) for x in (0, 12, 1500, 12_345_678, 6.67e13)] == ["0", "12", "1.5k", "12.3M", "66.7T"]
    assert [duration(x) for x in (0.123, 45, 90, 7200, 200_000)] == ["0.12s", "45s", "1.5min", "2.0h", "2.3d"]
