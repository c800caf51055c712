"""A run folder such as a process at work leaves it, written by the tests themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Written:
    """A run's folder, and what a running stage does to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "recipe.yaml").write_text("name: demo\nstages: [corpus, pretrain, sft]\n")

    def begin(self, stage: str, steps: int | None = None, owner: int | None = None) -> Path:
        """Stage `stage` is begun by the process `owner`, by default this one."""
        folder = self.folder / stage
        folder.mkdir(exist_ok=True)
        (folder / "begun.json").write_text(json.dumps({"key": "k"} | ({"steps": steps} if steps else {})))
        (self.folder / ".owner").write_text(str(owner or os.getpid()))
        return folder / "metrics.jsonl"

    def finish(self, stage: str, seconds: float = 3.0) -> None:
        (self.folder / stage).mkdir(exist_ok=True)
        (self.folder / stage / "manifest.json").write_text(json.dumps({"stage": stage, "seconds": seconds}))
        (self.folder / stage / "begun.json").unlink(missing_ok=True)


def line(step: int, **more: Any) -> bytes:
    """A line as the trainer writes it."""
    figures = {
        "step": step,
        "seconds": 10.0 + step,
        "loss": 8 / (step + 1),
        "gradient_norm": 1.5,
        "learning_rate": 0.01,
        "step_seconds": 0.5,
    }
    return json.dumps(figures | more).encode() + b"\n"


def lines(steps: Iterable[int], **more: Any) -> bytes:
    return b"".join(line(step, **more) for step in steps)
