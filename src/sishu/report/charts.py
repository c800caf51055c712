"""Inline SVG charts for a printed page: line charts, horizontal bars, heat maps, styled by report.css.

Lines are labelled at their end and told apart by dash as well as colour, so that a black-and-white
print can be read. Colours come from CSS classes only, so one drawing serves light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sishu.report.scales import (
    Point,
    interpolate,
    spread,
    text_width,
    thin,
    tick_words,
    ticks,
    usable,
)
from sishu.report.wording import number_words, short_duration_words, shown

WIDE, NARROW = 720, 360
"""Drawing widths in CSS pixels: the text column of a desktop, and a phone."""

_TEXT = 12.0
_GAP = 15.0
_AXIS_NAMES = 46.0


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; its label stands at its right end with its last value."""

    label: str
    points: Sequence[Point]
    words: Callable[[float], str] = number_words


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line to compare with, such as a baseline or a target."""

    label: str
    value: float
    words: Callable[[float], str] = number_words

    def __str__(self) -> str:
        return f"{self.label} {self.words(self.value)}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar; `whole` draws the outline it is a part of; `words` stand at its end."""

    label: str
    value: float
    words: str
    whole: float | None = None
    strong: bool = False


def line_chart(
    ident: str,
    title: str,
    lines: Sequence[Line],
    *,
    width: int,
    height: int = 280,
    unit: str = "",
    levels: Sequence[Level] = (),
    seconds: Sequence[Point] = (),
    settling: bool = False,
    along: str = "step",
) -> Markup:
    """An SVG of `lines` against the training step, or what `along` names; empty when no line has a usable
    point.

    ident: makes ids unique on the page; [a-z0-9-] only.
    unit: what the vertical axis measures, set above it.
    seconds: (step, seconds since the start) for a second row under the step labels.
    settling: let the first twentieth of the steps leave the top of the chart when they would
        squeeze the rest flat (a loss falls far at the start); the unit then names the peak.
    """
    drawn = [(line, thin(line.points)) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    levels = [level for level in levels if usable(level.value)]
    if not drawn:
        return Markup("")

    left_x = min(points[0][0] for _, points in drawn)
    right_x = max(points[-1][0] for _, points in drawn)
    low, high, peak = _vertical_range(drawn, levels, left_x, right_x, settling)

    y_ticks = ticks(low, high, 3 if height < 220 else 5)
    y_labels = tick_words(y_ticks)
    ends = [
        (
            f"{line.label} {line.words(points[-1][1])}".strip(),
            points[-1][1],
            f"end line-{i}",
        )
        for i, (line, points) in enumerate(drawn)
    ]
    ends += [(str(level), level.value, "end level") for level in levels]

    left = max((text_width(label, _TEXT) for label in y_labels), default=0) + 10
    left = max(left, _AXIS_NAMES, text_width(along, _TEXT) + 14)
    right = max(text_width(label, _TEXT) for label, _, _ in ends) + 14
    top, bottom = (26.0 if unit else 10.0), (46.0 if seconds else 30.0)
    plot_right, plot_bottom = max(width - right, left + 60), height - bottom

    def at_x(x: float) -> float:
        share = (x - left_x) / (right_x - left_x) if right_x > left_x else 0.5
        return left + share * (plot_right - left)

    def at_y(y: float) -> float:
        return plot_bottom - (y - low) / (high - low) * (plot_bottom - top)

    svg = [_opening(ident, title, _line_words(drawn, levels, along), width, height)]
    svg.append(
        f'<clipPath id="{ident}-clip"><rect x="{left:.1f}" y="{top - 2:.1f}" '
        f'width="{plot_right - left + 4:.1f}" height="{plot_bottom - top + 4:.1f}"/></clipPath>'
    )
    if unit:
        over = f"; up to {number_words(peak)} at first" if peak is not None else ""
        svg.append(_text(0, 12, unit + over, "unit"))
    for value, label in zip(y_ticks, y_labels, strict=True):
        y = at_y(value)
        svg.append(_rule(left, y, plot_right, y, "grid"))
        svg.append(_text(left - 6, y + 4, label, "tick right"))
    svg.append(_rule(left, plot_bottom, plot_right, plot_bottom, "axis"))
    x_ticks = ticks(left_x, right_x, 6 if plot_right - left > 400 else 3)
    for value, label in zip(x_ticks, tick_words(x_ticks), strict=True):
        x = at_x(value)
        svg.append(_rule(x, plot_bottom, x, plot_bottom + 4, "axis"))
        svg.append(_text(x, plot_bottom + 17, label, "tick middle"))
        elapsed = interpolate(seconds, value)
        if elapsed is not None:
            svg.append(
                _text(
                    x,
                    plot_bottom + 32,
                    short_duration_words(elapsed),
                    "tick middle faint",
                )
            )
    svg.append(_text(0, plot_bottom + 17, along, "tick"))
    if seconds:
        svg.append(_text(0, plot_bottom + 32, "time", "tick faint"))
    for level in levels:
        svg.append(_rule(left, at_y(level.value), plot_right, at_y(level.value), "level"))
    for index, (_, points) in enumerate(drawn):
        places = [(at_x(x), at_y(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        clip = f'clip-path="url(#{ident}-clip)"'
        svg.append(f'<polyline class="line line-{index}" {clip} points="{path}"/>')
        marked = places if len(places) == 1 or (index and len(places) <= 40) else []
        svg += [
            f'<circle class="dot line-{index}" {clip} cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in marked
        ]
    wanted = [at_y(value) for _, value, _ in ends]
    placed = spread(wanted, _GAP, top, plot_bottom)
    for (label, _, style), aim, y in zip(ends, wanted, placed, strict=True):
        svg.append(_rule(plot_right + 2, aim, plot_right + 10, y, "leader"))
        svg.append(_text(plot_right + 12, y + 4, label, style))
    svg.append("</svg>")
    return Markup("".join(svg))  # every foreign string went through _text or _opening


def bar_chart(
    ident: str,
    title: str,
    bars: Sequence[Bar],
    *,
    width: int,
    mark: Level | None = None,
) -> Markup:
    """An SVG of horizontal bars from zero, in the order given; empty when there are none.

    Labels stand left of the bars, or above them when the drawing is narrow. `mark` is a vertical
    line across the bars to compare with. Negative values are drawn as nothing.
    """
    bars = [bar for bar in bars if usable(bar.value) and usable(bar.whole or 0.0)]
    mark = mark if mark and usable(mark.value) else None
    if not bars:
        return Markup("")
    above = width < 500
    row, thick = (38.0, 10.0) if above else (27.0, 13.0)
    labels = 0.0 if above else max(text_width(bar.label, _TEXT) for bar in bars) + 12
    room = 0.0 if above else max(text_width(bar.words, _TEXT) for bar in bars) + 10
    reach = max(width - labels - room, 60.0)
    largest = max(max(bar.value, bar.whole or 0.0) for bar in bars)
    largest = max(largest, mark.value if mark else 0.0)

    def long(value: float) -> float:
        return max(value, 0.0) / largest * reach if largest > 0 else 0.0

    height = row * len(bars) + (20 if mark else 2)

    told = "; ".join(f"{bar.label}: {bar.words}" for bar in bars)
    svg = [_opening(ident, title, told + ".", width, height)]
    for index, bar in enumerate(bars):
        y = index * row + (18 if above else (row - thick) / 2)
        length = long(bar.value)
        end = max(length, long(bar.whole or 0.0))
        if above:
            svg.append(_text(0, y - 5, bar.label, "label"))
            svg.append(_text(width, y - 5, bar.words, "value right"))
        else:
            svg.append(_text(labels - 8, y + thick - 2, bar.label, "label right"))
            svg.append(_text(labels + end + 6, y + thick - 2, bar.words, "value"))
        if bar.whole is not None and bar.whole > 0:
            svg.append(_box(labels, y, long(bar.whole), thick, "whole"))
        style = "bar strong" if bar.strong else "bar"
        svg.append(_box(labels, y, max(length, 1.0), thick, style))
    if mark:
        x = labels + long(mark.value)
        svg.append(_rule(x, 14 if above else 2, x, height - 16, "level over"))
        svg.append(_text(x, height - 3, str(mark), "tick middle"))
    svg.append("</svg>")
    return Markup("".join(svg))  # every foreign string went through _text or _opening


def heat_map(
    ident: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[float | None]]],
    columns: Sequence[str],
    *,
    width: int,
    words: Callable[[float], str] = number_words,
) -> Markup:
    """An SVG of cells from 0 (paper) to 1 (ink), each with its value; empty when there are none.

    rows: what each row is called, and its values, one for each column; None leaves a cell out.
    """
    if not rows or not columns:
        return Markup("")
    left = max(text_width(name, _TEXT) for name, _ in rows) + 10
    across, down, top = max((width - left) / len(columns), 30.0), 30.0, 22.0
    told = "; ".join(
        f"{name}, {column}: {words(value)}"
        for name, values in rows
        for column, value in zip(columns, values, strict=True)
        if value is not None
    )
    svg = [_opening(ident, title, told + ".", width, top + down * len(rows) + 2)]
    for index, column in enumerate(columns):
        svg.append(_text(left + (index + 0.5) * across, top - 8, column, "tick middle"))
    for line, (name, values) in enumerate(rows):
        y = top + line * down
        svg.append(_text(left - 8, y + down / 2 + 4, name, "label right"))
        for index, value in enumerate(values):
            if value is None or not usable(value):
                continue
            x, share = left + index * across, min(max(value, 0.0), 1.0)
            svg.append(
                f'<rect class="heat" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{across - 2:.1f}" '
                f'height="{down - 2:.1f}" fill-opacity="{share:.2f}"/>'
            )
            style = "middle over-heat" if share > 0.55 else "middle"
            svg.append(_text(x + across / 2, y + down / 2 + 4, words(value), style))
    svg.append("</svg>")
    return Markup("".join(svg))  # every foreign string went through _text or _opening


def both_widths(draw: Callable[[str, int], Markup], ident: str) -> Markup:
    """The drawing for a desktop and for a phone; the style sheet shows one of them.

    Scaling one drawing down would make its text unreadable on a phone.
    """
    wide, narrow = draw(f"{ident}-wide", WIDE), draw(f"{ident}-narrow", NARROW)
    if not wide:
        return Markup("")
    return Markup('<div class="wide-only">{}</div><div class="narrow-only">{}</div>').format(wide, narrow)


def _vertical_range(
    drawn: Sequence[tuple[Line, list[Point]]],
    levels: Sequence[Level],
    left_x: float,
    right_x: float,
    settling: bool,
) -> tuple[float, float, float | None]:
    """(low, high, the peak if the start was let go over the top) of the vertical axis."""
    values = [y for _, points in drawn for _, y in points] + [level.value for level in levels]
    low, high = min(values), max(values)
    peak = None
    if settling:
        settled_x = left_x + (right_x - left_x) / 20
        settled = [y for _, points in drawn for x, y in points if x > settled_x]
        settled += [level.value for level in levels]
        if settled and high - min(settled) > 1.8 * (max(settled) - min(settled)) > 0:
            high, peak = max(settled), high
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - (pad if low < 0 or low - pad >= 0 else low), high + pad, peak


def _line_words(drawn: Sequence[tuple[Line, list[Point]]], levels: Sequence[Level], along: str) -> str:
    told = [
        f"{line.label or 'The curve'} goes from {line.words(points[0][1])} at {along} "
        f"{number_words(points[0][0])} to {line.words(points[-1][1])} at {along} "
        f"{number_words(points[-1][0])}, lowest {line.words(min(y for _, y in points))}, "
        f"highest {line.words(max(y for _, y in points))}."
        for line, points in drawn
    ]
    told += [f"Level: {level}." for level in levels]
    return " ".join(told)


def _opening(ident: str, title: str, description: str, width: float, height: float) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" '
        f'aria-labelledby="{ident}-title" aria-describedby="{ident}-desc">'
        f'<title id="{ident}-title">{escape(shown(title))}</title>'
        f'<desc id="{ident}-desc">{escape(shown(description))}</desc>'
    )


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(shown(text))}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _box(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
