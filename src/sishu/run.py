"""Run folders: what a stage may write, what it was made from, and when it need not run again.

RUN/<stage>/ holds `begun.json` (what is being made), `config.yaml`, `metrics.jsonl`, the artifacts, and,
written last, `manifest.json`. A stage is finished when its manifest carries the same key (digest of stage,
configuration, inputs, seed and code) as is asked for now; it goes on where it stopped when only `begun.json`
carries that key; anything else starts it afresh.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel

from sishu.config import to_yaml
from sishu.console import Follow, Metrics, UserError
from sishu.files import as_url, dump_json, file_digest, is_disk_full, read_json, sha256, write_atomic
from sishu.processes import ALONE, Processes

MANIFEST, BEGUN, CONFIG = "manifest.json", "begun.json", "config.yaml"
EVENTS = "tensorboard"
"""A stage's folder of TensorBoard's event files, which say when each step was: they are no artifacts."""


@dataclass(frozen=True)
class Input:
    """One thing a stage reads: where it is, and the digest of its bytes."""

    path: Path
    digest: str


@dataclass
class StageContext:
    """What a stage is given: its folder, its inputs, the seed, and where to write figures down."""

    name: str
    folder: Path
    seed: int
    inputs: Mapping[str, Path]
    resumed: bool
    started: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0
    follow: Follow | None = None
    """Opens what gets the metrics beside `metrics.jsonl`."""
    processes: Processes = ALONE
    """Those that work on the stage; only the first one writes."""
    tensor_parallel: int = 1
    """How many of them share every micro-batch."""
    _metrics: Metrics | None = None

    def seconds(self) -> float:
        """Working time of the stage so far, over all its pieces."""
        return self.seconds_before + time.monotonic() - self.started

    def metrics(self, offset: int | None = None) -> Metrics:
        """The stage's `metrics.jsonl`, cut back to `offset` bytes when resuming; nothing's, for any process
        but the first."""
        self.close_metrics(finished=False)
        if not self.processes.first:
            self._metrics = Metrics(Path(os.devnull))
            return self._metrics
        self._metrics = Metrics(self.folder / "metrics.jsonl", offset, self.follow)
        return self._metrics

    def close_metrics(self, finished: bool) -> None:
        """Close the metrics, where the stage wrote some, and what follows them."""
        if self._metrics is not None:
            self._metrics.close(finished)

    def expect(self, steps: int) -> None:
        """Write down how many steps the stage will take, for those who watch it."""
        if not self.processes.first:
            return
        begun = read_json(self.folder / BEGUN)
        write_atomic(self.folder / BEGUN, dump_json(begun | {"steps": steps}))

    def note_time(self) -> None:
        """Write down the working time so far, so that a killed stage keeps what it spent."""
        if not self.processes.first:
            return
        begun = read_json(self.folder / BEGUN)
        write_atomic(
            self.folder / BEGUN,
            dump_json(begun | {"seconds": round(self.seconds(), 3)}),
        )


class Run:
    """A run folder, held by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run; raises UserError at once when another process holds it. The operating system lets
        go of the lock when the process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, owner = FileLock(self.folder / ".lock"), self.folder / ".owner"
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            pid = owner.read_text(encoding="utf-8").strip() if owner.exists() else "unknown"
            raise UserError(
                f"Another process (pid {pid}) is working on {self.folder}: wait for it, stop it, or "
                "choose another folder with --run."
            ) from error
        try:
            write_atomic(owner, str(os.getpid()))
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """A finished stage's manifest, or None."""
        path = self.folder / stage / MANIFEST
        return read_json(path) if path.is_file() else None

    def finished(self, stage: str, key: str) -> bool:
        """Whether the stage stands as asked for: same key, every artifact there with its size."""
        manifest = self.manifest(stage)
        if manifest is None or manifest.get("key") != key:
            return False
        files = ((self.folder / stage / name, about) for name, about in manifest["outputs"].items())
        return all(path.is_file() and path.stat().st_size == about["bytes"] for path, about in files)

    @contextmanager
    def begin(
        self,
        stage: str,
        key: str,
        settings: BaseModel,
        inputs: Mapping[str, Input],
        seed: int,
        follow: Follow | None = None,
        processes: Processes = ALONE,
        tensor_parallel: int = 1,
    ) -> Iterator[tuple[StageContext, dict[str, Any]]]:
        """Open a stage's folder, afresh or where the same work was stopped. Yields the context and a
        dictionary to fill with figures; on a clean exit the manifest is written. `follow` opens what gets
        the metrics beside `metrics.jsonl`. Of several `processes` the first one calls it."""
        folder = self.folder / stage
        begun = read_json(folder / BEGUN) if (folder / BEGUN).is_file() else {}
        resumed = begun.get("key") == key and not (folder / MANIFEST).exists()
        if not resumed:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            begun = {"key": key, "started": _now(), "seconds": 0.0, "resumed": 0}
            write_atomic(folder / CONFIG, to_yaml(settings))
        else:
            begun["resumed"] += 1
        write_atomic(folder / BEGUN, dump_json(begun))
        context = StageContext(
            stage,
            folder,
            seed,
            {name: item.path for name, item in inputs.items()},
            resumed,
            seconds_before=begun["seconds"],
            follow=follow,
            processes=processes,
            tensor_parallel=tensor_parallel,
        )
        figures: dict[str, Any] = {}
        try:
            yield context, figures
            context.close_metrics(finished=True)
        except BaseException as error:
            with suppress(Exception):  # the first error is the one to tell
                context.close_metrics(finished=False)
            # on a full disk even this small note may fail; the first error is the one to tell
            if not is_disk_full(error):
                context.note_time()
            raise
        manifest = {
            "stage": stage,
            "key": key,
            "config_digest": sha256(to_yaml(settings).encode()),
            "code_digest": code_digest(stage_module(stage)),
            "inputs": {
                name: {"path": _relative(item.path, self.folder), "digest": item.digest}
                for name, item in inputs.items()
            },
            "seed": seed,
            "versions": versions(),
            "machine": machine() | ({"processes": processes.size} if processes.size > 1 else {}),
            "command": shlex.join(["sishu", *sys.argv[1:]]),
            "started": begun["started"],
            "finished": _now(),
            "seconds": round(context.seconds(), 3),
            "resumed": begun["resumed"],
            "figures": figures,
            "outputs": _outputs(folder),
        }
        write_atomic(folder / MANIFEST, dump_json(manifest))
        (folder / BEGUN).unlink()

    def input_from(self, stage: str, path: str) -> Input:
        """An artifact (file or folder) of a finished stage as another stage's input."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise UserError(f"{self.folder} has no finished {stage} stage: run `sishu {stage}` first.")
        files = {
            name: about["sha256"]
            for name, about in sorted(manifest["outputs"].items())
            if path in (".", name) or name.startswith(path + "/")
        }
        if not files:
            raise UserError(f"The {stage} stage of {self.folder} has no {path}: run it again.")
        return Input(self.folder / stage / path, sha256(dump_json(files).encode()))


def check_external(path: Path) -> None:
    """Raises UserError when a file or folder from outside the run is missing, or is an empty folder. Whether
    there is something at an address (https://…, s3://…) is found out when it is read."""
    if path.is_file() or (as_url(path) and not path.exists()):
        return
    if not path.is_dir():
        raise UserError(f"There is no file or folder {path}: check the path.")
    if next(_visible_files(path), None) is None:
        raise UserError(f"The folder {path} is empty: put the files to read there.")


def external_input(path: Path) -> Input:
    """A file or folder from outside the run; raises UserError when it is missing or an empty folder. What
    lies at an address is taken to stay as it is."""
    check_external(path)
    if path.is_file():
        return Input(path, file_digest(path))
    if not path.is_dir():
        return Input(path, sha256(str(path).encode()))
    files = {str(file.relative_to(path)): file_digest(file) for file in sorted(_visible_files(path))}
    return Input(path, sha256(dump_json(files).encode()))


def _visible_files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden:
            yield file


def stage_key(stage: str, settings: BaseModel, inputs: Mapping[str, Input], seed: int) -> str:
    """The digest of all that decides a stage's bytes."""
    parts = {
        "stage": stage,
        "config": settings.model_dump(mode="json"),
        "inputs": {name: item.digest for name, item in inputs.items()},
        "seed": seed,
        "code": code_digest(stage_module(stage)),
    }
    return sha256(dump_json(parts).encode())


def stage_module(stage: str) -> str:
    """The module that holds a stage."""
    for room in ("stages", "evaluate", "report", "scaling"):
        name = f"sishu.{room}.{stage}"
        if importlib.util.find_spec(name) is not None:
            return name
    raise UserError(f"There is no stage {stage!r}.")


@cache
def code_digest(module: str) -> str:
    """Digest of a module and of every sishu module it imports, or names in full in a string, comments and
    layout aside."""
    digests: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        digests[name] = sha256(ast.dump(tree).encode())
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [
                    node.module,
                    *(f"{node.module}.{alias.name}" for alias in node.names),
                ]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Constant) and re.fullmatch(r"sishu(\.\w+)+", str(node.value)):
                names = [str(node.value)]  # a module that is started as a process of its own
            waiting += [n for n in names if n.startswith("sishu.") and _is_module(n)]
    return sha256(dump_json(dict(sorted(digests.items()))).encode())


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside a module, not a module
        return False


def is_memory_full(error: BaseException) -> bool:
    """Whether an error says that the memory, of the machine or of its GPU, is full."""
    words = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("sishu", "torch", "numpy", "tokenizers")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


@cache
def machine() -> dict[str, Any]:
    """The processor, the device, and how many threads compute."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(
            (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")),
            name,
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }


def _outputs(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(_visible_files(folder))
        if file.name not in (MANIFEST, BEGUN) and file.relative_to(folder).parts[0] != EVENTS
    }


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
