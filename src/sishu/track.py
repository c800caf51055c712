"""Where metrics go beside `metrics.jsonl`: event files for TensorBoard, and trackers that a recipe asks for.

Each is a `sishu.console.Sink`. A stage that was killed, or that takes back a few steps, goes on with fewer
steps than its sinks were given. TensorBoard is told to forget these; the trackers, which cannot, are not
given a step twice.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from sishu.console import Follow, Sink, UserError, warn
from sishu.files import dump_json, read_json, write_atomic

Tracker = Literal["wandb", "swanlab", "trackio"]
"""Trackers a recipe can ask for, by the names of their packages."""
TRACKERS: tuple[str, ...] = get_args(Tracker)
PROJECT = "sishu"
FLUSH_SECONDS = 2.0
"""Seconds of events that are held back at most."""


def follow_stage(
    folder: Path, events: str, trackers: Sequence[str], name: str, config: Mapping[str, Any]
) -> Follow:
    """Opens the sinks of the stage in `folder`: TensorBoard's, in its folder `events`, where the package is
    installed, and those of `trackers`, for a run called `name`, such as "quickstart-sft", with the settings
    in `config`."""

    def follow(first: int, told: int) -> Sequence[Sink]:
        sinks: list[Sink] = []
        if installed("tensorboard"):
            sinks.append(TensorBoard(folder / events, first))
        return [*sinks, *(OnlineTracker(t, folder, name, config, told) for t in trackers)]

    return follow


def check_trackers(trackers: Sequence[str]) -> None:
    """Raises UserError when the package of a tracker is missing."""
    for tracker in trackers:
        if not installed(tracker):
            raise UserError(
                f"The recipe's `track` asks for {tracker}, which is not installed: "
                f"run `pip install {tracker}`, or take it out of `track`."
            )


def installed(package: str) -> bool:
    """Whether a package can be imported; a folder of its name, such as trackers leave behind, is none."""
    try:
        spec = find_spec(package)
    except ValueError:  # loaded, by a way of its own
        return True
    return spec is not None and spec.origin is not None


class TensorBoard:
    """Event files of scalars, one for every piece of a stage's work.

    Written record by record in this thread, so that a full disk is an error here like any other. The format:
    `tensorboard/compat/proto/event.proto`; its SessionLog with START takes back steps told before.
    """

    def __init__(self, folder: Path, first: int) -> None:
        if first == 0:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        self._events = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries = import_module("tensorboard.compat.proto.summary_pb2")
        # TensorBoard reads a folder's files in the order of their names
        path = folder / f"events.out.tfevents.{len(list(folder.iterdir())):010d}.sishu"
        self._file = path.open("wb")
        self._records = import_module("tensorboard.summary.writer.record_writer").RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        if first > 0:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(step=first, session_log=start)
        self.flush()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        values = [self._summaries.Summary.Value(tag=k, simple_value=v) for k, v in figures.items()]
        self._write(step=step, summary=self._summaries.Summary(value=values))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """See `Sink`."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self, finished: bool) -> None:
        """See `Sink`."""
        self._file.close()

    def _write(self, **what: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **what)
        self._records.write(event.SerializeToString())


class OnlineTracker:
    """Weights & Biases, SwanLab or Trackio: their packages share `init`, `log` and `finish`.

    One run of the tracker for each stage, gone on with when the stage is: `.track-NAME.json` in the stage's
    folder keeps its id and the first step it was not given. A tracker that fails in the middle is left behind
    with one line, and the training goes on.
    """

    def __init__(self, tracker: str, folder: Path, name: str, config: Mapping[str, Any], told: int) -> None:
        self._tracker, note = tracker, folder / f".track-{tracker}.json"
        noted: dict[str, Any] = read_json(note) if note.is_file() else {"id": uuid.uuid4().hex[:21]}
        self._told = max(told, noted["told"]) if "told" in noted else 0  # a new tracker was told nothing
        write_atomic(note, dump_json(noted | {"told": self._told}))
        self._module: Any = import_module(tracker)
        settings: dict[str, Any] = {"project": PROJECT, "config": dict(config), "resume": "allow"}
        if tracker == "trackio":  # knows runs by their names alone
            settings["name"] = f"{name}-{noted['id'][:6]}"
        else:
            settings |= {"name": name, "id": noted["id"]}
        try:
            self._module.init(**settings)
        except Exception as error:
            raise UserError(
                f"{tracker} could not begin ({_told(error)}): mend that, or take it out of `track`."
            ) from error
        self._works = True

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        if step >= self._told:
            self._try(lambda: self._module.log(dict(figures), step=step))

    def flush(self) -> None:
        """See `Sink`."""

    def close(self, finished: bool) -> None:
        """See `Sink`."""
        ends: dict[str, Callable[[], Any]] = {
            "wandb": lambda: self._module.finish(exit_code=0 if finished else 1),
            "swanlab": lambda: self._module.finish(state="success" if finished else "aborted"),
            "trackio": lambda: self._module.finish(),
        }
        self._try(ends[self._tracker])

    def _try(self, what: Callable[[], Any]) -> None:
        if not self._works:
            return
        try:
            what()
        except Exception as error:
            self._works = False
            warn(f"{self._tracker} failed and gets no more figures ({_told(error)}); the training goes on.")


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
