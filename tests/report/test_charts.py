"""Charts: well-formed for any numbers, and true to them."""

from __future__ import annotations

import math
from itertools import pairwise

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from markupsafe import Markup

from sishu.report.charts import (
    NARROW,
    WIDE,
    Bar,
    Level,
    Line,
    bar_chart,
    both_widths,
    line_chart,
)

ANY = st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(st.tuples(st.integers(0, 10**7), ANY), max_size=30).map(sorted)


def coordinates(svg: Markup) -> list[tuple[float, float]]:
    root = etree.fromstring(str(svg))
    pairs = root.find(".//polyline").get("points").split()
    return [(float(pair.split(",")[0]), float(pair.split(",")[1])) for pair in pairs]


@given(first=POINTS, second=POINTS, level=ANY, width=st.sampled_from([NARROW, WIDE]))
def test_any_numbers_give_a_drawing_without_nan(
    first: list[tuple[float, float]],
    second: list[tuple[float, float]],
    level: float,
    width: int,
) -> None:
    lines = [Line("one", first), Line("two", second)]
    svg = line_chart(
        "a",
        "T",
        lines,
        width=width,
        levels=[Level("l", level)],
        seconds=first,
        settling=True,
    )
    if svg:
        root = etree.fromstring(str(svg))
        for element in root.iter():
            for name, value in element.attrib.items():
                if name in (
                    "x",
                    "y",
                    "x1",
                    "x2",
                    "y1",
                    "y2",
                    "cx",
                    "cy",
                    "width",
                    "height",
                ):
                    assert math.isfinite(float(value))
                assert "nan" not in value and "inf" not in value
    else:
        values = [y for _, y in first + second]
        assert not any(math.isfinite(y) and abs(y) <= 1e15 for y in values)


@given(values=st.lists(ANY, max_size=6), whole=ANY)
def test_any_bars_give_a_drawing(values: list[float], whole: float) -> None:
    svg = bar_chart("a", "T", [Bar("b", value, "w", whole) for value in values], width=NARROW)
    if svg:
        boxes = [float(box.get("width")) for box in etree.fromstring(str(svg)).iter("rect")]
        assert all(0 <= width <= NARROW + 1 for width in boxes)


def test_higher_is_higher_and_later_is_to_the_right() -> None:
    places = coordinates(line_chart("a", "T", [Line("", [(0, 1), (5, 3), (10, 2)])], width=WIDE))
    xs, ys = [x for x, _ in places], [y for _, y in places]
    assert xs == sorted(xs)
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.11)


def test_bars_are_in_proportion_and_start_at_zero() -> None:
    svg = bar_chart("a", "T", [Bar("x", 1, "1"), Bar("y", 4, "4")], width=WIDE)
    small, large = etree.fromstring(str(svg)).findall("rect")
    assert small.get("x") == large.get("x")
    assert float(large.get("width")) == pytest.approx(4 * float(small.get("width")), rel=0.01)


def test_said_in_words_for_those_who_cannot_see_it() -> None:
    svg = line_chart(
        "a",
        "Loss <&>",
        [Line("held-out", [(0, 9), (10, 2)])],
        width=WIDE,
        levels=[Level("xz", 4)],
    )
    root = etree.fromstring(str(svg))
    assert root.get("role") == "img"
    assert root.findtext("title") == "Loss <&>"
    said = root.findtext("desc")
    assert said is not None
    assert "held-out goes from 9 at step 0 to 2 at step 10" in said and "xz 4" in said


def test_labels_do_not_touch_and_stay_inside() -> None:
    lines = [Line(f"line {index}", [(0, 0), (1, 1 + index / 1000)]) for index in range(3)]
    levels = [Level(f"level {index}", 1 + index / 1000) for index in range(3)]
    svg = line_chart("a", "T", lines, width=WIDE, levels=levels)
    texts = [
        float(text.get("y"))
        for text in etree.fromstring(str(svg)).iter("text")
        if text.get("class").startswith("end")
    ]
    texts.sort()
    assert len(texts) == 6
    assert all(b - a >= 14 for a, b in pairwise(texts))
    assert texts[0] > 0 and texts[-1] < 280


def test_a_steep_start_leaves_the_chart_and_is_named() -> None:
    points = [(step, 3 - step / 1000) for step in range(1000)]
    points[0] = (0, 90.0)
    flat = coordinates(line_chart("a", "T", [Line("", points)], width=WIDE, unit="nats"))
    svg = line_chart("a", "T", [Line("", points)], width=WIDE, unit="nats", settling=True)
    settled = coordinates(svg)
    assert flat[-1][1] - flat[200][1] < 10 < settled[-1][1] - settled[200][1]
    assert "nats; up to" in svg


def test_hostile_labels_are_escaped() -> None:
    bad = '</text><script>"&\u202e'
    svg = bar_chart("a", bad, [Bar(bad, 1, bad)], width=WIDE)
    svg += line_chart("b", bad, [Line(bad, [(0, 1)])], width=WIDE, unit=bad)
    root = lxml.html.fragment_fromstring(f"<div>{svg}</div>")
    assert not root.xpath(".//script")
    assert "\u202e" not in svg and "⟨U+202E⟩" in svg


def test_nothing_to_draw_draws_nothing() -> None:
    assert line_chart("a", "T", [Line("", [])], width=WIDE) == ""
    assert line_chart("a", "T", [Line("", [(0, math.nan)])], width=WIDE) == ""
    assert bar_chart("a", "T", [], width=WIDE) == ""
    assert both_widths(lambda ident, width: bar_chart(ident, "T", [], width=width), "a") == ""
