"""Several processes learn what one learns, and lose no step; they meet over gloo, on the CPU."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sishu.console import UserError
from sishu.processes import Processes
from sishu.run import StageContext
from sishu.train.checkpoint import DIGESTS
from sishu.train.parallel import rows_at_once

TOGETHER = Path(__file__).with_name("together.py")
STEPS = 20
MUON = {"matrix_learning_rate": 0.01, "weight_decay": 0.1}


class Launcher:
    """A process that starts others; see `together.py`."""

    def __init__(self) -> None:
        source = str(Path(__file__).parents[2] / "src")
        environment = {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, str(TOGETHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def begin(self, folder: Path, **order: Any) -> list[int]:
        """Start; the ids of the processes."""
        assert self.process.stdin is not None
        folder.mkdir(parents=True, exist_ok=True)
        self.process.stdin.write(json.dumps({"folder": str(folder), **order}) + "\n")
        self.process.stdin.flush()
        return self._list()

    def end(self) -> list[int]:
        """Wait for all; their exit codes."""
        return self._list()

    def __call__(self, folder: Path, **order: Any) -> dict[str, Any]:
        """Run to a good end; what it wrote down."""
        size = len(self.begin(folder, **order))
        assert self.end() == [0] * size, [p.read_text()[-3000:] for p in sorted(folder.glob("stderr-*"))]
        found: dict[str, Any] = json.loads((folder / "figures.json").read_text())
        return found

    def _list(self) -> list[int]:
        """The next list that is printed, less what the training says itself."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("["):
                found: list[int] = json.loads(line)
                return found
        raise AssertionError("the process has ended")


@pytest.fixture(scope="module")
def launch() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    assert made.process.stdin is not None and made.process.stdout is not None
    made.process.stdin.close()
    made.process.stdout.close()
    made.process.wait(60)


def close(one: dict[str, Any], other: dict[str, Any], within: float = 1e-6) -> None:
    """The same losses, and gradients that differ by rounding alone."""
    assert [s["step"] for s in one["steps"]] == [s["step"] for s in other["steps"]]
    for a, b in zip(one["steps"], other["steps"], strict=True):
        assert abs(a["loss"] - b["loss"]) <= within, (a, b)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=2e-3 if within < 1e-5 else 3e-2)
    assert abs(one["loss"] - other["loss"]) <= within
    assert one["steps"][-1]["loss"] < one["steps"][0]["loss"]


def test_every_process_gets_a_micro_batch_no_larger_than_asked_for() -> None:
    for groups, batch, micro_batch in itertools.product(range(1, 10), range(1, 40), range(1, 20)):
        context = StageContext("pretrain", Path(), 1, {}, False, processes=Processes(0, groups))
        if batch < groups:
            with pytest.raises(UserError, match="start fewer processes"):
                rows_at_once(batch, micro_batch, context)
            continue
        rows = rows_at_once(batch, micro_batch, context)
        assert 1 <= rows <= micro_batch and math.ceil(batch / min(rows, batch)) >= groups
        if batch % groups == 0:  # and as few rounds as there can be
            assert math.ceil(batch / rows / groups) == math.ceil(batch / groups / micro_batch)


CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"settings": MUON},
    "three micro-batches for two": {"settings": {"batch": 6, "micro_batch": 2}},
    "rows that do not divide": {"settings": {"batch": 5}, "shape": "odd"},
    "unequal conversations": {"conversations": True},
    "worked out again": {"settings": {"activation_checkpointing": True}},
    # in 16 bits the size of a micro-batch is rounding too: 4e-3 between 8 and 4 rows in one process
    "float16": {"settings": {"precision": "fp16", "micro_batch": 4}},
    "bfloat16": {"settings": {"precision": "bf16", "micro_batch": 4}},
    "gpt2, bfloat16": {"shape": "gpt2", "settings": {"precision": "bf16", "micro_batch": 4}},
    "heads, bfloat16": {"tensor": 2, "settings": {"precision": "bf16", "micro_batch": 4}},
    "heads": {"tensor": 2},
    "heads, muon": {"tensor": 2, "settings": MUON},
    "heads, gpt2": {"tensor": 2, "shape": "gpt2"},
    "heads, bloom, muon": {"tensor": 2, "shape": "bloom", "settings": MUON},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(launch: Launcher, tmp_path: Path, case: str) -> None:
    order = CASES[case]
    one = launch(tmp_path / "one", **order | {"tensor": 1})
    two = launch(tmp_path / "two", size=2, **order)
    close(one, two, 2e-3 if "float16" in case else 1e-6)
    assert two["held"] < 0.7 * one["held"]  # each has its part
    a, b = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert {n: (w.shape, w.dtype) for n, w in a.items()} == {n: (w.shape, w.dtype) for n, w in b.items()}


@pytest.mark.parametrize("settings", [{}, MUON], ids=["adamw", "muon"])
def test_a_grid_of_four_learns_what_one_learns(
    launch: Launcher, tmp_path: Path, settings: dict[str, Any]
) -> None:
    one = launch(tmp_path / "one", settings=settings)
    four = launch(tmp_path / "four", size=4, tensor=2, settings=settings)
    close(one, four)


def test_gradients_are_added_up_once_for_all_micro_batches(launch: Launcher, tmp_path: Path) -> None:
    steps, settings = 4, {"batch": 16, "micro_batch": 8}
    whole = launch(tmp_path / "one", size=2, counted=True, stop=steps, settings=settings)
    parts = launch(
        tmp_path / "eight", size=2, counted=True, stop=steps, settings=settings | {"micro_batch": 1}
    )
    close(whole, parts)
    groups = 2 + 1  # blocks, and what they share
    for run in (whole, parts):
        sums = sum(count for kind, count in run["sent"].items() if "reduce_scatter" in kind)
        assert sums == steps * groups, run["sent"]


def test_another_number_of_processes_goes_on(launch: Launcher, tmp_path: Path) -> None:
    calm = launch(tmp_path / "calm", size=2, settings=MUON)
    folder, seen = tmp_path / "changing", []
    for size, stop in ((2, 7), (1, 13), (2, STEPS)):
        found = launch(folder, size=size, stop=stop, resumed=stop > 7, settings=MUON)
        seen += found["steps"]
        left = sorted(p.name for p in (folder / "checkpoint").glob(f"step-{stop:08d}/*.safetensors"))
        if stop < STEPS:
            alone = ["tensors.safetensors"]
            assert left == (alone if size == 1 else [f"tensors-0000{i}-of-00002.safetensors" for i in (1, 2)])
    close(calm, found | {"steps": seen})
    calm_weights, weights = (load_file(p / "weights.safetensors") for p in (tmp_path / "calm", folder))
    for name, weight in calm_weights.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-4, rtol=0)


def test_other_grids_go_on_too(launch: Launcher, tmp_path: Path) -> None:
    calm, seen = launch(tmp_path / "calm"), []
    for size, tensor, stop in ((2, 2, 7), (2, 1, 13), (4, 2, STEPS)):
        found = launch(tmp_path / "on", size=size, tensor=tensor, stop=stop, resumed=stop > 7)
        seen += found["steps"]
    close(calm, found | {"steps": seen})


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(steps: int, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while lines(folder) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Less what the clock decides."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "per_second", "utilisation")
    return [{k: v for k, v in line.items() if not k.endswith(clock)} for line in read]


OFTEN = MUON | {"checkpoint_seconds": 0, "evaluate_every": 2}


@pytest.fixture(scope="module")
def calm(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    launch(folder, size=2, settings=OFTEN)
    return folder


def killed(launch: Launcher, folder: Path, steps: int) -> None:
    """Kill both processes, as a machine that stops does."""
    processes = launch.begin(folder, size=2, settings=OFTEN, patient=True, resumed=(folder / "on").exists())
    wait_for(steps, folder)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    assert launch.end() == [-signal.SIGKILL] * 2
    (folder / "on").touch()


def same(folder: Path, calm: Path) -> None:
    weights = "weights.safetensors"
    assert (folder / weights).read_bytes() == (calm / weights).read_bytes()
    assert metrics(folder) == metrics(calm) and len(metrics(calm)) == STEPS


def test_killed_and_resumed_two_processes_give_the_same_bytes(
    launch: Launcher, calm: Path, tmp_path: Path
) -> None:
    for steps in (1, 6, 7, 15):
        killed(launch, tmp_path, steps)
    launch(tmp_path, size=2, settings=OFTEN, resumed=True)
    same(tmp_path, calm)


@pytest.mark.parametrize("damage", ["bit", "gone"])
def test_a_damaged_file_of_either_process_is_noticed_by_both(
    launch: Launcher, calm: Path, tmp_path: Path, damage: str
) -> None:
    killed(launch, tmp_path, 8)
    places = sorted((tmp_path / "checkpoint").glob("step-*"))
    digests = json.loads((places[-1] / DIGESTS).read_text())
    assert list(digests) == [f"tensors-0000{n}-of-00002.safetensors" for n in (1, 2)] + ["state.json"]
    file = places[-1] / "tensors-00002-of-00002.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    launch(tmp_path, size=2, settings=OFTEN, resumed=True)
    same(tmp_path, calm)
    shutil.rmtree(tmp_path)


def said(folder: Path) -> list[str]:
    """What each process said on standard error."""
    return [path.read_text().strip() for path in sorted(folder.glob("stderr-*"))]


def test_one_that_cannot_write_stops_all_and_leaves_the_checkpoint_before(
    launch: Launcher, tmp_path: Path
) -> None:
    settings = MUON | {"evaluate_every": 4, "rollback": True}  # checkpoints by steps
    launch(tmp_path, size=2, settings=settings, stop=8)
    before = sorted(p.name for p in (tmp_path / "checkpoint").iterdir())
    launch.begin(tmp_path, size=2, settings=settings, resumed=True, least=5_000)
    assert launch.end() == [2, 2]
    told = "".join(said(tmp_path))
    assert told.startswith("A checkpoint is larger than a file may be here") and told.count("\n") == 0
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == before
    calm = launch(tmp_path / "calm", size=2, settings=settings)
    found = launch(tmp_path, size=2, settings=settings, resumed=True)
    assert found["steps"] == calm["steps"][8:]


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_other_ends_with_a_sentence(launch: Launcher, tmp_path: Path, victim: int) -> None:
    processes = launch.begin(tmp_path, size=2, patient=True, settings={"evaluate_every": 1000})
    wait_for(3, tmp_path)
    began = time.monotonic()
    os.kill(processes[victim], signal.SIGKILL)
    codes = launch.end()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 2
    assert time.monotonic() - began < 30
    told = said(tmp_path)[1 - victim].splitlines()  # torch may speak of the store that went with the first
    assert told[-1].startswith("Another process of this run has ended")
    assert "Traceback" not in told


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "key-value heads": ({"tensor": 2, "shape": "one head for all"}, "cannot split 1 key-value heads"),
    "heads": ({"tensor": 2, "shape": "odd"}, "cannot split 3 heads"),
    "processes": ({"tensor": 3}, "needs a multiple of 3 processes, not 2"),
    "rows": ({"settings": {"batch": 1}}, "has 1 sequence for 2 processes: set pretrain.train.batch to 2"),
    "layer norms": ({"settings": {"layer_norms_every": 1}}, "leave it out"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_said_once(launch: Launcher, tmp_path: Path, case: str) -> None:
    order, words = REFUSALS[case]
    launch.begin(tmp_path, size=2, **order)
    assert launch.end() == [2, 2]
    told = [text for text in said(tmp_path) if text]
    assert len(told) == 1 and words in told[0]
