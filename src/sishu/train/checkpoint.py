"""Where a training stage can go on after a kill: weights and optimizer in float32, and the step."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sishu.console import UserError
from sishu.files import write_atomic
from sishu.train.optimizer import Optimizer

STATE, TENSORS = "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint holds beside tensors."""

    step: int
    """Steps done."""
    metrics_offset: int
    source: dict[str, Any]


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write `folder`/step-N whole or not at all, then drop older ones."""
    final = folder / f"step-{progress.step:08d}"
    temporary = folder / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"model.{n}": w for n, w in model.state_dict().items()} | optimizer.tensors()
    save_file(
        {n: t.detach().contiguous().cpu() for n, t in tensors.items()},
        temporary / TENSORS,
    )
    with (temporary / TENSORS).open("rb") as file:
        os.fsync(file.fileno())
    state = {
        "step": progress.step,
        "metrics_offset": progress.metrics_offset,
        "source": progress.source,
    }
    write_atomic(temporary / STATE, json.dumps(state))
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    for old in sorted(folder.glob("step-*")):
        if old != final:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer) -> Progress | None:
    """Restore the newest checkpoint, or None when there is none."""
    found = sorted(folder.glob("step-*"))
    if not found:
        return None
    newest = found[-1]
    try:
        tensors = load_file(newest / TENSORS)
        state = json.loads((newest / STATE).read_text(encoding="utf-8"))
        own = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        model.load_state_dict(own)
        optimizer.restore(tensors)
        return Progress(state["step"], state["metrics_offset"], state["source"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"The checkpoint {newest} is damaged ({type(error).__name__}): delete {folder} and run again."
        ) from error
