"""The pieces a section hands to the page: facts, tables, figures, and names for models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sishu.report.charts import Level, Line, line_chart
from sishu.report.figures import Stage
from sishu.report.scales import Point

NAMES = {
    "random": "random weights",
    "base": "base model",
    "sft": "after SFT",
    "ppo": "after PPO",
    "ppo_without_ptx": "after PPO without ptx",
    "kneser_ney_5": "Kneser–Ney 5-gram",
    "xz": "xz, training text known",
    "xz_alone": "xz, held-out text alone",
}
"""What the page calls the models and baselines of eval.json, in the order they are shown."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One number with what it means and the stage it comes from."""

    value: str
    label: str
    note: str
    stage: str


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of words; the first column names the row, the others are set as numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()
    """Indices of rows to set bold."""
    stages: Sequence[str] = ()
    """The stage each row comes from, where that differs from row to row."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its caption and the stages its numbers come from."""

    chart: Markup
    caption: str
    stages: Sequence[str] = ()


@dataclass(slots=True)
class Section:
    """What one section of the page shows; the template adds its heading and its prose."""

    facts: list[Fact] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    small: list[Figure] = field(default_factory=list)
    """Small multiples, set two to a row."""
    tables: list[tuple[str, Table, str]] = field(default_factory=list)
    """(caption, table, stage)"""
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.facts or self.figures or self.small or self.tables or self.notes)

    def draw(self, chart: Markup, caption: str, *stages: str, small: bool = False) -> None:
        """Adds a figure unless its chart came out empty."""
        if chart:
            (self.small if small else self.figures).append(Figure(chart, caption, stages))

    def state(
        self,
        value: float | None,
        words: Callable[[float], str],
        label: str,
        note: str,
        stage: str,
    ) -> None:
        """Adds a fact unless its value is missing."""
        if value is not None:
            self.facts.append(Fact(words(value), label, note, stage))


def name_of(model: str) -> str:
    """What the page calls a model or baseline."""
    return NAMES.get(model, model)


def in_order(names: Sequence[str]) -> list[str]:
    """Known models in the order of `NAMES`, then unknown ones by name."""
    return [name for name in NAMES if name in names] + sorted(set(names) - set(NAMES))


def clock(stage: Stage) -> list[Point]:
    """(step, seconds) for the time row of a chart, never running backwards."""
    points: list[Point] = []
    for step, seconds in stage.curve("seconds"):
        points.append((step, max(seconds, points[-1][1]) if points else seconds))
    return points


def curve_of(stage: Stage, name: str, label: str) -> Line:
    """A metric of a stage as a line."""
    return Line(label, stage.curve(name))


def small_chart(stage: Stage, metric: str, title: str, levels: Sequence[Level]) -> Markup:
    """A small multiple of one metric of a stage, the last value at the line's end."""
    return line_chart(
        f"{stage.name}-{metric.replace('_', '-')}",
        title,
        [curve_of(stage, metric, "")],
        width=350,
        height=180,
        levels=levels,
    )
