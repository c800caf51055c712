"""A process that does the tasks it is told on its input, one line each, and may be killed at any moment.

An item of a part that takes too much processor time, even inside a library, ends the process: the kernel
sees to it. What was being worked on can be read from the pulse, so that whoever started the process can go
around it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import signal
import struct
import sys
import threading
from pathlib import Path

from sishu.console import UserError
from sishu.corpus.pipeline.plan import Plan
from sishu.corpus.pipeline.tasks import do_task

MEMORY = 2_000_000_000
"""Bytes of data that a worker may hold."""
_LEAST = 0.001
"""Seconds for the next turn of an item that has none left: no time at all would mean no limit."""
_PULSE = struct.Struct("<qq")


class Pulse:
    """Two numbers that outlive the process that writes them: the item it is at (0: none) and how many it has
    done."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_PULSE.size))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), _PULSE.size)

    def write(self, item: int, done: int) -> None:
        """Notes both numbers."""
        self._bytes[:] = _PULSE.pack(item, done)

    def read(self) -> tuple[int, int]:
        """The item and the number of those done, as last written."""
        item, done = _PULSE.unpack(self._bytes[:])
        return item, done


class Guard:
    """The watch of `parts.py` that bounds the processor time of each item, however many turns it has."""

    def __init__(self, pulse: Pulse, seconds: float) -> None:
        self._pulse = pulse
        self._seconds = seconds
        self._done = self._item = 0
        self._left: dict[int, float] = {}  # seconds, of items that have had a turn
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, whatever it is doing

    def __call__(self, item: int) -> None:
        if item == self._item:
            return
        if item > 0:
            self._pulse.write(item, self._done)
            left, _ = signal.setitimer(signal.ITIMER_PROF, self._left.get(item, self._seconds))
            self._left[self._item] = max(left, _LEAST)
        else:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._left.clear()
            self._done += 1
            self._pulse.write(0, self._done)
        self._item = max(0, item)


def limit_memory() -> None:
    """Makes the process unable to hold more than `MEMORY`, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def main(folder: str, pulse: str) -> None:
    """Does tasks until the input ends, answering each with a line of JSON: {} or {"error": sentence}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    limit_memory()
    plan = Plan.load(Path(folder))
    guard = Guard(Pulse(Path(pulse)), plan.settings.document_seconds)
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)  # nobody waits for this any more

    threading.Thread(target=listen, daemon=True).start()
    while True:
        task, number = json.loads(asked.get())
        answer: dict[str, object] = {}
        try:
            do_task(plan, task, number, guard)
        except UserError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": f"{error}", "errno": error.errno}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
