"""`torchrun -m sishu run RECIPE`: two processes walk one road, which one could have walked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from sishu.generate.engine import Engine, Sampling

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONIOENCODING": "utf-8",
}
RECIPE = """\
name: tiny
stages: [corpus, tokenizer, pretrain, continue_pretrain, lengthen, sft, report]
corpus: {data: school.txt, min_language_score: 0}
tokenizer: {vocabulary: 300}
pretrain:
  model: {depth: 2, width: 32, context_length: 64}
  train: {steps: 20, batch: 8, learning_rate: 0.003, matrix_learning_rate: null, precision: fp32}
continue_pretrain:
  context_length: 32
  train: {steps: 3, batch: 4, micro_batch: 2, precision: fp32}
lengthen:
  factor: 2
  train: {steps: 3, batch: 4, micro_batch: 2, precision: fp32}
sft:
  data: talks.jsonl
  train: {steps: 4, batch: 4, micro_batch: 4, precision: fp32}
"""


@pytest.fixture
def school(tmp_path: Path) -> Path:
    """A folder with a recipe, a text and conversations."""
    prose = [text for _, text in sorted(topics.items()) if 1500 < len(text) < 6000]
    (tmp_path / "school.txt").write_text("\n\n".join(prose)[:8_000], encoding="utf-8")
    talks = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(20)
    ]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def start(folder: Path, size: int, *words: str) -> subprocess.Popen[str]:
    # `--`, because torchrun would take `--run` for its own `--run-path`
    command = [*TORCHRUN, str(size), "-m", "--"] if size > 1 else [sys.executable, "-m"]
    return subprocess.Popen(
        [*command, "sishu", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def run(folder: Path, size: int, *words: str) -> str:
    """To a good end; standard output."""
    process = start(folder, size, *words)
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    return said


def losses(run: Path, stage: str) -> list[tuple[float, float | None]]:
    lines = (run / stage / "metrics.jsonl").read_text().splitlines()
    return [(line["loss"], line.get("validation_loss")) for line in map(json.loads, lines)]


def children(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes by /proc")
def test_two_processes_walk_the_road_of_one(school: Path) -> None:
    said = run(school, 2, "run", "tiny.yaml", "--run", "two")
    assert said.count("Working time") == 1 and said.count("pretrain: Train a decoder") == 1
    run(school, 1, "run", "tiny.yaml", "--run", "one")
    for stage, count in (("pretrain", 20), ("continue_pretrain", 3), ("lengthen", 3), ("sft", 4)):
        one, two = (losses(school / name, stage) for name in ("one", "two"))
        assert len(one) == len(two) == count
        for a, b in zip(one, two, strict=True):
            assert b == pytest.approx(a, abs=3e-6)  # the metrics have seven digits
    manifests: list[dict[str, Any]] = [
        json.loads((school / name / "pretrain" / "manifest.json").read_text()) for name in ("one", "two")
    ]
    assert manifests[0]["key"] == manifests[1]["key"]
    assert set(manifests[0]["outputs"]) == set(manifests[1]["outputs"])
    engine = Engine.load(school / "two" / "sft" / "model")
    assert engine.complete([[engine.tokenizer.bos]], Sampling(max_tokens=5, seed=1))
    again = run(school, 1, "run", "tiny.yaml", "--run", "two")
    assert again.count("done before") == 7  # whoever asks

    words = ("run", "tiny.yaml", "--run", "killed", "stages=[corpus,tokenizer,pretrain]")
    slow = start(school, 2, *words)
    metrics, deadline = school / "killed" / "pretrain" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
        assert slow.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    for process in [slow.pid, *children(slow.pid)]:
        os.kill(process, signal.SIGKILL)
    slow.communicate()
    assert not (school / "killed" / "pretrain" / "manifest.json").exists()
    assert "going on where it stopped" in run(school, 2, *words)
    weights = Path("pretrain") / "model" / "model.safetensors"
    assert (school / "killed" / weights).read_bytes() == (school / "two" / weights).read_bytes()


def test_a_mistake_is_told_once_and_nobody_waits(school: Path) -> None:
    process = start(school, 2, "run", "tiny.yaml", "tensor_parallel=3", "stages=[corpus,tokenizer,pretrain]")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("tensor_parallel=3 needs a multiple of 3 processes") == 1
    process = start(school, 2, "run", "tiny.yaml", "corpus.data=nowhere.txt")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("There is no file or folder nowhere.txt") == 1
