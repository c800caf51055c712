"""Reads from a run folder what the report says: manifests, metrics, the corpus, the evaluation.

Everything read here was written by other programs, perhaps by a run that was killed, so every
accessor answers "missing" for a value that is absent or of the wrong kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sishu.console import UserError
from sishu.corpus.look.lookup import DOCUMENTS
from sishu.corpus.look.statistics import Statistics, measure
from sishu.report.scales import Point, usable

ROAD = ("crawl", "corpus", "tokenizer", "pretrain", "sft", "reward", "ppo", "eval")
"""The stages in the order of the road. The report itself is not part of what it reports."""

REJECTS_PER_REASON = 2
MOST_REJECTS = 40


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage folder: its manifest ({} while it has not finished) and its metrics."""

    name: str
    number: int
    manifest: dict[str, object]
    metrics: list[dict[str, object]] = field(default_factory=list)
    """One dictionary per step, ascending; later lines for the same step win (a resumed run
    writes again the steps after its checkpoint)."""

    def curve(self, name: str) -> list[Point]:
        """(step, value) of every step at which a usable number was logged as `name`."""
        points = []
        for line in self.metrics:
            step, value = number(line, "step"), number(line, name)
            if step is not None and value is not None:
                points.append((step, value))
        return points


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a run folder says, ready to be put into sections."""

    name: str
    stages: dict[str, Stage]
    """Present stages by name, in the order of the road; others after them, by name."""
    funnel: list[dict[str, object]]
    damaged: dict[str, object]
    """Counts of records that were never pages, by reason."""
    rejects: list[dict[str, object]]
    documents: Statistics | None
    """Counted anew from the corpus's tables; None where there are none."""
    evaluation: dict[str, object]


def read_run(run: Path) -> RunFigures:
    """Everything the report needs from the folder `run`.

    Raises UserError when `run` is no folder, holds no stage, or holds a JSON file or a table of
    documents that cannot be read.
    """
    if not run.is_dir():
        raise UserError(f"there is no run folder at {run}: give the folder a run was written to")
    folders = sorted(path.name for path in run.iterdir() if path.is_dir() and _is_stage(path))
    order = [name for name in ROAD if name in folders]
    order += [name for name in folders if name not in ROAD and name != "report"]
    if not order:
        raise UserError(f"{run} holds no finished stage yet: run a recipe into it first")
    stages = {
        name: Stage(
            name,
            index,
            dictionary(_read_json(run / name / "manifest.json")),
            _read_metrics(run / name / "metrics.jsonl"),
        )
        for index, name in enumerate(order, start=1)
    }
    funnel = _read_json(run / "corpus" / "funnel.json")
    return RunFigures(
        name=run.resolve().name,
        stages=stages,
        funnel=dictionaries(funnel) or dictionaries(funnel, "steps"),
        damaged=dictionary(funnel, "damaged"),
        rejects=_read_rejects(run / "corpus" / "rejects.jsonl"),
        documents=measure(run / "corpus") if (run / "corpus" / DOCUMENTS).is_file() else None,
        evaluation=dictionary(_read_json(run / "eval" / "eval.json")),
    )


def look(data: object, *path: str) -> object:
    """The value under nested keys, None where any of them is missing."""
    for key in path:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def number(data: object, *path: str) -> float | None:
    """The usable number under nested keys; None for anything else (NaN, text, true, missing)."""
    value = look(data, *path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if usable(value) else None


def words(data: object, *path: str) -> str:
    """The text under nested keys; numbers are spelled out; empty for anything else."""
    value = look(data, *path)
    if isinstance(value, str):
        return value
    return f"{value}" if isinstance(value, int | float) else ""


def dictionary(data: object, *path: str) -> dict[str, object]:
    """The dictionary under nested keys, {} for anything else."""
    value = look(data, *path)
    return value if isinstance(value, dict) else {}


def dictionaries(data: object, *path: str) -> list[dict[str, object]]:
    """The dictionaries in the list under nested keys, [] for anything else."""
    value = look(data, *path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_stage(folder: Path) -> bool:
    names = ("manifest.json", "metrics.jsonl", "eval.json", "funnel.json")
    return any((folder / name).is_file() for name in names)


def _read_json(path: Path) -> object:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}): delete that stage's folder and run it again"
        ) from error


def _read_lines(path: Path) -> Iterator[dict[str, object]]:
    """The JSON objects of a file, one a line; broken lines (a run was killed) are passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(data, dict):
                yield data


def _read_metrics(path: Path) -> list[dict[str, object]]:
    by_step: dict[float, dict[str, object]] = {}
    for line in _read_lines(path):
        step = number(line, "step")
        if step is not None:
            by_step.setdefault(step, {}).update(line)
    return [by_step[step] for step in sorted(by_step)]


def _read_rejects(path: Path) -> list[dict[str, object]]:
    """The first few rejects of each step and reason."""
    sample: list[dict[str, object]] = []
    seen: dict[tuple[str, str], int] = {}
    for line in _read_lines(path):
        kind = (words(line, "step"), words(line, "reason"))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= REJECTS_PER_REASON and len(sample) < MOST_REJECTS:
            sample.append(line)
    return sample
