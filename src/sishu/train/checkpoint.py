"""Where a training stage can go on after a kill: weights and optimizer in float32, and the step.

`checkpoint/step-N/` holds `tensors.safetensors`, `state.json`, and, written last, `digests.json` with the
SHA-256 of both; `checkpoint/best.json` names the one that did best on held-out data.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sishu.console import UserError, say
from sishu.files import dump_json, file_digest, is_disk_full, write_atomic
from sishu.run import is_memory_full
from sishu.train.optimizer import Optimizer

STATE, TENSORS, DIGESTS, BEST = "state.json", "tensors.safetensors", "digests.json", "best.json"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint holds beside tensors."""

    step: int
    """Steps done: the place in the schedule."""
    metrics_offset: int
    """Bytes of `metrics.jsonl` that belong to these steps."""
    source: dict[str, Any]
    """What the batches depend on beside the step."""
    data_step: int = 0
    """The step whose batches come next; more than `step` where a jump of the loss was left behind."""
    rollbacks: int = 0
    """How often training went back to a checkpoint because the loss jumped."""
    health: dict[str, Any] = field(default_factory=dict)
    """What is remembered of losses and gradients."""
    best: dict[str, Any] | None = None
    """The best evaluation so far: `checkpoint`, `figure` and `value`."""


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, progress: Progress, keep: int = 2
) -> None:
    """Write `folder`/step-N whole or not at all, even when the machine stops. The last `keep` stay and the
    best one; those of later steps, which a damaged one or a jump of the loss left behind, do not.

    Raises UserError when there is no room; the checkpoints before stay as they are.
    """
    final, temporary = folder / checkpoint_name(progress.step), folder / ".writing"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary, _tensors(model, optimizer), asdict(progress))
        _put(temporary, final)
        if progress.best is not None and not _says(folder / BEST, progress.best):
            write_atomic(folder / BEST, dump_json(progress.best))
        _sync(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, Exception):
            _no_room(error)
        raise
    earlier = [old for old in _found(folder) if old.name < final.name]
    best = progress.best and progress.best["checkpoint"]
    kept = {final, *earlier[: keep - 1], *(old for old in earlier if old.name == best)}
    for old in _found(folder):
        if old not in kept:
            _drop(old)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer) -> Progress | None:
    """Restore the newest checkpoint that is as it was written, or None when there is none at all. Says which
    ones are damaged, and how; raises UserError when all are."""
    damages: list[tuple[Path, str]] = []
    for place in _found(folder):
        try:
            tensors, state = _read(place)
            own = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
            model.load_state_dict(own)
            optimizer.restore(tensors)
            progress = Progress(**state)
            _restore_random(tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            if is_memory_full(error):
                raise
            damages.append((place, str(error) if isinstance(error, Damage) else type(error).__name__))
            continue
        if damages:
            names = "; ".join(f"{damaged.name}: {what}" for damaged, what in damages)
            say(f"  a damaged checkpoint is left out ({names}); going on from {place.name}")
        return progress
    if damages:
        place, what = damages[0]
        raise UserError(f"The checkpoint {place} is damaged ({what}): delete {folder} and run again.")
    return None


class Damage(ValueError):
    """A file of a checkpoint is not as it was written."""


def _found(folder: Path) -> list[Path]:
    """The checkpoints there are, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """All tensors by name, on the CPU. Of the random states only torch's: no batch, model or objective draws
    from Python's or numpy's own."""
    tensors = {f"model.{n}": w for n, w in model.state_dict().items()} | optimizer.tensors()
    tensors["random.cpu"] = torch.get_rng_state()
    if next(model.parameters()).is_cuda:
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return {n: t.detach().contiguous().cpu() for n, t in tensors.items()}


def _restore_random(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    for index in range(torch.cuda.device_count()):
        if f"random.cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{index}"], index)


def _write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    save_file(tensors, folder / TENSORS)
    with (folder / TENSORS).open("rb") as file:
        os.fsync(file.fileno())
    write_atomic(folder / STATE, json.dumps(state))
    digests = {name: file_digest(folder / name) for name in (TENSORS, STATE)}
    write_atomic(folder / DIGESTS, dump_json(digests))
    _sync(folder)


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint; raises Damage naming the file that is missing or not as written,
    and what the readers raise."""
    for name in (TENSORS, STATE, DIGESTS):
        if not (folder / name).is_file():
            raise Damage(f"{name} is missing")
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        wanted = {name: str(digests[name]) for name in (TENSORS, STATE)}
    except (ValueError, KeyError, TypeError) as error:
        raise Damage(f"{DIGESTS} cannot be read") from error
    for name, digest in wanted.items():
        if file_digest(folder / name) != digest:
            raise Damage(f"{name} does not have the bytes that were written")
    return load_file(folder / TENSORS), json.loads((folder / STATE).read_text(encoding="utf-8"))


def _says(path: Path, what: dict[str, Any]) -> bool:
    return path.is_file() and path.read_bytes() == dump_json(what).encode()


def _put(new: Path, final: Path) -> None:
    """Rename a folder; a damaged one that stands there is taken away first."""
    if final.exists():
        _drop(final)
    new.replace(final)


def _drop(folder: Path) -> None:
    """Delete a folder, out of sight in one step: half of it, after a kill, would be a damaged one."""
    hidden = folder.with_name(".dropped")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.replace(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _no_room(error: Exception) -> None:
    """Raises UserError for an error, of whatever library, that says there is no room for a file."""
    if is_disk_full(error) or "Disk quota exceeded" in str(error):
        raise UserError(
            "The disk is full: free some space; the same command then goes on where it was."
        ) from error
    if (isinstance(error, OSError) and error.errno == errno.EFBIG) or "File too large" in str(error):
        raise UserError(
            "A checkpoint is larger than a file may be here: raise the limit (ulimit -f) or use another "
            "disk; the same command then goes on where it was."
        ) from error
