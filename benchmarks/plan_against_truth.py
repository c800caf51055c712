"""`sishu plan` against what training takes on this machine: memory and time of a step, ours, measured, ratio.

    python benchmarks/plan_against_truth.py [smallest|all]

Every case runs in a fresh process, so that the peak of one is not another's. `live bytes` are those of the
tensors alive at the highest point, by PyTorch's profiler: what the plan computes. `bytes` are the growth of
the process (on CUDA: of the allocator's peak) from just before the model is built, after a tiny one was
trained to load the libraries: what the allocator and the libraries add shows in the ratio. Time is the median
step after the first; its estimate uses the rates that `sishu plan` measures, in this process, afterwards.
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
from sishu.stages.plan import Facts, StagePlan, measure, plan_stages
from sishu.train.optimizer import Optimizer
from sishu.train.trainer import TrainSettings

CASES: dict[str, dict[str, Any]] = {
    "depth 2, one micro-batch": {
        "depth": 2,
        "context": 128,
        "batch": 8,
        "micro_batch": 8,
        "vocabulary": 2048,
    },
    "depth 4, two micro-batches": {
        "depth": 4,
        "context": 256,
        "batch": 16,
        "micro_batch": 8,
        "vocabulary": 4096,
    },
    "depth 8, AdamW only": {
        "depth": 8,
        "context": 128,
        "batch": 4,
        "micro_batch": 4,
        "vocabulary": 16384,
        "muon": None,
    },
}
STEPS = 4


def planned(case: dict[str, Any]) -> tuple[DecoderConfig, StagePlan, TrainSettings]:
    """The decoder's shape, the plan of `STEPS` steps, and the settings of the training."""
    train = {
        "batch": case["batch"],
        "micro_batch": case["micro_batch"],
        "steps": STEPS,
        "matrix_learning_rate": case.get("muon", 0.02),
    }
    model = {"depth": case["depth"], "context_length": case["context"]}
    road = load_recipe("quickstart", {"stages": ["pretrain"], "pretrain": {"model": model, "train": train}})
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
    taken = []
    for _ in range(STEPS):
        ids = torch.randint(c.vocabulary, (t.batch, c.context_length + 1), generator=generator).to(device)
        began = time.perf_counter()
        for part in torch.split(ids, t.micro_batch):
            batch = Batch({"ids": part[:, :-1], "targets": part[:, 1:]}, len(part) / len(ids), "tokens")
            with autocast(device, t.precision):
                loss = next_token(model, batch)
            (loss.total * batch.share).backward()  # type: ignore[no-untyped-call]
        float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step(1.0)
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return taken


def in_fresh_process(case: dict[str, Any]) -> dict[str, float]:
    """`train` in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--case":
        print(json.dumps(train(json.loads(sys.argv[2]))))
        return
    names = list(CASES)[: 1 if "smallest" in sys.argv else None]
    # a process begins with the peak of the one that started it: train first, measure the rates afterwards
    truths = {name: in_fresh_process(CASES[name]) for name in names}
    rows = []
    for name in names:
        c, stage, _ = planned(CASES[name])
        here = measure(c, stage.precision, None)
        size = float(here.memory_of(stage).total)
        ours = {"live bytes": size, "bytes": size, "seconds": here.seconds(stage) / STEPS}
        for what, truth in truths[name].items():
            rows.append([name, what, f"{ours[what]:.3g}", f"{truth:.3g}", f"{ours[what] / truth:.2f}"])
    about = machine()
    title = f"Plan against truth: {about['cpu']}, {about['threads']} threads, {about['device']}"
    show_table(title, ["case", "of", "ours", "measured", "ours / measured"], rows)


if __name__ == "__main__":
    main()
