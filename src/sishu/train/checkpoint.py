"""Where a training stage can go on after a kill: weights and optimizer in float32, and the step.

`checkpoint/step-N/` holds `tensors.safetensors`, `state.json`, and, written last, `digests.json` with the
SHA-256 of both; `checkpoint/best.json` names the one that did best on held-out data.

Several processes write a file each, `tensors-00001-of-00002.safetensors` and so on, in which every tensor is
whole: put together in turn, it is kept by the process whose file it belongs to. So a checkpoint does not know
how many wrote it, any number of processes goes on from it, and none needs memory for all of it. (torch's own
distributed checkpoints are not used: their metadata is pickled, and the variant without holds weights alone.)
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sishu.console import UserError, say
from sishu.files import dump_json, file_digest, is_disk_full, write_atomic
from sishu.processes import ALONE, Processes
from sishu.run import is_memory_full
from sishu.train.optimizer import Optimizer
from sishu.train.shards import local, spread, whole

STATE, TENSORS, DIGESTS, BEST = "state.json", "tensors.safetensors", "digests.json", "best.json"
T = TypeVar("T")


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
    loss_scale: dict[str, Any] = field(default_factory=dict)
    """What float16's loss is scaled by."""


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    progress: Progress,
    keep: int = 2,
    processes: Processes = ALONE,
) -> None:
    """Write `folder`/step-N whole or not at all, even when the machine stops. The last `keep` stay and the
    best one; those of later steps, which a damaged one or a jump of the loss left behind, do not. All
    `processes` must call it.

    Raises UserError, on all of them, when there is no room; the checkpoints before stay as they are.
    """
    final, temporary = folder / checkpoint_name(progress.step), folder / ".writing"

    def begin() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def complete(digests: dict[str, str]) -> None:
        _write_state(temporary, asdict(progress), digests)
        _put(temporary, final)
        if progress.best is not None and not _says(folder / BEST, progress.best):
            write_atomic(folder / BEST, dump_json(progress.best))
        _sync(folder)

    try:
        _by_first(processes, begin)
        tensors = _tensors(model, optimizer, processes)
        name = _file_of(processes)
        written = _by_all(processes, lambda: _write_tensors(temporary / name, tensors))
        names = [_file_of(Processes(rank, processes.size)) for rank in range(processes.size)]
        _by_first(processes, lambda: complete(dict(zip(names, written, strict=True))))
    except BaseException:
        if processes.first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if processes.first:
        _leave(folder, final, progress.best["checkpoint"] if progress.best else None, keep)


def _leave(folder: Path, newest: Path, best: str | None, keep: int) -> None:
    """Drop the checkpoints that need not be kept."""
    earlier = [old for old in _found(folder) if old.name < newest.name]
    kept = {newest, *earlier[: keep - 1], *(old for old in earlier if old.name == best)}
    for old in _found(folder):
        if old not in kept:
            _drop(old)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, processes: Processes = ALONE
) -> Progress | None:
    """Restore the newest checkpoint that is as it was written, or None when there is none at all. Says which
    ones are damaged, and how; raises UserError when all are. All `processes` must call it."""
    damages: list[tuple[Path, str]] = []
    for name in processes.tell([place.name for place in _found(folder)]):
        place = folder / name
        damage, progress = "", Progress(0, 0, {})
        try:
            tensors, state = _read(place, processes)
            weights = dict(model.state_dict())
            own = {n.removeprefix("model."): tensors[n] for n in tensors if n.startswith("model.")}
            model.load_state_dict({n: spread(t, weights.get(n, t)) for n, t in own.items()})
            optimizer.restore(tensors)
            progress = Progress(**state)
            _restore_random(tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            if is_memory_full(error):
                raise
            damage = str(error) if isinstance(error, Damage) else type(error).__name__
        if damage := next(filter(None, processes.gather(damage)), ""):
            damages.append((place, damage))
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


def _file_of(processes: Processes) -> str:
    """The file that a process writes tensors to."""
    if processes.size == 1:
        return TENSORS
    return f"{Path(TENSORS).stem}-{processes.rank + 1:05d}-of-{processes.size:05d}{Path(TENSORS).suffix}"


def _tensors(model: nn.Module, optimizer: Optimizer, processes: Processes) -> dict[str, Tensor]:
    """Whole tensors by name, on the CPU: all, or this process's share of them. Of the random states only
    torch's: no batch, model or objective draws from Python's or numpy's own."""
    spread_ones = {f"model.{n}": (w, w) for n, w in model.state_dict().items()}
    spread_ones |= {n: (part, optimizer.weight_of(n)) for n, part in optimizer.tensors().items()}
    tensors: dict[str, Tensor] = {}
    filled = [0] * processes.size  # bytes for each file
    for name, (part, weight) in spread_ones.items():
        tensor = whole(local(part.detach()), part if weight is None else weight)
        emptiest = filled.index(min(filled))
        filled[emptiest] += tensor.nbytes
        if emptiest == processes.rank:
            tensors[name] = tensor.contiguous().cpu()
    if processes.first:
        tensors["random.cpu"] = torch.get_rng_state()
        if processes.size == 1 and next(model.parameters()).is_cuda:
            for index, state in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"random.cuda.{index}"] = state
    return tensors


def _restore_random(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    for index in range(torch.cuda.device_count()):
        if f"random.cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{index}"], index)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """The digest of what was written."""
    save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_digest(path)


def _write_state(folder: Path, state: dict[str, Any], digests: dict[str, str]) -> None:
    write_atomic(folder / STATE, json.dumps(state))
    write_atomic(folder / DIGESTS, dump_json(digests | {STATE: file_digest(folder / STATE)}))
    _sync(folder)


class Stored(Mapping[str, Tensor]):
    """The tensors of some files by name; none is read before it is asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[str, Any] = {}
        for path in paths:
            file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _read(folder: Path, processes: Processes) -> tuple[Stored, dict[str, Any]]:
    """Tensors and state of one checkpoint; raises Damage naming the file that is missing or not as written,
    and what the readers raise. Each process looks at some of the files."""
    if not (folder / DIGESTS).is_file():
        raise Damage(f"{DIGESTS} is missing")
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        wanted = {STATE: str(digests[STATE])}
        wanted |= {str(name): str(digest) for name, digest in digests.items() if _is_tensors(name)}
    except (ValueError, KeyError, TypeError) as error:
        raise Damage(f"{DIGESTS} cannot be read") from error
    files = [name for name in wanted if name != STATE]
    for name in (STATE, *files):
        if not (folder / name).is_file():
            raise Damage(f"{name} is missing")
    for name in [STATE, *files][processes.rank :: processes.size]:
        if file_digest(folder / name) != wanted[name]:
            raise Damage(f"{name} does not have the bytes that were written")
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return Stored(folder / name for name in files), state


def _is_tensors(name: str) -> bool:
    return re.fullmatch(r"tensors(-\d{5}-of-\d{5})?\.safetensors", name) is not None


def _by_all(processes: Processes, work: Callable[[], T]) -> list[T]:
    """What `work` gives on each process. Where it fails on one it fails on all; raises UserError where there
    is no room."""
    made: T | None = None
    failure: Exception | None = None
    try:
        made = work()
    except Exception as error:
        failure = _no_room(error) or error
        if processes.size == 1:
            raise failure from error
    sentence = None if failure is None else str(failure)
    if sentence is not None and not isinstance(failure, UserError):
        sentence = (
            f"Process {processes.rank} cannot write its part of a checkpoint ({sentence}): see that all "
            "processes may write to the run's folder; the same command then goes on where it was."
        )
    told = processes.gather((made, sentence))
    if failure is not None:
        raise failure
    for _, reason in told:
        if reason is not None:
            raise UserError(reason)
    return [done for done, _ in told]  # type: ignore[misc]  # who did not fail has made something


def _by_first(processes: Processes, work: Callable[[], None]) -> None:
    """Done by the first process; the others wait, and fail where it fails."""
    _by_all(processes, lambda: work() if processes.first else None)


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


def _no_room(error: Exception) -> UserError | None:
    """What to say of an error, of whatever library, that says there is no room for a file."""
    if is_disk_full(error) or "Disk quota exceeded" in str(error):
        return UserError("The disk is full: free some space; the same command then goes on where it was.")
    if (isinstance(error, OSError) and error.errno == errno.EFBIG) or "File too large" in str(error):
        return UserError(
            "A checkpoint is larger than a file may be here: raise the limit (ulimit -f) or use another "
            "disk; the same command then goes on where it was."
        )
    return None
