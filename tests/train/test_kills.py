"""Killed by the system at twenty moments, training ends with the bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sishu.train.checkpoint import DIGESTS, TENSORS
from sishu.train.throughput import BY_THE_CLOCK

KILLS, STEPS, SEED = 20, 200, 7
TRAINS = Path(__file__).with_name("trains.py")


class Trains:
    """A process that trains in folders it is told, each time in a child of its own."""

    def __init__(self) -> None:
        source = str(Path(__file__).parents[2] / "src")
        self.process = subprocess.Popen(
            [sys.executable, str(TRAINS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    def begin(self, folder: Path) -> int:
        """Start or go on; the child's id."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> int:
        """Wait for the child; its exit status."""
        return self._number()

    def _number(self) -> int:
        """The next number that is printed, less what the training says itself."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().lstrip("-").isdigit():
                return int(line)
        raise AssertionError("the process has ended")


@pytest.fixture(scope="module")
def trains() -> Iterator[Trains]:
    made = Trains()
    yield made
    assert made.process.stdin is not None and made.process.stdout is not None
    made.process.stdin.close()
    made.process.stdout.close()
    made.process.wait(60)


@pytest.fixture(scope="module")
def calm(trains: Trains, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("calm")
    trains.begin(folder)
    assert trains.end() == 0
    return folder


def figures(run: Path) -> list[dict[str, Any]]:
    """The metrics, less what the clock decides."""
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in BY_THE_CLOCK} for x in lines]


def written(run: Path) -> int:
    """How many steps are noted so far."""
    path = run / "pretrain" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill(trains: Trains, run: Path, moment: str, steps: int, delay: float) -> None:
    """Go on until `steps` steps are noted; then kill it `delay` seconds later, or at the next moment in which
    it can be held."""
    child = trains.begin(run)
    wait_for(lambda: written(run) >= steps)
    if moment == "anywhere":
        time.sleep(delay)
    else:
        (run / moment).touch()
        wait_for((run / "held").exists)
    os.kill(child, signal.SIGKILL)
    assert trains.end() == -signal.SIGKILL
    (run / moment).unlink(missing_ok=True)
    (run / "held").unlink(missing_ok=True)


def same(run: Path, calm: Path) -> None:
    assert (run / "weights.safetensors").read_bytes() == (calm / "weights.safetensors").read_bytes()
    assert [line["step"] for line in figures(calm)] == list(range(STEPS))
    assert figures(run) == figures(calm)


def test_twenty_kills_change_nothing(trains: Trains, calm: Path, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    for number in range(KILLS):
        moment = ("anywhere", "half", "evaluating", "anywhere", "whole")[number % 5]
        kill(trains, tmp_path, moment, number * (STEPS - 60) // KILLS, 0.03 * chance.random())
    trains.begin(tmp_path)
    assert trains.end() == 0
    same(tmp_path, calm)


@pytest.mark.parametrize("file", [TENSORS, DIGESTS])
def test_a_flipped_bit_after_a_kill_changes_nothing(
    trains: Trains, calm: Path, tmp_path: Path, file: str
) -> None:
    kill(trains, tmp_path, "anywhere", 50, 0.0)
    newest = max((tmp_path / "pretrain" / "checkpoint").glob("step-*"))
    data = bytearray((newest / file).read_bytes())
    data[len(data) // 2] ^= 16
    (newest / file).write_bytes(data)
    trains.begin(tmp_path)
    assert trains.end() == 0
    same(tmp_path, calm)
