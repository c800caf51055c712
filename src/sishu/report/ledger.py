"""Time, cost and lineage: what each stage took, and the digests every number hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sishu.report.charts import Bar, bar_chart, both_widths
from sishu.report.figures import RunFigures, Stage, dictionary, number, words
from sishu.report.shapes import Section, Table
from sishu.report.wording import (
    NOTHING,
    bytes_words,
    clipped,
    date_words,
    duration_words,
    number_words,
    percent_words,
)

_MOST_ROWS = 200
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Everything that made one stage what it is."""

    name: str
    number: int
    finished: bool
    facts: list[tuple[str, str, bool]]
    """(name, words, whether they are code: a digest or a command)"""
    inputs: list[tuple[str, str, str, str]]
    """(name, path, digest, the stage it came from or "")"""
    outputs: list[tuple[str, str, str]]
    """(path, size, SHA-256)"""
    figures: list[tuple[str, str]]
    left_out: int
    """Rows of the three lists above not shown because there were too many."""


def time_and_cost(run: RunFigures) -> Section:
    """Working time of each stage, how often it was resumed, and its cost where one is stated."""
    section = Section()
    timed = [(stage, _seconds(stage)) for stage in run.stages.values()]
    known = [(stage, seconds) for stage, seconds in timed if seconds is not None]
    total = sum(seconds for _, seconds in known)
    if not known:
        return section
    bars = [Bar(clipped(stage.name, 34), seconds, duration_words(seconds)) for stage, seconds in known]
    section.draw(
        both_widths(
            lambda ident, width: bar_chart(ident, "Working time of each stage", bars, width=width),
            "time",
        ),
        "Working time of each stage, over all the pieces it was resumed in.",
    )
    costs = {stage.name: _cost(stage) for stage, _ in known}
    priced = any(words_of_cost for words_of_cost in costs.values())
    rows = []
    for stage, seconds in known:
        resumed = number(stage.manifest, "resumed")
        rows.append(
            [
                stage.name,
                number_words(round(seconds, 1)),
                duration_words(seconds),
                percent_words(seconds / total) if total else NOTHING,
                number_words(resumed),
                *([costs[stage.name] or NOTHING] if priced else []),
            ]
        )
    rows.append(
        [
            "together",
            number_words(round(total, 1)),
            duration_words(total),
            "",
            "",
            *([_total_cost(run)] if priced else []),
        ]
    )
    head = [
        "Stage",
        "Seconds",
        "Working time",
        "Share",
        "Resumed",
        *(["Cost"] if priced else []),
    ]
    table = Table(head, rows, [len(rows) - 1], [*(stage.name for stage, _ in known), ""])
    section.tables.append(("Time" + (" and cost" if priced else ""), table, ""))
    return section


def lineage(run: RunFigures) -> list[Ancestry]:
    """The ancestry of every stage, in the order of the road."""
    makers = _makers(run)
    return [_ancestry(stage, run, makers) for stage in run.stages.values()]


def _ancestry(stage: Stage, run: RunFigures, makers: dict[str, str]) -> Ancestry:
    manifest = stage.manifest
    versions = dictionary(manifest, "versions")
    told = ", ".join(f"{name} {words(versions, name)}" for name in sorted(versions))
    facts = [
        ("command", words(manifest, "command"), True),
        ("seed", words(manifest, "seed"), False),
        ("key", words(manifest, "key"), True),
        ("config", words(manifest, "config_digest"), True),
        ("code", words(manifest, "code_digest"), True),
        ("machine", _machine(manifest), False),
        ("versions", told, False),
        ("time", _from_to(manifest), False),
    ]
    given = dictionary(manifest, "inputs")
    inputs = []
    for name in sorted(given):
        path, digest = words(given, name, "path"), words(given, name, "digest")
        inputs.append((f"{name}", path, digest, _origin(path, digest, stage, run, makers)))
    made = dictionary(manifest, "outputs")
    outputs = [
        (
            f"{path}",
            bytes_words(number(made, path, "bytes")),
            words(made, path, "sha256"),
        )
        for path in sorted(made)
    ]
    figures = _flat(dictionary(manifest, "figures"))
    longest: Sequence[Sequence[object]] = (inputs, outputs, figures)
    return Ancestry(
        name=stage.name,
        number=stage.number,
        finished=bool(manifest),
        facts=[(name, clipped(text, 2000), code) for name, text, code in facts if text],
        inputs=inputs[:_MOST_ROWS],
        outputs=outputs[:_MOST_ROWS],
        figures=figures[:_MOST_ROWS],
        left_out=sum(max(len(rows) - _MOST_ROWS, 0) for rows in longest),
    )


def _makers(run: RunFigures) -> dict[str, str]:
    """The stage that made each digest: its outputs' and its own key."""
    makers: dict[str, str] = {}
    for stage in run.stages.values():
        outputs = dictionary(stage.manifest, "outputs")
        digests = [words(outputs, path, "sha256") for path in outputs]
        for digest in (words(stage.manifest, "key"), *digests):
            if digest:
                makers.setdefault(digest, stage.name)
    return makers


def _origin(path: str, digest: str, stage: Stage, run: RunFigures, makers: dict[str, str]) -> str:
    origin = makers.get(digest, "")
    if not origin:
        parts = PurePosixPath(path.replace("\\", "/")).parts
        origin = next((part for part in reversed(parts) if part in run.stages), "")
    return "" if origin == stage.name else origin


def _machine(manifest: dict[str, object]) -> str:
    machine = dictionary(manifest, "machine")
    told = [words(machine, "cpu")]
    told += [f"{words(machine, name)} {name}" for name in ("cores", "threads") if name in machine]
    told += [f"on {words(machine, 'device')}"] if words(machine, "device") else []
    return ", ".join(part for part in told if part)


def _from_to(manifest: dict[str, object]) -> str:
    resumed = number(manifest, "resumed")
    started, finished = words(manifest, "started"), words(manifest, "finished")
    told = f"{date_words(started)} to {date_words(finished)}"
    if told == " to ":
        return ""
    times = "once" if resumed == 1 else f"{number_words(resumed)} times"
    return told + (f", resumed {times}" if resumed else "")


def _seconds(stage: Stage) -> float | None:
    """Working time: the manifest's, or the last that a running stage has logged."""
    seconds = number(stage.manifest, "seconds")
    if seconds is None and stage.metrics:
        seconds = max((value for _, value in stage.curve("seconds")), default=None)
    return seconds


def _cost(stage: Stage) -> str:
    """The stated cost: `cost` is an amount, or {amount, currency, hourly_price}."""
    amount, currency, price = _cost_parts(stage)
    if amount is None:
        return ""
    at = f" at {price:,.2f}/h" if price is not None else ""
    return f"{amount:,.2f} {currency}".strip() + at


def _cost_parts(stage: Stage) -> tuple[float | None, str, float | None]:
    figures = dictionary(stage.manifest, "figures")
    if dictionary(figures, "cost"):
        return (
            number(figures, "cost", "amount"),
            words(figures, "cost", "currency"),
            number(figures, "cost", "hourly_price"),
        )
    return number(figures, "cost"), "", None


def _total_cost(run: RunFigures) -> str:
    by_currency: dict[str, float] = {}
    for stage in run.stages.values():
        amount, currency, _ = _cost_parts(stage)
        if amount is not None:
            by_currency[currency] = by_currency.get(currency, 0.0) + amount
    return " + ".join(f"{amount:,.2f} {currency}".strip() for currency, amount in sorted(by_currency.items()))


def _flat(figures: dict[str, object], before: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Nested figures as (dotted name, words), by name."""
    rows: list[tuple[str, str]] = []
    for name in sorted(figures):
        value = figures[name]
        if isinstance(value, dict) and depth == _DEEPEST:
            rows.append((f"{before}{name}", "…"))
        elif isinstance(value, dict):
            rows += _flat(value, f"{before}{name}.", depth + 1)
        else:
            rows.append((f"{before}{name}", clipped(f"{value}", 300)))
    return rows
