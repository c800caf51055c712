"""The arithmetic under a chart: clean points, fewer points, round ticks, labels kept apart."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]

MOST_POINTS = 400
_FARTHEST = 1e15  # beyond this a float has no fraction left, and sums could overflow


def usable(value: float) -> bool:
    """Whether a value can stand in a chart: finite, and of a size that can be added up."""
    return math.isfinite(value) and abs(value) <= _FARTHEST


def clean(points: Sequence[Point]) -> list[Point]:
    """The points whose both coordinates are usable, in their order."""
    return [(x, y) for x, y in points if usable(x) and usable(y)]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: the means of equal buckets of neighbours (unusable points dropped).

    The first and last points of the result stand at the first and last x of the input, so that a
    thinned curve spans the same steps.
    """
    good = clean(points)
    if len(good) <= most:
        return good
    edges = [index * len(good) // most for index in range(most + 1)]
    means = []
    for start, stop in pairwise(edges):
        bucket = good[start:stop]
        means.append(
            (
                math.fsum(x for x, _ in bucket) / len(bucket),
                math.fsum(y for _, y in bucket) / len(bucket),
            )
        )
    means[0] = (good[0][0], means[0][1])
    means[-1] = (good[-1][0], means[-1][1])
    return means


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `about`."""
    span = high - low
    if not span > 1e-300:  # below that the arithmetic underflows
        return [low]
    rough = span / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_words(values: Sequence[float]) -> list[str]:
    """Labels with just the decimals that tell the ticks apart; thousands as 10k, 2.5M."""
    largest = max((abs(value) for value in values), default=0.0)
    scale, unit = next(
        ((limit, unit) for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if largest >= limit),
        (1.0, ""),
    )
    scale = 1e3 if unit == "k" else scale
    for places in range(7):
        labels = [f"{value / scale:,.{places}f}" for value in values]
        exact = all(
            abs(float(label.replace(",", "")) * scale - value) <= largest * 1e-6
            for label, value in zip(labels, values, strict=True)
        )
        if exact:
            break
    else:
        labels = [f"{value / scale:.1e}" for value in values]
    return [
        (label + unit if value else "0").replace("-", "−")
        for label, value in zip(labels, values, strict=True)
    ]


def interpolate(points: Sequence[Point], x: float) -> float | None:
    """The y at `x` on the line through `points` (ascending x), held flat outside; None if empty."""
    if not points:
        return None
    place = bisect_left([px for px, _ in points], x)
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[place - 1], points[place]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `wanted`, at least `gap` apart and inside [low, high] where there is room.

    Answers in the order given. Positions are pushed down from the top, then up from the bottom.
    """
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    placed = [min(max(wanted[index], low), high) for index in order]
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    if placed and placed[-1] > high:
        placed[-1] = high
        for index in range(len(placed) - 2, -1, -1):
            placed[index] = min(placed[index], placed[index + 1] - gap)
    answer = [0.0] * len(placed)
    for place, index in enumerate(order):
        answer[index] = placed[place]
    return answer


def text_width(text: str, size: float) -> float:
    """An upper estimate of the width in pixels of `text` in a sans-serif of `size` pixels.

    The reader's font is unknown; 0.64 em a letter has room for a wide one (DejaVu, Verdana).
    """
    ems = sum(1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.64 for sign in text)
    return ems * size
