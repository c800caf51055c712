"""Fifty steps of AdamW by a schedule: torch's optimizer under torch's scheduler has the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from sishu.batches.tokens import Windows
from sishu.models.decoder import Decoder
from sishu.objectives.language import next_token
from sishu.run import Run
from sishu.train.schedule import Schedule
from sishu.train.trainer import Trainer, TrainSettings

STEPS, WARMUP, COOLDOWN, RATE = 50, 10, 20, 1e-3
TOKENS = np.random.default_rng(0).integers(6, 320, 3000).astype(np.uint16)

AFTER: dict[Schedule, Callable[[torch.optim.Optimizer], list[tuple[int, LRScheduler]]]] = {
    "cosine": lambda o: [(WARMUP, CosineAnnealingLR(o, STEPS - WARMUP))],
    "linear": lambda o: [(WARMUP, LinearLR(o, 1.0, 0.0, STEPS - WARMUP))],
    "trapezoid": lambda o: [
        (WARMUP, ConstantLR(o, 1.0, STEPS)),
        (STEPS - COOLDOWN, LinearLR(o, 1.0, 0.0, COOLDOWN)),
    ],
}
"""What follows the warm-up, and from which step."""


def theirs(model: Decoder, schedule: Schedule, source: Windows) -> list[float]:
    """A plain loop of torch; the losses."""
    groups = [
        {"params": [w for w in model.parameters() if w.ndim >= 2], "weight_decay": 0.1},
        {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-6, foreach=False, fused=False)
    rise = LinearLR(optimizer, 1 / WARMUP, 1.0, WARMUP - 1)
    stages = AFTER[schedule](optimizer)
    scheduler = SequentialLR(optimizer, [rise, *(s for _, s in stages)], [at for at, _ in stages])
    losses = []
    for step in range(STEPS):
        (batch,) = source.batches(step)
        loss = F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["targets"].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("schedule", AFTER)
def test_fifty_steps(tmp_path: Path, tiny_decoder: Decoder, schedule: Schedule) -> None:
    settings = TrainSettings(
        batch=4,
        micro_batch=4,
        weight_decay=0.1,
        eps=1e-6,
        schedule=schedule,
        warmup=WARMUP / STEPS,
        cooldown=COOLDOWN / STEPS,
        precision="fp32",
    )
    model, source = copy.deepcopy(tiny_decoder).train(), Windows(TOKENS, 16, 4, 4, seed=0)
    with Run(tmp_path).begin("pretrain", "key", settings, {}, seed=3) as (context, _):
        Trainer(model, next_token, source, settings, context, steps=STEPS, learning_rate=RATE).fit()
    other = copy.deepcopy(tiny_decoder).train()
    losses = theirs(other, schedule, source)
    assert losses[-1] < losses[0]
    moved = 0.0
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        moved = max(moved, float((a - dict(tiny_decoder.named_parameters())[name]).detach().abs().max()))
    assert moved > 0.01, "else this would compare what did not move"
