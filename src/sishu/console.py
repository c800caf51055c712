"""What the user sees while waiting, and what is written down for later: progress, plain lines, metrics."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

PATIENCE = 2.0
"""Seconds of silence before a progress display appears."""
PLAIN_INTERVAL = 15.0
"""Seconds between progress lines when the output is not a terminal."""
LONGEST_LINE = 1 << 16
"""Bytes at the end of `metrics.jsonl` among which its last line is looked for."""

_out = RichConsole(highlight=False, soft_wrap=True)
_state = {"quiet": False}


class UserError(Exception):
    """A mistake the user can mend: one sentence naming the cause and the mend; the command exits with 2."""


def set_quiet(quiet: bool) -> None:
    """Silence everything but results and errors."""
    _state["quiet"] = quiet


def say(text: str) -> None:
    """A line for the user, unless quiet. The text is shown as it is: no markup is read in it."""
    if not _state["quiet"]:
        _out.print(text, markup=False)


def warn(text: str) -> None:
    """A line that matters even when quiet, on standard error."""
    print(text, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 document", "2,000 documents"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table, numbers to the right; printed even when quiet because it is a result."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _out.print(table)


class Bar:
    """Progress of one piece of work; made by `progress`."""

    def __init__(self, label: str, total: int | None, unit: str, done: int) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._first = done
        self._start = self._printed = time.monotonic()
        self._rich: Progress | None = None
        self._task: TaskID | None = None

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more units are done; `note` says how it goes, such as the loss."""
        self.done += amount
        now = time.monotonic()
        if _state["quiet"] or now - self._start < PATIENCE:
            return
        if _out.is_terminal:
            self._draw(note)
        elif now - self._printed >= PLAIN_INTERVAL or self.done == self.total:
            self._printed = now
            say(self._line(note, now))

    def _line(self, note: str, now: float) -> str:
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        parts = [f"{self.label}: {self.done:,}" + (f"/{self.total:,}" if self.total else "")]
        parts[0] += f" {self.unit}"
        parts.append(f"{rate:,.1f} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        return ", ".join([*parts, note] if note else parts)

    def _draw(self, note: str) -> None:
        if self._rich is None:
            self._rich = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} {task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=_out,
                transient=True,
            )
            self._rich.start()
            self._task = self._rich.add_task(self.label, total=self.total, unit=self.unit, note="", rate="")
        rate = (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)
        assert self._task is not None
        self._rich.update(self._task, completed=self.done, note=note, rate=f"{rate:,.1f}/s")

    def close(self) -> None:
        """Take the display away."""
        if self._rich is not None:
            self._rich.stop()


@contextmanager
def progress(label: str, total: int | None, unit: str, done: int = 0) -> Iterator[Bar]:
    """A progress display that appears after two seconds: a bar with rate and remaining time on a
    terminal, a line now and then elsewhere, nothing when quiet."""
    bar = Bar(label, total, unit, done)
    try:
        yield bar
    finally:
        bar.close()


class Sink(Protocol):
    """Where a stage's metrics go beside `metrics.jsonl`."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of one step."""

    def flush(self) -> None:
        """Keep safe what was written: the stage may come back to here."""

    def close(self, finished: bool) -> None:
        """The stage is finished, or it was stopped."""


Follow = Callable[[int, int], Sequence[Sink]]
"""(the step to go on with, the first step that no sink was given yet) -> sinks. The first is below the second
where a killed stage goes back to its checkpoint."""


class Metrics:
    """`metrics.jsonl`: one JSON object a line, flushed as written, cut back on resume so that a resumed
    stage writes the lines of an uninterrupted one. The sinks that `follow` opens get the same figures."""

    def __init__(self, path: Path, offset: int | None = None, follow: Follow | None = None) -> None:
        told = _steps(path) if follow else 0
        if offset is None or not path.exists():
            path.write_bytes(b"")
        else:
            with path.open("r+b") as file:
                file.truncate(offset)
        self._file = path.open("ab")
        self._sinks = follow(_steps(path), told) if follow else ()

    def write(self, figures: dict[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(figures, ensure_ascii=False)
        self._file.write(line.encode("utf-8") + b"\n")
        self._file.flush()
        step = figures.get("step")
        if self._sinks and isinstance(step, int):
            numbers = {k: float(v) for k, v in figures.items() if k != "step" and _is_number(v)}
            for sink in self._sinks:
                sink.write(step, numbers)

    def offset(self) -> int:
        """How many bytes have been written; who asks means to come back to here."""
        for sink in self._sinks:
            sink.flush()
        return self._file.tell()

    def close(self, finished: bool = False) -> None:
        """Nothing more will be written."""
        self._file.close()
        sinks, self._sinks = self._sinks, ()
        for sink in sinks:
            sink.close(finished)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _steps(path: Path) -> int:
    """One more than the step of the last whole line, 0 where there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_LINE))
        lines = file.read().split(b"\n")[:-1]
    try:
        return int(json.loads(lines[-1])["step"]) + 1 if lines else 0
    except (ValueError, KeyError, TypeError):
        return 0
