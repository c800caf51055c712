"""Loss scaling is torch's, and training in float16 goes on over an overflow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.batches.tokens import Windows
from sishu.console import UserError
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.objectives.language import next_token
from sishu.objectives.loss import Loss
from sishu.run import Run, StageContext
from sishu.train.loss_scale import LossScale
from sishu.train.trainer import Objective, Trainer, TrainSettings

TOKENS = np.random.default_rng(0).integers(6, 320, 700).astype(np.uint16)
SETTINGS = TrainSettings(
    batch=4, micro_batch=2, precision="fp16", checkpoint_seconds=0, evaluate_every=100, warmup=0.2
)
STEPS = 6


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("patience", [2, 3])
def test_it_is_torchs_scaler(patience: int) -> None:
    ours = LossScale(scale=2.0**16, patience=patience)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=patience)
    for number, overflow in enumerate([1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0]):
        optimizer.zero_grad()
        theirs.scale((weight * (math.inf if overflow else 1.0)).sum()).backward()
        assert overflow or torch.equal(weight.grad, torch.full((3,), ours.scale))
        theirs.step(optimizer)
        theirs.update()
        if overflow:
            assert ours.overflowed()
        else:
            ours.undo([weight])
            ours.updated()
        assert ours.scale == theirs.get_scale(), number


def test_undoing_changes_no_other_bit() -> None:
    weights = [torch.zeros(500, requires_grad=True), torch.zeros(3, requires_grad=True)]
    gradient = torch.randn(500, generator=torch.Generator().manual_seed(0))
    weights[0].grad = gradient * 2.0**16
    LossScale().undo(weights)
    assert torch.equal(weights[0].grad, gradient) and weights[1].grad is None


def test_at_the_smallest_scale_it_is_not_to_blame() -> None:
    scale = LossScale(scale=4.0)
    assert [scale.overflowed() for _ in range(4)] == [True, True, False, False] and scale.scale == 1.0


def train(
    folder: Path, decoder: Decoder, objective: Objective = next_token, **changes: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Weights and metrics of a few steps in a stage folder."""
    settings = SETTINGS.model_copy(update=changes)
    with Run(folder).begin("pretrain", "key", settings, {}, seed=3) as (context, _):
        return fit(context, settings, decoder, objective)


def fit(
    context: StageContext, settings: TrainSettings, decoder: Decoder, objective: Objective
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    model = Decoder(decoder.config)
    model.load_state_dict(decoder.state_dict())
    source = Windows(TOKENS, 16, settings.batch, settings.micro_batch, context.seed)
    trainer = Trainer(model.train(), objective, source, settings, context, steps=STEPS, learning_rate=3e-3)
    trainer.fit()
    lines = (context.folder / "metrics.jsonl").read_text().splitlines()
    return dict(model.named_parameters()), [json.loads(line) for line in lines]


def test_float16_learns_as_float32_does(tmp_path: Path, tiny_decoder: Decoder) -> None:
    half, lines = train(tmp_path / "half", tiny_decoder)
    full, wanted = train(tmp_path / "full", tiny_decoder, precision="fp32")
    assert all(w.dtype == torch.float32 for w in half.values()), "the masters stay"
    assert [line["loss_scale"] for line in lines] == [2.0**16] * STEPS
    assert "loss_scale" not in wanted[0]
    for a, b in zip(lines, wanted, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3) and a["loss"] != b["loss"]
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-2)
    for name, weight in half.items():
        start = dict(tiny_decoder.named_parameters())[name]
        assert not torch.equal(weight, start)
        assert (weight - full[name]).norm() < 0.3 * (full[name] - start).norm(), name


def test_without_a_scale_small_gradients_are_nothing(tiny_config: DecoderConfig) -> None:
    """What all this is for: the same small loss, gone back through in float16."""
    model = Decoder(tiny_config)
    ids = torch.arange(6, 38).view(2, 16)

    def missing(scale: float) -> int:
        model.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = next_token(model, Batch({"ids": ids, "targets": ids}, 1.0)).total * 1e-6
        (loss * scale).backward()
        return sum(int((w.grad == 0).sum()) for n, w in model.named_parameters() if "blocks" in n)

    assert missing(1.0) > 10 * missing(2.0**16)


def too_large(limit: float, counts: list[int]) -> Objective:
    """An objective whose gradient is not a number while the scale is above `limit`."""

    def objective(model: Decoder, batch: Batch) -> Loss:
        loss = next_token(model, batch)
        counts.append(1)

        class Overflow(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient * (math.inf if float(gradient) > limit * batch.share else 1.0)

        return Loss(Overflow.apply(loss.total), loss.figures)

    return objective


def test_an_overflow_halves_the_scale_and_costs_its_step(tmp_path: Path, tiny_decoder: Decoder) -> None:
    """More overflows than may be left out for a bad loss: they are no divergence."""
    weights, lines = train(tmp_path, tiny_decoder, too_large(2.0**13, []), patience_skips=1)
    assert [line["loss_scale"] for line in lines] == [2.0**16, 2.0**15, 2.0**14, *[2.0**13] * 3]
    assert [line.get("skipped", 0) for line in lines] == [1, 1, 1, 0, 0, 0]
    assert all(w.isfinite().all() for w in weights.values())


def test_what_is_no_number_at_any_scale_is_divergence(tmp_path: Path, tiny_decoder: Decoder) -> None:
    def objective(model: Decoder, batch: Batch) -> Loss:
        return Loss(next_token(model, batch).total * math.nan, {})

    with pytest.raises(UserError, match=r"diverged: the loss at step 1 is not a number, for 2 "):
        train(tmp_path, tiny_decoder, objective, patience_skips=2)


def test_the_scale_is_in_the_checkpoint(tmp_path: Path, tiny_decoder: Decoder) -> None:
    whole, lines = train(tmp_path / "whole", tiny_decoder, too_large(2.0**14, []))
    counts: list[int] = []
    objective = too_large(2.0**14, counts)

    def falls(model: Decoder, batch: Batch) -> Loss:
        if len(counts) == 8:  # in the fifth step, two micro-batches a step
            raise Killed
        return objective(model, batch)

    with pytest.raises(Killed):
        train(tmp_path / "killed", tiny_decoder, falls)
    again, again_lines = train(tmp_path / "killed", tiny_decoder, too_large(2.0**14, []))
    assert [line["loss_scale"] for line in again_lines] == [line["loss_scale"] for line in lines]
    assert lines[-1]["loss_scale"] == 2.0**14
    assert all(torch.equal(whole[name], again[name]) for name in whole)
