"""`sishu plan` against what training takes on this machine: memory and time of a step, ours, measured, ratio.

    python benchmarks/plan_against_truth.py [smallest|all]

Every case runs in a fresh process, so that the peak of one is not another's. `live bytes` are those of the
tensors alive at the highest point, by PyTorch's profiler: what the plan computes. `bytes` are the growth of
the process (on CUDA: of the allocator's peak) from just before the model is built, after a tiny one was
trained to load the libraries: what the allocator and the libraries add shows in the ratio. Time is the median
step after the first; its estimate uses the rates that `sishu plan` measures, in processes of their own before
and after.
"""

from __future__ import annotations

import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sishu.batches.batch import Batch
from sishu.console import show_table
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.nn.device import autocast, best_device
from sishu.objectives.language import next_token
from sishu.road import load_recipe
from sishu.run import machine
from sishu.stages.devices import measure
from sishu.stages.facts import Facts
from sishu.stages.forecast import StagePlan, plan_stages
from sishu.train.blocks import Blocks
from sishu.train.optimizer import Optimizer
from sishu.train.trainer import TrainSettings

CASES: dict[str, dict[str, Any]] = {
    "depth 2, one micro-batch": {
        "model": {"depth": 2, "context_length": 128},
        "train": {"batch": 8, "micro_batch": 8},
        "vocabulary": 2048,
    },
    "depth 4, two micro-batches": {
        "model": {"depth": 4, "context_length": 256},
        "train": {"batch": 16, "micro_batch": 8},
        "vocabulary": 4096,
    },
    "depth 8, AdamW only": {
        "model": {"depth": 8, "context_length": 128},
        "train": {"batch": 4, "micro_batch": 4, "matrix_learning_rate": None},
        "vocabulary": 16384,
    },
    "GPT-2 of half the width and depth, AdamW": {
        "model": {"preset": "gpt2", "width": 384, "depth": 6, "context_length": 256},
        "train": {"batch": 16, "micro_batch": 8, "matrix_learning_rate": None},
        "vocabulary": 8192,
    },
    "SmolLM2 of 8 blocks, float32, blocks worked out again": {
        "model": {"preset": "smollm2-135m", "depth": 8, "context_length": 512},
        "train": {"batch": 4, "micro_batch": 4, "precision": "fp32", "activation_checkpointing": True},
        "vocabulary": 8192,
    },
}
STEPS = 4
ALLOWED = {"live bytes": 0.15, "bytes": 0.15, "seconds": 0.25}
"""How far off a plan may be."""


def planned(case: dict[str, Any]) -> tuple[DecoderConfig, StagePlan, TrainSettings]:
    """The decoder's shape, the plan of `STEPS` steps, and the settings of the training."""
    train = {"steps": STEPS, "matrix_learning_rate": 0.02} | case["train"]
    settings = {"model": case["model"], "train": train}
    road = load_recipe("quickstart", {"stages": ["pretrain"], "pretrain": settings})
    c, stages = plan_stages(road, Facts(vocabulary=case["vocabulary"]))
    return c, stages[0], road.pretrain.train


def peak() -> int:
    """Bytes at the highest so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train(case: dict[str, Any]) -> dict[str, float]:
    """Train for real: peak memory above the start, and seconds of the median step after the first."""
    c, _, t = planned(case)
    small = DecoderConfig(64, 16, 1, 2, 1, 8, 32, c.context_length)
    take_steps(small, t)  # what the libraries load on first use is not the model's
    before = peak()
    taken = take_steps(c, t)
    grown = peak() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_steps(c, t)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    return {"live bytes": live, "bytes": grown, "seconds": statistics.median(taken[1:])}


def take_steps(c: DecoderConfig, t: TrainSettings) -> list[float]:
    """Seconds of each of `STEPS` training steps, done as `Trainer` does them."""
    device = best_device()
    model = Decoder(c)
    model.initialise(1)
    model.to(device)
    optimizer = Optimizer(
        model,
        learning_rate=1e-3,
        matrix_learning_rate=t.matrix_learning_rate,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    generator = torch.Generator().manual_seed(1)
    blocks = Blocks(model, checkpointing=t.activation_checkpointing, compiled=t.compile)
    taken = []
    for _ in range(STEPS):
        ids = torch.randint(c.vocabulary, (t.batch, c.context_length + 1), generator=generator).to(device)
        began = time.perf_counter()
        for part in torch.split(ids, t.micro_batch):
            batch = Batch({"ids": part[:, :-1], "targets": part[:, 1:]}, len(part) / len(ids), "tokens")
            with autocast(device, t.precision), blocks.at_work():
                loss = next_token(model, batch)
            (loss.total * batch.share).backward()  # type: ignore[no-untyped-call]
        float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step(1.0)
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return taken


def estimate(case: dict[str, Any]) -> dict[str, float]:
    """What `sishu plan` says of this machine, which it measures."""
    c, stage, _ = planned(case)
    here = measure(c, stage.precision, None)
    size = float(here.memory_of(stage).total)
    return {"live bytes": size, "bytes": size, "seconds": here.seconds(stage) / STEPS}


def in_fresh_process(what: str, case: dict[str, Any]) -> dict[str, float]:
    """`train` or `estimate` in a process of its own."""
    command = [sys.executable, __file__, what, json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    if len(sys.argv) > 2:
        work = {"train": train, "estimate": estimate}[sys.argv[1]]
        print(json.dumps(work(json.loads(sys.argv[2]))))
        return
    rows = []
    for name, case in list(CASES.items())[: 1 if "smallest" in sys.argv else None]:
        # before and after, because other work on the machine comes and goes
        before, truth, after = (in_fresh_process(w, case) for w in ("estimate", "train", "estimate"))
        for what, measured in truth.items():
            ours = (before[what] + after[what]) / 2
            ratio = ours / measured
            near = "yes" if abs(ratio - 1) <= ALLOWED[what] else "no"
            rows.append([name, what, f"{ours:.3g}", f"{measured:.3g}", f"{ratio:.2f}", near])
    about = machine()
    title = f"Plan against truth: {about['cpu']}, {about['threads']} threads, {about['device']}"
    show_table(title, ["case", "of", "ours", "measured", "ours / measured", "within 15 %, 25 %"], rows)


if __name__ == "__main__":
    main()
