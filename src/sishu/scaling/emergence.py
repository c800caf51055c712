"""`sishu scaling --emergence`: models of several sizes learn one task from as many examples each, and what
looks sudden in one measure is looked at in another (Schaeffer et al. 2023, arXiv:2304.15004)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from markupsafe import Markup
from pydantic import Field, field_validator

from sishu.config import build, parse_overrides
from sishu.console import counted, say
from sishu.files import dump_json, write_atomic
from sishu.report.charts import Line, both_widths, line_chart
from sishu.report.findings import Finding, findings_page
from sishu.report.shapes import Table
from sishu.report.wording import number_words, percent_words
from sishu.road import make
from sishu.scaling.addition import STAGE, AdditionSettings

ALONG = "log₁₀ weights"


class EmergenceSettings(AdditionSettings):
    """The task, the sizes and the training."""

    widths: list[Annotated[int, Field(ge=8)]] = Field([8, 10, 12, 16, 24, 32], min_length=1)
    """Of the models."""
    seeds: int = Field(3, ge=1)
    """How often each is trained, with other weights and examples."""

    @field_validator("widths")
    @classmethod
    def _rising(cls, values: list[int]) -> list[int]:
        if len(set(values)) < len(values):
            raise ValueError("give different numbers")
        return sorted(values)


@dataclass(frozen=True)
class Size:
    """Models of one size, seed by seed."""

    width: int
    weights: int
    """Outside the embedding."""
    exact: list[float]
    """Share of whole answers that are right."""
    digits: list[float]
    """Share of digits that are right."""
    log_likelihood: list[float]
    """Of a right digit, in nats."""


@dataclass(frozen=True)
class Emergence:
    """All that was found."""

    digits: int
    examples: int
    questions: int
    sizes: list[Size]

    @property
    def title(self) -> str:
        """What was learnt from what."""
        return f"Sums of two numbers of {counted(self.digits, 'digit')}, {self.examples:,} examples each"

    def independent(self, size: Size) -> float:
        """The share of whole answers that would be right if digits were wrong independently of each other."""
        return statistics.mean(share ** (self.digits + 1) for share in size.digits)


def emergence(words: Sequence[str], folder: Path) -> Emergence:
    """Trains the models in `folder`, those that are not there yet, and writes emergence.json.

    Raises UserError for a setting that is wrong.
    """
    s = build(EmergenceSettings, parse_overrides(words), "the task")
    task = AdditionSettings.model_validate({name: getattr(s, name) for name in AdditionSettings.model_fields})
    say(f"{counted(len(s.widths) * s.seeds, 'model')} of widths {', '.join(map(str, s.widths))}.")
    sizes, examples = [], 0
    for width in s.widths:
        settings = task.model_copy(update={"model": s.model.model_copy(update={"width": width})})
        every = []
        for seed in range(1, s.seeds + 1):
            run = make(STAGE, settings, folder / f"width-{width:04d}-seed-{seed}", {}, seed)
            manifest = run.manifest(STAGE.name)
            assert manifest
            every.append(manifest["figures"])
        names = ("exact_match", "digit_accuracy", "log_likelihood")
        sizes.append(Size(width, every[0]["weights"], *([one[name] for one in every] for name in names)))
        examples = every[0]["examples"]
    found = Emergence(s.digits, examples, min(s.questions, 10 ** (2 * s.digits) // 2), sizes)
    plain = {
        "digits": found.digits,
        "examples": found.examples,
        "questions": found.questions,
        "sizes": [vars(size) | {"independent": found.independent(size)} for size in sizes],
    }
    write_atomic(folder / "emergence.json", dump_json(plain))
    return found


def accuracy_table(found: Emergence) -> Table:
    """Means over seeds, and the range of whole answers."""
    rows = [
        (
            str(size.width),
            f"{size.weights:,}",
            percent_words(statistics.mean(size.exact)),
            f"{percent_words(min(size.exact))}–{percent_words(max(size.exact))}",
            percent_words(found.independent(size)),
            percent_words(statistics.mean(size.digits)),
            f"{statistics.mean(size.log_likelihood):.4f}",
        )
        for size in found.sizes
    ]
    return Table(["width", "weights", "answers", "by seed", "digits^n", "digits", "nats a digit"], rows)


def emergence_page(name: str, found: Emergence) -> str:
    """One self-contained page."""
    return findings_page("emergence", name, [_sharp(found), _smooth(found)])


def _curve(found: Emergence, figure: Callable[[Size], float]) -> list[tuple[float, float]]:
    return [(math.log10(size.weights), figure(size)) for size in found.sizes]


def _sharp(found: Emergence) -> Finding:
    def draw(ident: str, width: int) -> Markup:
        lines = [
            Line("answers", _curve(found, lambda s: statistics.mean(s.exact)), percent_words),
            Line("digits^n", _curve(found, found.independent), percent_words),
            Line("digits", _curve(found, lambda s: statistics.mean(s.digits)), percent_words),
        ]
        return line_chart(
            ident, "Right answers by size", lines, width=width, unit="share that is right", along=ALONG
        )

    prose = (
        f"{found.title}, {counted(found.questions, 'question')} that none was taught, means over "
        f"{counted(len(found.sizes[0].exact), 'seed')}. A whole answer is right where each of its "
        f"{found.digits + 1} digits is; digits^n is what this would be if digits were wrong independently."
    )
    return Finding("Whole answers", prose, both_widths(draw, "answers"), accuracy_table(found))


def _smooth(found: Emergence) -> Finding:
    def draw(ident: str, width: int) -> Markup:
        line = Line("", _curve(found, lambda s: statistics.mean(s.log_likelihood)), lambda y: f"{y:.3f}")
        return line_chart(
            ident, "Log-likelihood by size", [line], width=width, unit="nats a digit", along=ALONG
        )

    rows = [
        (str(size.width), *(number_words(value, 4) for value in size.log_likelihood)) for size in found.sizes
    ]
    head = ["width", *(f"seed {seed + 1}" for seed in range(len(found.sizes[0].exact)))]
    prose = (
        "The same models on the same questions: the mean log-probability of a right digit, which has no "
        "threshold to cross. Where it rises steadily while whole answers leap, the leap is the measure's."
    )
    return Finding("A digit at a time", prose, both_widths(draw, "likelihood"), Table(head, rows))
