"""A run folder, seen from outside while another process may be working on it: its stages and their charts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from sishu.config import read_yaml
from sishu.console import UserError
from sishu.run import BEGUN, CONFIG, MANIFEST
from sishu.watch.reader import STEPS, TOKENS, MetricsFile

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
KINDS = ("validation_", "last_")
"""Beginnings of names that are drawn into the chart of the name without them."""
HOW = (TOKENS, STEPS, "model_flops_utilisation", "learning_rate", "gradient_norm")
"""How the training goes, in the order shown."""


class RunWatch:
    """What can be told of a run while it goes on. Takes no lock of the run and writes nothing."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError when `folder` is no run's."""
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: give a run's, such as runs/quickstart.")
        if not (folder / RECIPE).is_file():
            raise UserError(
                f"{folder} is no run folder: give one that `sishu run` makes, such as runs/quickstart."
            )
        self.folder = folder
        self._files: dict[str, MetricsFile] = {}
        self._parsed: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._lock = Lock()

    def overview(self) -> dict[str, Any]:
        """The run's name, and for each stage its state and how far it is."""
        with self._lock:
            names = self._names()
            running = self._running(names)
            stages = [self._stage(name, name == running) for name in names]
            return {"run": self.folder.resolve().name, "stages": stages}

    def charts(self, stage: str, seen: int | None = None) -> dict[str, Any] | None:
        """The charts of a stage; None when nothing is new since the version `seen`. Raises KeyError for a
        stage that the run does not have."""
        with self._lock:
            if stage not in self._names():
                raise KeyError(stage)
            file = self._read(stage)
            if file.version == seen:
                return None
            groups: dict[str, list[str]] = {}
            for name in file.curves:
                groups.setdefault(_base(name), []).append(name)
            charts = [
                {
                    "name": base,
                    "lines": [{"name": n, "points": file.curves[n].points()} for n in sorted(names, key=len)],
                }
                for base, names in sorted(groups.items(), key=lambda group: _rank(*group))
            ]
            samples = [{"step": s, "name": n, "text": t} for s, n, t in reversed(file.samples)]
            return {"version": file.version, "read": file.share, "charts": charts, "samples": samples}

    def _names(self) -> list[str]:
        """The recipe's stages, then those that the folder has besides."""
        walked = [str(name) for name in self._yaml(self.folder / RECIPE).get("stages") or []]
        marks = (BEGUN, MANIFEST, METRICS)
        there = sorted(p.parent.name for mark in marks for p in self.folder.glob(f"*/{mark}"))
        return list(dict.fromkeys([*walked, *there]))

    def _running(self, names: list[str]) -> str | None:
        """The stage that a living process works on: the one that was begun, or noted its time, last."""
        if not _alive(self.folder / ".owner"):
            return None
        begun = {name: _modified(self.folder / name / BEGUN) for name in names}
        under_way = [n for n in names if begun[n] and not (self.folder / n / MANIFEST).exists()]
        return max(under_way, key=lambda name: begun[name], default=None)

    def _stage(self, name: str, running: bool) -> dict[str, Any]:
        folder = self.folder / name
        manifest, begun = _json(folder / MANIFEST), _json(folder / BEGUN)
        file = self._read(name)
        if manifest:
            state = "finished"
        elif running:
            state = "running"
        else:
            state = "stopped" if begun or file.steps else "waiting"
        settings = self._yaml(folder / CONFIG).get("train")
        given = settings.get("steps") if isinstance(settings, dict) else None
        total = file.steps if manifest else begun.get("steps") or given
        pace = file.seconds_a_step()
        left = pace * max(0, total - file.steps) if running and pace is not None and total else None
        return {
            "name": name,
            "state": state,
            "steps": file.steps,
            "total": total or None,
            "seconds": manifest.get("seconds") or file.seconds() or begun.get("seconds"),
            "seconds_left": left,
            "loss": file.last("loss"),
            "validation_loss": file.last("validation_loss"),
            "version": file.version,
        }

    def _read(self, stage: str) -> MetricsFile:
        file = self._files.setdefault(stage, MetricsFile(self.folder / stage / METRICS))
        config = self._yaml(self.folder / stage / CONFIG)
        try:  # only a text of one length for all rows has the same tokens at every step
            file.step_tokens = config["model"]["context_length"] * config["train"]["batch"]
        except (KeyError, TypeError):
            file.step_tokens = None
        file.read()
        return file

    def _yaml(self, path: Path) -> dict[str, Any]:
        """A YAML file, parsed again when it has changed; {} where it cannot be read."""
        try:
            about = path.stat()
            mark = (about.st_mtime_ns, about.st_size)
            if self._parsed.get(path, (None,))[0] != mark:
                self._parsed[path] = (mark, read_yaml(path))
        except (OSError, UserError):
            return {}
        return self._parsed[path][1]


def _base(name: str) -> str:
    """The chart of a figure: `layer_gradient_norm/blocks.3` is drawn with those of the other layers."""
    for kind in KINDS:
        name = name.removeprefix(kind)
    return name.partition("/")[0]


def _rank(base: str, names: list[str]) -> int:
    """The loss first, then what is measured on held-out data, then how the training goes, then the rest."""
    if base == "loss":
        return 0
    if any(name.startswith("validation_") for name in names):
        return 1
    if base in HOW:
        return 2 + HOW.index(base)
    return 2 + len(HOW) + ("memory" not in base)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none, or none yet."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _alive(owner: Path) -> bool:
    """Whether the process that noted its number in `owner` still lives. The run's lock itself is not tried:
    for a moment it would be held here."""
    try:
        pid = int(owner.read_text(encoding="utf-8"))
        if os.name == "posix":  # elsewhere the signal 0 is no question
            os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
