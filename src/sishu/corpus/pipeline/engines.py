"""Who does the tasks of a corpus: this process, several on this machine, or a cluster by Ray.

Tasks, and so the corpus, are the same for all three.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol
from uuid import uuid4

from sishu.console import UserError
from sishu.corpus.pipeline.parts import condemn
from sishu.corpus.pipeline.plan import Plan
from sishu.corpus.pipeline.tasks import PART, do_task
from sishu.corpus.pipeline.worker import Pulse

PATIENCE = 0.25
"""Seconds between looks at how far the workers are."""
_WORKER = "sishu.corpus.pipeline.worker"
DEATHS = 3
"""Of a worker at the same task without an item to blame, before the work is given up."""


class Engine(Protocol):
    """Does tasks of one kind, in any order and at the same time."""

    def run(self, plan: Plan, task: str, numbers: Sequence[int], done: Callable[[int], None]) -> None:
        """Does the tasks of these numbers; returns when all are done.

        Args:
            plan: of the corpus; its folder must be seen by whoever does the tasks.
            task: the kind, see `tasks.py`.
            numbers: of the parts or buckets.
            done: called now and then with the number of items that are done.

        Raises:
            UserError: what a task said that cannot be mended without the user.
        """


class Here:
    """This process, one task after the other; nothing ends a document that takes too long."""

    def run(self, plan: Plan, task: str, numbers: Sequence[int], done: Callable[[int], None]) -> None:
        """See `Engine`."""
        count = 0

        def watch(item: int) -> None:
            nonlocal count
            if item < 0:
                count += 1
                done(count)

        for number in numbers:
            do_task(plan, task, number, watch)


class Processes:
    """Processes of this machine, each of which may be killed and started again.

    Args:
        workers: at the same time; 0: as many as there are cores.
    """

    def __init__(self, workers: int = 0) -> None:
        self._workers = workers or _cores()

    def run(self, plan: Plan, task: str, numbers: Sequence[int], done: Callable[[int], None]) -> None:
        """See `Engine`."""
        if task != PART and len(numbers) == 1:
            Here().run(plan, task, numbers, done)  # a bucket is no danger, and a process takes time to start
            return
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in numbers:
            waiting.put(number)
        crew = [_Worker(plan, task) for _ in range(min(self._workers, len(numbers)))]
        threads = [threading.Thread(target=worker.work, args=(waiting,)) for worker in crew]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                next((thread for thread in threads if thread.is_alive()), threads[0]).join(PATIENCE)
                done(sum(worker.items() for worker in crew))
                if any(worker.failure for worker in crew):
                    break
        finally:
            for worker in crew:
                worker.stop()
            for thread in threads:
                thread.join()
        for worker in crew:
            if worker.failure:
                raise worker.failure


class Ray:
    """A cluster, or this machine if there is none, by Ray Data; each task in a process of its own there, as
    with `Processes`. The folder of the corpus must be one that all machines of the cluster see.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(self) -> None:
        try:
            import ray.data
        except ImportError as error:
            raise UserError("the engine ray needs Ray: pip install 'sishu[ray]'") from error
        if not ray.is_initialized():
            # Ray lowers the priority of its workers, which on a busy machine stops them altogether
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(logging_level="warning", log_to_driver=False, include_dashboard=False)

    def run(self, plan: Plan, task: str, numbers: Sequence[int], done: Callable[[int], None]) -> None:
        """See `Engine`."""
        import ray.data

        folder = str(plan.folder.resolve())
        tasks = ray.data.from_items(
            [{"number": number} for number in numbers], override_num_blocks=len(numbers)
        )
        count = 0
        for row in tasks.map(partial(_do_one, folder, task)).iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            count += row["items"]
            done(count)


def _do_one(folder: str, task: str, row: dict[str, int]) -> dict[str, Any]:
    """One task, wherever Ray has it done."""
    plan = Plan.load(Path(folder))
    counts = [0]
    try:
        Processes(1).run(plan, task, [row["number"]], counts.append)
    except UserError as error:
        return {"error": str(error), "items": 0}
    return {"error": "", "items": counts[-1]}


class _Worker:
    """One process at a time, and the thread that tells it what to do."""

    def __init__(self, plan: Plan, task: str) -> None:
        self._plan, self._task = plan, task
        pulses = plan.folder / "pulses"
        pulses.mkdir(exist_ok=True)
        self._pulse_path = pulses / uuid4().hex
        self._pulse = Pulse(self._pulse_path)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()
        self._before = 0
        self.failure: Exception | None = None

    def items(self) -> int:
        """How many items are done."""
        return self._before + self._pulse.read()[1]

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        with self._lock:
            self._stopped = True
            if self._process:
                self._process.kill()

    def work(self, waiting: queue.SimpleQueue[int]) -> None:
        """Has tasks done until none is waiting."""
        try:
            while not self._stopped:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                self._do(number)
        except Exception as error:  # told by whoever waits for the thread
            self.failure = error
        finally:
            if self._process:
                self._process.kill()
                self._process.wait()

    def _do(self, number: int) -> None:
        deaths = 0
        while not self._stopped:
            answer = self._ask(number)
            if answer is not None:
                if "errno" in answer:
                    raise OSError(answer["errno"], answer["error"])
                if "error" in answer:
                    raise UserError(answer["error"])
                return
            assert self._process
            code = self._process.wait()
            item, done = self._pulse.read()
            self._process = None
            self._before += done
            self._pulse.write(0, 0)
            if self._stopped:
                return
            if item and self._task == PART:
                slow = code == -signal.SIGPROF
                condemn(self._plan, number, item, "took too long" if slow else "ended the process")
                continue
            deaths += 1
            if deaths == DEATHS:
                raise UserError(_gave_up(self._plan, self._task, number, code))

    def _ask(self, number: int) -> dict[str, Any] | None:
        """The answer of the process; None if it ended."""
        with self._lock:
            if self._stopped:
                return {}
            if self._process is None:
                command = [sys.executable, "-m", _WORKER, str(self._plan.folder), str(self._pulse_path)]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            stdin: IO[str] | None = self._process.stdin
            stdout: IO[str] | None = self._process.stdout
        assert stdin and stdout
        try:
            stdin.write(json.dumps([self._task, number]) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            return None
        answer: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
        return answer


def _gave_up(plan: Plan, task: str, number: int, code: int) -> str:
    what = f"the {task} task {number}"
    if task == PART:
        names = [source.name for source in plan.parts[number]]
        what = f"reading {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return (
        f"a worker process ended {DEATHS} times ({end}) while {what}, before any document that could be left "
        "out; if memory is short, give fewer workers with corpus.workers=1"
    )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
