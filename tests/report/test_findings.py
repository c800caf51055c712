"""The page of one command: foreign names stay text, charts are as wide as they may be."""

from __future__ import annotations

import re

from sishu.evaluate.few_shot import Point
from sishu.evaluate.long_context import Needle
from sishu.report.charts import heat_map
from sishu.report.findings import curve_finding, findings_page, needle_finding, perplexity_finding
from sishu.report.shapes import Table

TABLE = Table(["a", "b"], [["<i>1</i>", "2 & 3"]])


def test_names_and_cells_are_escaped() -> None:
    finding = perplexity_finding([(0, 10, 8.0), (10, 20, 4.0)], TABLE)
    page = findings_page("long <context>", "</title><script>alert(1)</script>", [finding])
    assert "<script" not in page and "<i>" not in page
    assert "&lt;i&gt;1&lt;/i&gt;" in page and "2 &amp; 3" in page
    assert "at token 15" in page and "at step" not in page


def test_a_heat_map_has_a_cell_for_every_value() -> None:
    svg = heat_map("m", "M", [("deep", [0.0, 0.25]), ("deeper", [None, 1.5])], ["<1>", "2"], width=400)
    cells = re.findall(
        r'<rect class="heat" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)".*?fill-opacity="([\d.]+)"', svg
    )
    assert [cell[3] for cell in cells] == ["0.00", "0.25", "1.00"], (
        "darker where there is more, and never too dark"
    )
    places = [(float(x), float(y)) for x, y, _, _ in cells]
    assert places[1][0] == places[2][0] > places[0][0] and places[1][1] < places[2][1]
    assert all(float(x) + float(width) <= 400 for x, _, width, _ in cells)
    assert "&lt;1&gt;" in svg and "deep, 2: 0.25" in svg
    assert heat_map("m", "M", [], ["1"], width=400) == ""


def test_the_grid_is_drawn_by_depth_and_length() -> None:
    grid = [Needle(length, depth, 2, 0.5, 1.0, depth) for length in (512, 256) for depth in (0.0, 1.0)]
    chart = needle_finding(grid, TABLE).chart
    assert chart.count("<svg") == 2 and chart.count('class="heat"') == 8
    assert "0% deep, 256 tokens: 0%; 0% deep, 512 tokens: 0%; 100% deep, 256 tokens: 100%" in chart


def test_the_best_and_the_worst_are_drawn_where_they_differ() -> None:
    alike, spread = [Point(0, (0.5,)), Point(2, (0.5, 0.5))], [Point(0, (0.5,)), Point(2, (0.25, 0.75))]
    assert curve_finding(alike, 0.5, TABLE, "right").chart.count("<polyline") == 2
    assert curve_finding(spread, 0.5, TABLE, "right").chart.count("<polyline") == 6
