"""A page for what one command has measured: plots and tables under headings, in the look of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

from markupsafe import Markup

from sishu.evaluate.few_shot import Point
from sishu.evaluate.long_context import Needle
from sishu.report.charts import Level, Line, both_widths, heat_map, line_chart
from sishu.report.shapes import Table
from sishu.report.wording import clipped, shown


@dataclass(frozen=True)
class Finding:
    """One section: what was measured, drawn and as a table."""

    heading: str
    prose: str
    chart: Markup
    table: Table


def findings_page(kind: str, name: str, findings: Sequence[Finding]) -> str:
    """One self-contained HTML page about `name`, for which `kind` was measured: no network, no script."""
    style = (files("sishu.report") / "assets" / "report.css").read_text(encoding="utf-8")
    sections = Markup("\n").join(
        Markup("<section><h2>{}</h2>\n<p>{}</p>\n<figure>{}</figure>\n{}</section>").format(
            shown(one.heading), shown(one.prose), one.chart, _table(one.table)
        )
        for one in findings
    )
    title = clipped(name, 120)
    page = Markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{} · {}</title>\n'
        '<style>{}</style></head>\n<body><main>\n<p class="kind">{}</p>\n<h1>{}</h1>\n{}\n'
        "</main></body></html>\n"
    )
    # the style sheet is our own file; all else is escaped
    return str(page.format(shown(title), shown(kind), Markup(style), shown(kind), shown(title), sections))


def _table(table: Table) -> Markup:
    def cells(row: Sequence[str], first: str, rest: str) -> Markup:
        made = [Markup(f"<{first}>{{}}</{first}>").format(shown(row[0]))]
        made += [Markup(f"<{rest}>{{}}</{rest}>").format(shown(cell)) for cell in row[1:]]
        return Markup("<tr>{}</tr>").format(Markup("").join(made))

    body = Markup("\n").join(cells(row, "th", "td") for row in table.rows)
    return Markup('<div class="scroll"><table><thead>{}</thead>\n<tbody>{}</tbody></table></div>').format(
        cells(table.head, "th", "th"), body
    )


def perplexity_finding(bins: Sequence[tuple[int, int, float]], table: Table) -> Finding:
    """The perplexity (`bins` of positions from, to, perplexity) by position in the context."""

    def draw(ident: str, width: int) -> Markup:
        line = Line("", [((a + b) / 2, perplexity) for a, b, perplexity in bins], lambda y: f"{y:.2f}")
        return line_chart(
            ident,
            "Perplexity by position",
            [line],
            width=width,
            unit="perplexity",
            settling=True,
            along="token",
        )

    prose = (
        "How many tokens the model hesitates between, by how much of the text it has read. It falls as long "
        "as what stands far back is of use, and rises where the model leaves the positions that it knows."
    )
    return Finding("Perplexity by position", prose, both_widths(draw, "perplexity"), table)


def needle_finding(grid: Sequence[Needle], table: Table) -> Finding:
    """Hidden numbers by length and depth: shares of the right number among those compared."""
    lengths, depths = (sorted({getattr(n, name) for n in grid}) for name in ("length", "depth"))
    at = {(n.length, n.depth): n.share for n in grid}

    def draw(ident: str, width: int) -> Markup:
        rows = [(f"{depth:.0%} deep", [at.get((length, depth)) for length in lengths]) for depth in depths]
        columns = [f"{length:,} tokens" if width > 500 else f"{length:,}" for length in lengths]
        return heat_map(ident, "Hidden numbers", rows, columns, width=width, words=_percent)

    prose = (
        "A number is hidden in a text and asked for at its end. A cell is the probability that the model "
        "gives the right number among those compared with it; the table also says how often it went on with "
        "it."
    )
    return Finding("Hidden numbers", prose, both_widths(draw, "needles"), table)


def curve_finding(points: Sequence[Point], chance: float, table: Table, unit: str) -> Finding:
    """The share of right answers by the number of examples, with the best and the worst choice of them."""
    ends: tuple[tuple[str, Callable[[Sequence[float]], float]], ...] = (("best", max), ("worst", min))

    def draw(ident: str, width: int) -> Markup:
        lines = [Line("mean", [(p.shots, p.mean) for p in points], _percent)]
        if any(p.spread for p in points):
            lines += [Line(n, [(p.shots, pick(p.accuracies)) for p in points], _percent) for n, pick in ends]
        levels = [Level("most frequent", chance, _percent)]
        return line_chart(
            ident, "Right answers by examples", lines, width=width, unit=unit, levels=levels, along="examples"
        )

    choices = max(chain([1], (len(p.accuracies) for p in points)))
    prose = f"The share of right answers by the number of examples shown, over {choices} choices of examples."
    return Finding("Right answers by number of examples", prose, both_widths(draw, "curve"), table)


def _percent(share: float) -> str:
    return f"{share:.0%}"
