"""A `metrics.jsonl` that is being written: read on from where it was read to, from the beginning when it was
cut back."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from typing import BinaryIO

from sishu.watch.curves import Curve

READ_AT_ONCE = 1 << 22
"""Bytes of a long file that are read before a first answer is given."""
FINGERPRINT = 4096
"""Bytes before the place read to that must be as they were. A line says how long its step took, so that a
line written again is another."""
PACE = 200
"""Lines that the pace is taken from."""
SAMPLES = 5
"""Texts that are kept, the newest."""
TOKENS, STEPS = "tokens_per_second", "steps_per_second"
NO_CURVE = ("step", "seconds", "step_seconds", "eta_seconds", "tokens", "data_step")


class MetricsFile:
    """The curves in a stage's `metrics.jsonl`, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        """Changes whenever there is something new."""
        self.step_tokens: float | None = None
        """Tokens of a step, where the lines do not say."""
        self._forget()

    def _forget(self) -> None:
        self.version += 1
        self.curves: dict[str, Curve] = {}
        self.samples: deque[tuple[int, str, str]] = deque(maxlen=SAMPLES)
        """(step, name, text)"""
        self.steps = 0
        """Steps done."""
        self.share = 1.0
        """Of the file that was read."""
        self._pace: deque[tuple[int, float]] = deque(maxlen=PACE)
        self._offset, self._tail = 0, b""

    def read(self) -> None:
        """Read on, whole lines only, at most `READ_AT_ONCE` bytes; a missing file is an empty one."""
        try:
            with self.path.open("rb") as file:
                if not self._goes_on(file):
                    self._forget()
                file.seek(self._offset)
                data = file.read(READ_AT_ONCE)
                size = file.seek(0, 2)
        except OSError:
            if self._offset:
                self._forget()
            return
        whole = data.rfind(b"\n") + 1
        if whole:
            for line in data[:whole].split(b"\n"):
                self._take(line)
            self.version += 1
        elif len(data) == READ_AT_ONCE:
            whole = len(data)  # no line is so long: this is no metrics file
        self._offset += whole
        self._tail = (self._tail + data[:whole])[-FINGERPRINT:]
        self.share = self._offset / size if size - self._offset > FINGERPRINT else 1.0

    def seconds_a_step(self) -> float | None:
        """Working time of a step, evaluations and all, over the last lines."""
        if len(self._pace) < 2:
            return None
        (first, began), (last, now) = self._pace[0], self._pace[-1]
        return (now - began) / (last - first) if last > first and now >= began else None

    def seconds(self) -> float | None:
        """Working time up to the last line."""
        return self._pace[-1][1] if self._pace else None

    def last(self, name: str) -> float | None:
        """The last value of a curve."""
        return self.curves[name].last if name in self.curves else None

    def _goes_on(self, file: BinaryIO) -> bool:
        file.seek(self._offset - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _take(self, line: bytes) -> None:
        try:
            figures = json.loads(line)
        except ValueError:  # half a line that a kill left, or an empty one
            return
        if not isinstance(figures, dict):
            return
        step = figures.get("step")
        if type(step) is not int or step < 0:
            return
        self.steps = step + 1
        try:
            numbers = {n: v for n, v in figures.items() if type(v) in (int, float) and math.isfinite(v)}
        except OverflowError:  # a whole number beyond all floats
            return
        if "seconds" in numbers:
            self._pace.append((step, numbers["seconds"]))
        if numbers.get("step_seconds", 0) > 0 and TOKENS not in numbers:
            tokens = numbers.get("tokens", self.step_tokens)
            rate = (tokens or 1) / numbers["step_seconds"]
            numbers[TOKENS if tokens else STEPS] = rate
        for name, value in numbers.items():
            if name not in NO_CURVE:
                self.curves.setdefault(name, Curve()).add(step, value)
        for name, value in figures.items():
            texts = value if isinstance(value, list) else [value]
            self.samples.extend((step, name, text) for text in texts if isinstance(text, str))
