"""A run that was killed and resumed ends with the bytes of one that was not; divergence is named."""

from __future__ import annotations

import copy
import json
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sishu.batches.batch import Batch
from sishu.batches.packed import Packed
from sishu.batches.tokens import Windows
from sishu.console import UserError
from sishu.generate.engine import Sampling
from sishu.generate.rollouts import RewardScale, Rollouts
from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.objectives.language import next_token
from sishu.objectives.loss import Loss
from sishu.objectives.ppo import PPO, ActorCritic, AdaptiveKL
from sishu.run import Run, StageContext
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.throughput import BY_THE_CLOCK
from sishu.train.trainer import Trainer, TrainSettings

STEPS = 5
TOKENS = np.random.default_rng(0).integers(6, 320, 700).astype(np.uint16)
SETTINGS = TrainSettings(
    batch=4,
    micro_batch=2,
    matrix_learning_rate=0.02,
    weight_decay=0.1,
    warmup=0.2,
    precision="fp32",
    evaluate_every=2,
    checkpoint_seconds=0,
)


class Killed(BaseException):
    """What a kill looks like from inside."""


Make = Callable[[StageContext, TrainSettings], Trainer]


def language(decoder: Decoder, tokens: np.ndarray = TOKENS, ends: np.ndarray | None = None) -> Make:
    def make(context: StageContext, settings: TrainSettings) -> Trainer:
        model = copy.deepcopy(decoder).train()
        rows = 16, settings.batch, settings.micro_batch, context.seed
        source = Windows(tokens, *rows) if ends is None else Packed(tokens[: ends[-1]], ends, *rows)

        def evaluate() -> dict[str, float]:
            with torch.no_grad():
                return {"validation_loss": float(next_token(model, source.batches(99)[0]).total)}

        return Trainer(
            model, next_token, source, settings, context, steps=STEPS, learning_rate=3e-3, evaluate=evaluate
        )

    return make


def ppo(decoder: Decoder, tokenizer: Tokenizer) -> Make:
    def make(context: StageContext, settings: TrainSettings) -> Trainer:
        value, reward = Scorer(decoder.config), Scorer(decoder.config)
        value.start_from(decoder, 1)
        reward.start_from(decoder, 2)
        models = ActorCritic(copy.deepcopy(decoder), value).train()
        windows = Windows(TOKENS, 16, 2, 2, context.seed, share=0.5)
        control = AdaptiveKL(0.05, 0.01, 50)
        source = Rollouts(
            models,
            decoder,
            RewardScale(reward.eval(), (-3.4, 3.6), 0.5),
            tokenizer,
            [
                tokenizer.encode_conversation([{"role": "user", "content": "x" * n}], True).ids
                for n in range(5)
            ],
            sampling=Sampling(max_tokens=6),
            control=control,
            batch=settings.batch,
            micro_batch=settings.micro_batch,
            passes=2,
            gamma=1.0,
            lam=0.95,
            precision="fp32",
            seed=context.seed,
            ptx=windows.batches,
        )
        objective = PPO(0.2, 0.1, 1.0, decoder, control)
        return Trainer(models, objective, source, settings, context, steps=STEPS, learning_rate=1e-3)

    return make


def run(
    folder: Path,
    make: Make,
    settings: TrainSettings = SETTINGS,
    kill_after: int | None = None,
    moment: str = "objective",
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train in a stage folder, and be killed in step `kill_after`; weights and metrics."""
    with Run(folder).begin("pretrain", "key", settings, {}, seed=3) as (context, _):
        trainer = make(context, settings)
        if kill_after is not None:
            fall(trainer, kill_after, moment)
        trainer.fit()
        lines = (context.folder / "metrics.jsonl").read_text().splitlines()
        assert (context.folder / "checkpoint").exists()
        trainer.finish()
        assert not (context.folder / "checkpoint").exists()
        return (
            {n: w.detach().clone() for n, w in trainer.model.named_parameters()},
            [json.loads(line) for line in lines],
        )


def fall(trainer: Trainer, step: int, moment: str) -> None:
    """Make the trainer fall over in `step`, in the middle of its gradient or after its metrics."""
    batches, after = trainer.source.batches, trainer.source.after
    objective, now = trainer.objective, [0]

    def note(at: int) -> list[Batch]:
        now[0] = at
        return batches(at)

    def objective_once(model: nn.Module, batch: Batch) -> Loss:
        if moment == "objective" and now[0] == step:
            objective(model, batch).total.backward()
            raise Killed
        return objective(model, batch)

    def after_once(at: int, figures: dict[str, float]) -> None:
        after(at, figures)
        if moment == "after" and at == step:
            raise Killed

    trainer.source.batches = note  # type: ignore[method-assign]
    trainer.source.after = after_once  # type: ignore[method-assign]
    trainer.objective = objective_once


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in BY_THE_CLOCK} for line in lines]


@pytest.mark.parametrize("kind", ["language", "packed", "ppo"])
def test_killed_and_resumed_is_bitwise_uninterrupted(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer, kind: str
) -> None:
    ends = np.array([9, 50, 170])  # so that five steps reach into a second epoch
    make = ppo(tiny_decoder, tiny_tokenizer) if kind == "ppo" else language(tiny_decoder)
    make = language(tiny_decoder, ends=ends) if kind == "packed" else make
    weights, lines = run(tmp_path / "whole", make)
    for kill, moment in ((2, "objective"), (3, "after")):
        with pytest.raises(Killed):
            run(tmp_path / "killed", make, kill_after=kill, moment=moment)
    again, again_lines = run(tmp_path / "killed", make)
    assert [line["step"] for line in again_lines] == list(range(STEPS))
    assert without_times(again_lines) == without_times(lines)
    for name, weight in weights.items():
        assert torch.equal(weight, again[name]), name
        start = dict(make_start(tiny_decoder, kind))[name]
        assert not torch.equal(weight, start), f"{name} did not learn, so this would show nothing"
    seconds = [line["seconds"] for line in again_lines]
    assert seconds == sorted(seconds), "working time goes on over the pieces"


def test_a_source_that_is_done_ends_the_training_for_good(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    """Killed between its last step and its artifact, it goes on to the same end without another step."""
    make = ppo(tiny_decoder, tiny_tokenizer)

    def soon(context: StageContext, settings: TrainSettings) -> Trainer:
        trainer = make(context, settings)
        assert isinstance(trainer.source, Rollouts)
        trainer.source.kl_stop = -math.inf
        return trainer

    weights, lines = run(tmp_path / "whole", soon)
    assert [line["step"] for line in lines] == [0] and STEPS > 1
    with (
        pytest.raises(Killed),
        Run(tmp_path / "killed").begin("pretrain", "key", SETTINGS, {}, seed=3) as (
            context,
            _,
        ),
    ):
        soon(context, SETTINGS).fit()
        raise Killed
    again, again_lines = run(tmp_path / "killed", soon)
    assert without_times(again_lines) == without_times(lines)
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())


def make_start(decoder: Decoder, kind: str) -> list[tuple[str, Tensor]]:
    if kind != "ppo":
        return list(decoder.named_parameters())
    value = Scorer(decoder.config)
    value.start_from(decoder, 1)
    return list(ActorCritic(decoder, value).named_parameters())


def test_killed_before_the_first_checkpoint_it_starts_again(tmp_path: Path, tiny_decoder: Decoder) -> None:
    rare = SETTINGS.model_copy(update={"checkpoint_seconds": 1e9})
    make = language(tiny_decoder)
    weights, lines = run(tmp_path / "whole", make, rare)
    with pytest.raises(Killed):
        run(tmp_path / "killed", make, rare, kill_after=3)
    again, again_lines = run(tmp_path / "killed", make, rare)
    assert without_times(again_lines) == without_times(lines)
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_killed_after_the_last_step_nothing_is_trained_twice(tmp_path: Path, tiny_decoder: Decoder) -> None:
    make = language(tiny_decoder)
    weights, lines = run(tmp_path / "whole", make)
    with (
        pytest.raises(Killed),
        Run(tmp_path / "killed").begin("pretrain", "key", SETTINGS, {}, seed=3) as (context, _),
    ):
        make(context, SETTINGS).fit()
        raise Killed  # before the artifact is written
    again, again_lines = run(tmp_path / "killed", make)
    assert without_times(again_lines) == without_times(lines)
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_micro_batches_change_neither_loss_nor_weights_beyond_rounding(
    tmp_path: Path, tiny_decoder: Decoder
) -> None:
    make = language(tiny_decoder)
    plain = SETTINGS.model_copy(update={"matrix_learning_rate": None})
    one, one_lines = run(tmp_path / "one", make, plain.model_copy(update={"micro_batch": 1}))
    four, four_lines = run(tmp_path / "four", make, plain.model_copy(update={"micro_batch": 4}))
    for a, b in zip(one_lines, four_lines, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
    assert max(float((one[n] - four[n]).abs().max()) for n in one) < 3e-3


def test_what_is_written_down(tmp_path: Path, tiny_decoder: Decoder) -> None:
    _, lines = run(tmp_path, language(tiny_decoder))
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert ["validation_loss" in line for line in lines] == [False, True, False, True, True]
    wanted = {"loss", "learning_rate", "seconds", "gradient_norm", "eta_seconds", "tokens_per_second"}
    assert all({*wanted, "model_flops_utilisation"} <= line.keys() for line in lines)
    assert lines[-1]["eta_seconds"] == 0
    assert all(
        line["tokens_per_second"] == pytest.approx(64 / line["step_seconds"], rel=0.05) for line in lines
    )
    assert lines[0]["learning_rate"] == pytest.approx(3e-3)


def test_it_learns_what_repeats(tmp_path: Path, tiny_config: DecoderConfig) -> None:
    decoder = Decoder(tiny_config)
    decoder.initialise(0)
    _, lines = run(tmp_path, language(decoder, np.tile(np.arange(6, 16, dtype=np.uint16), 60)))
    assert lines[0]["loss"] == pytest.approx(math.log(320), abs=0.2)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3


def test_ppo_writes_the_first_pass_and_the_last(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    _, lines = run(tmp_path, ppo(tiny_decoder, tiny_tokenizer))
    wanted = (
        "reward reward_std kl kl_coefficient length entropy ended repetition ratio approxkl clipfrac "
        "policy_loss value_loss ptx_loss ratio_deviation last_ratio last_approxkl"
    )
    for line in lines:
        assert set(wanted.split()) <= line.keys()
        assert line["ratio_deviation"] <= 1e-5 and line["approxkl"] < 1e-8 and line["clipfrac"] == 0
        assert line["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert lines[0]["kl"] == 0 and lines[-1]["last_approxkl"] > 0
    assert len({line["kl_coefficient"] for line in lines}) > 1


def test_a_gradient_that_is_no_number_is_named(tmp_path: Path, tiny_decoder: Decoder) -> None:
    def make(context: StageContext, settings: TrainSettings) -> Trainer:
        trainer = language(tiny_decoder)(context, settings)
        trainer.objective = lambda model, batch: Loss(next_token(model, batch).total * float("nan"), {})
        return trainer

    with pytest.raises(
        UserError, match=r"pretrain stage diverged: the loss at step 4 is not a number, for 5 "
    ):
        run(tmp_path, make)


def test_ppo_leaves_out_an_update_of_several(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    def make(context: StageContext, settings: TrainSettings) -> Trainer:
        trainer = ppo(tiny_decoder, tiny_tokenizer)(context, settings)
        objective, source, seen = trainer.objective, trainer.source, [0]
        batches = source.batches

        def once_nothing(model: nn.Module, batch: Batch) -> Loss:
            loss = objective(model, batch)
            seen[0] += 1
            return Loss(loss.total * math.nan, loss.figures) if seen[0] == 4 else loss

        def counted_anew(step: int) -> list[Batch]:
            seen[0] = 0 if step == 2 else 1000
            found = batches(step)
            assert len(found) == 3  # so that the fourth is the first of the second pass
            return found

        trainer.objective, source.batches = once_nothing, counted_anew  # type: ignore[method-assign]
        return trainer

    weights, lines = run(tmp_path, make)
    assert [line.get("skipped", 0) for line in lines] == [0, 0, 1, 0, 0]
    assert lines[2].keys() == lines[1].keys() | {"skipped"}
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    tmp_path: Path, tiny_decoder: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    make = language(tiny_decoder)
    weights, lines = run(tmp_path / "whole", make)
    with pytest.raises(Killed):
        run(tmp_path / "killed", make, kill_after=3)
    tensors = tmp_path / "killed" / "pretrain" / "checkpoint" / "step-00000003" / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[len(data) // 2] ^= 1
    tensors.write_bytes(data)
    again, again_lines = run(tmp_path / "killed", make)
    assert capsys.readouterr().out.count("step-00000003: tensors.safetensors does not have the bytes") == 1
    assert without_times(again_lines) == without_times(lines)
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_when_every_checkpoint_is_damaged_it_says_what_to_do(tmp_path: Path, tiny_decoder: Decoder) -> None:
    make = language(tiny_decoder)
    with pytest.raises(Killed):
        run(tmp_path, make, kill_after=2)
    for tensors in (tmp_path / "pretrain" / "checkpoint").rglob("*.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged .*: delete .* and run again"):
        run(tmp_path, make)


def test_a_checkpoint_too_large_stops_it_and_changes_nothing(tmp_path: Path, tiny_decoder: Decoder) -> None:
    make = language(tiny_decoder)
    weights, lines = run(tmp_path / "whole", make)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(context: StageContext, settings: TrainSettings) -> Trainer:
        trainer = make(context, settings)
        after = trainer.source.after

        def after_then_limit(at: int, figures: dict[str, float]) -> None:
            after(at, figures)
            if at == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

        trainer.source.after = after_then_limit  # type: ignore[method-assign]
        return trainer

    try:
        with pytest.raises(UserError, match=r"A checkpoint is larger than a file may be here"):
            run(tmp_path / "small", limited)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = sorted(p.name for p in (tmp_path / "small" / "pretrain" / "checkpoint").iterdir())
    assert kept == ["best.json", "step-00000002", "step-00000003"]
    again, again_lines = run(tmp_path / "small", make)
    assert without_times(again_lines) == without_times(lines)
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_a_changed_setting_starts_afresh(tmp_path: Path, tiny_decoder: Decoder) -> None:
    """A checkpoint of other work is never picked up: the stage's key decides."""
    with pytest.raises(Killed):
        run(tmp_path, language(tiny_decoder), kill_after=3)
    with Run(tmp_path).begin("pretrain", "another key", SETTINGS, {}, seed=3) as (context, _):
        assert not context.resumed and not (context.folder / "checkpoint").exists()
