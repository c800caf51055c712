"""What is not a number is left out, a jump of the loss is left behind, and no kill changes either."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.batches.batch import Batch, Stateless
from sishu.console import UserError
from sishu.objectives.loss import Loss
from sishu.run import Run
from sishu.train.health import ENOUGH, SEEN, Health, Spike
from sishu.train.throughput import BY_THE_CLOCK
from sishu.train.trainer import Trainer, TrainSettings

STEPS = 60
SETTINGS = TrainSettings(rollback=True, evaluate_every=10, checkpoint_seconds=0, precision="fp32")
TRUE = torch.tensor([[1.0, -2.0, 3.0]])


class Killed(BaseException):
    """What a kill looks like from inside."""


class Numbers(Stateless):
    """y = w x with noise; the data steps in `wrong` have something added to y."""

    def __init__(self, wrong: dict[int, float], micro_batches: int = 1) -> None:
        self.wrong, self.micro_batches = wrong, micro_batches
        self.given: list[int] = []

    def batches(self, step: int) -> list[Batch]:
        self.given.append(step)
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=generator)
        y = x @ TRUE.T + 0.5 * torch.randn(8, 1, generator=generator) + self.wrong.get(step, 0.0)
        return [
            Batch({"x": a, "y": b}, len(a) / 8)
            for a, b in zip(x.chunk(self.micro_batches), y.chunk(self.micro_batches), strict=True)
        ]


def squared(model: nn.Module, batch: Batch) -> Loss:
    loss = (model(batch["x"]) - batch["y"]).square().mean()
    return Loss(loss, {"loss": loss.detach()})


def noisy(model: nn.Module, batch: Batch) -> Loss:
    """Draws from torch's own random numbers, as dropout does."""
    return squared(model, Batch({"x": F.dropout(batch["x"], 0.2), "y": batch["y"]}, batch.share))


def train(
    folder: Path,
    source: Numbers,
    settings: TrainSettings = SETTINGS,
    objective: Any = squared,
    kill_at: int | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Weights and metrics less the clock's; killed when data step `kill_at` is asked for."""
    torch.manual_seed(folder.name == "another")  # the state of the process must not matter
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(0.0)
    batches = source.batches

    def fall(step: int) -> list[Batch]:
        if step == kill_at:
            raise Killed
        return batches(step)

    source.batches = fall  # type: ignore[method-assign]
    with Run(folder).begin("pretrain", "key", settings, {}, seed=1) as (context, _):

        @torch.no_grad()
        def evaluate() -> dict[str, float]:
            return {"validation_loss": float((model.weight - TRUE).square().sum())}

        Trainer(
            model, objective, source, settings, context, steps=STEPS, learning_rate=0.05, evaluate=evaluate
        ).fit()
        lines = [json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()]
    return model.weight.detach(), [{k: v for k, v in x.items() if k not in BY_THE_CLOCK} for x in lines]


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_an_update_that_is_not_a_number_is_left_out_and_counted(tmp_path: Path, micro_batches: int) -> None:
    wrong = {7: math.nan, 20: math.inf, 21: math.nan}
    weight, lines = train(tmp_path / "wrong", Numbers(wrong, micro_batches))
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["step"] for line in lines if "skipped" in line] == [7, 20, 21]
    assert all(line["skipped"] == 1 for line in lines if "skipped" in line)
    assert not any(math.isfinite(lines[step]["gradient_norm"]) for step in wrong)
    assert weight.isfinite().all()
    assert lines[-1]["validation_loss"] < 0.5 * lines[9]["validation_loss"]


def test_a_gradient_that_is_not_a_number_is_left_out_too(tmp_path: Path) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return gradient * math.nan

    def broken(model: nn.Module, batch: Batch) -> Loss:
        loss = squared(model, batch)
        return Loss(Broken.apply(loss.total) if source.given[-1] in broken_at else loss.total, loss.figures)

    source, broken_at = Numbers({}), {3}
    weight, lines = train(tmp_path / "some", source, objective=broken)
    assert [line["step"] for line in lines if "skipped" in line] == [3]
    assert math.isfinite(lines[3]["loss"]) and math.isnan(lines[3]["gradient_norm"])
    assert weight.isfinite().all()
    source, broken_at = Numbers({}), set(range(12, STEPS))
    with pytest.raises(UserError, match=r"the gradient at step 21 is not a number, for 10 updates in a row"):
        train(tmp_path / "all", source, objective=broken)


def test_after_too_many_in_a_row_it_says_what_was_seen(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"patience_skips": 3})
    wrong = {5: math.nan, 6: math.nan} | dict.fromkeys(range(30, STEPS), math.nan)
    with pytest.raises(UserError) as caught:
        train(tmp_path, Numbers(wrong), settings)
    last = json.loads((tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()[29])
    for words in (
        "The pretrain stage diverged: the loss at step 32 is not a number, for 3 updates in a row",
        f"the last good loss being {last['loss']:.4g} with a gradient norm of {last['gradient_norm']:.4g}",
        "lower the learning rate, set train.precision=fp32, or look at the data of the steps up to 32.",
    ):
        assert words in str(caught.value)


def test_kills_among_skips_change_nothing(tmp_path: Path) -> None:
    wrong = dict.fromkeys([*range(14, 22), *range(40, 48)], math.nan)
    for name, settings in (("by steps", SETTINGS), ("by the clock", TrainSettings(checkpoint_seconds=0))):
        weight, lines = train(tmp_path / name / "whole", Numbers(wrong), settings)
        for kill in (16, 20, 21, 45):
            with pytest.raises(Killed):
                train(tmp_path / name / "another", Numbers(wrong), settings, kill_at=kill)
        again, again_lines = train(tmp_path / name / "another", Numbers(wrong), settings)
        assert torch.equal(weight, again)
        assert json.dumps(lines) == json.dumps(again_lines)


def test_a_jump_is_left_behind_with_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Numbers({25: 100.0, 26: 100.0, 48: 100.0})
    _, lines = train(tmp_path / "jumps", source)
    told = capsys.readouterr().out
    assert told.count("back to step") == 3 and "step 25: the loss is 9769 and was 7.587" in told
    assert [line["step"] for line in lines] == list(range(STEPS))
    # back from 25 to 20 and on with 26, which jumps too: back to 20, on with 27; then from 41 to 40
    assert source.given == [*range(26), 26, *range(27, 49), *range(49, 69)]
    assert [line.get("data_step", line["step"]) for line in lines] == [
        *range(20),
        *range(27, 47),
        *range(49, 69),
    ]
    assert [line.get("rollbacks", 0) for line in lines] == [0] * 20 + [2] * 20 + [3] * 20
    assert max(line["loss"] for line in lines[20:]) < 100
    calm = SETTINGS.model_copy(update={"rollback": False})
    _, without = train(tmp_path / "calm", Numbers({25: 100.0}), calm)
    assert max(line["loss"] for line in without[20:]) > 1000


def test_kills_among_jumps_change_nothing(tmp_path: Path) -> None:
    wrong = {25: 100.0, 26: 100.0, 48: 100.0, 30: math.nan}
    weight, lines = train(tmp_path / "whole", Numbers(wrong), objective=noisy)
    for kill in (3, 22, 26, 27, 31, 48, 49, 60):
        with pytest.raises(Killed):
            train(tmp_path / "another", Numbers(wrong), objective=noisy, kill_at=kill)
    again, again_lines = train(tmp_path / "another", Numbers(wrong), objective=noisy)
    assert lines[-1]["rollbacks"] == 3 and not torch.equal(
        weight, train(tmp_path / "plain", Numbers(wrong))[0]
    )
    assert torch.equal(weight, again)
    assert json.dumps(lines) == json.dumps(again_lines)


def test_a_jump_before_the_first_checkpoint_goes_back_to_the_start(tmp_path: Path) -> None:
    seldom = SETTINGS.model_copy(update={"evaluate_every": 1000})
    source = Numbers({25: 100.0})
    _, lines = train(tmp_path / "jump", source, seldom)
    assert lines[0]["data_step"] == 26 and len(lines) == STEPS
    assert source.given == [*range(26), *range(26, 26 + STEPS)]


def test_after_five_times_back_it_stops(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(tmp_path, Numbers(dict.fromkeys(range(25, 100), 100.0)))
    told = str(caught.value)
    assert (
        "The pretrain stage diverged: at step 20 the loss is 9842 and was 9.194" in told
        and "after 5 times back" in told
    )
    assert "the last good loss being" in told and told.endswith("look at the data of the steps up to 30.")


def test_what_counts_as_a_jump() -> None:
    health = Health()
    for step in range(ENOUGH - 1):
        health.good(2.0 + 0.1 * (step % 3), 1.0)
    health.check(1e9)  # too early to tell
    health.good(2.1, 1.0)
    health.check(2.5)  # many deviations, but less than a fifth above
    with pytest.raises(Spike):
        health.check(3.1)
    restless = Health([1.0, 3.0] * 16)
    restless.check(2.0 + 6 * 1.4826 - 0.01)
    with pytest.raises(Spike):
        restless.check(2.0 + 6 * 1.4826 + 0.01)
    negative = Health([-1.0] * 20)
    negative.check(-0.81)
    with pytest.raises(Spike):
        negative.check(-0.79)
    for step in range(100):
        negative.good(float(step), 1.0)
    assert negative.recent == [float(step) for step in range(100 - SEEN, 100)]
