"""A curve of any length in bounded memory: what a chart can show of it, first, last and extremes kept."""

from __future__ import annotations

from operator import itemgetter

MOST_POINTS = 2000
"""Points that a curve is drawn with at most."""

Point = tuple[int, float]


class Curve:
    """Values by step, in stretches of equal length that double when there are too many.

    Of each stretch the first, the lowest, the highest and the last point are kept, so that no peak is lost.
    """

    def __init__(self) -> None:
        self._span = 1
        self._stretches: dict[int, list[Point]] = {}
        self.last: float | None = None
        """The newest value."""

    def add(self, step: int, value: float) -> None:
        """One more point; steps rise."""
        self.last, point = value, (step, value)
        stretch = self._stretches.get(step // self._span)
        if stretch is None:
            self._stretches[step // self._span] = [point] * 4
            if len(self._stretches) > MOST_POINTS // 4:
                self._widen()
            return
        if value < stretch[1][1]:
            stretch[1] = point
        elif value > stretch[2][1]:
            stretch[2] = point
        stretch[3] = point

    def points(self) -> list[Point]:
        """At most `MOST_POINTS`, by step."""
        return sorted({point for stretch in self._stretches.values() for point in stretch})

    def _widen(self) -> None:
        old, self._stretches = self._stretches, {}
        self._span *= 2
        for stretch in old.values():
            place = stretch[0][0] // self._span
            before = self._stretches.get(place)
            if before is None:
                self._stretches[place] = stretch
            else:
                low = min(before[1], stretch[1], key=itemgetter(1))
                high = max(before[2], stretch[2], key=itemgetter(1))
                self._stretches[place] = [before[0], low, high, stretch[3]]
