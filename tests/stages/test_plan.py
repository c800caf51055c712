"""The plan's arithmetic against real models, a real optimizer, and the operations PyTorch counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sishu import cli
from sishu.batches.batch import Batch
from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.objectives.language import token_losses
from sishu.objectives.ppo import PPO, ActorCritic
from sishu.road import load_recipe
from sishu.run import Run
from sishu.stages.plan import (
    DEVICES,
    Facts,
    activation_bytes,
    advice,
    chinchilla,
    deepest,
    duration,
    effective_tokens,
    forward,
    gather_facts,
    memory,
    muon_flops,
    optimizer_bytes,
    plan_stages,
    show_plan,
    si,
)
from sishu.stages.shape import ModelSettings, derive_shape
from sishu.tokenizer.train import train_bpe
from sishu.train.optimizer import Optimizer, orthogonalise
from sishu.train.trainer import TrainSettings

SMALL = DecoderConfig(
    vocabulary=96, width=64, layers=2, heads=4, kv_heads=2, head_width=16, hidden=192, context_length=32
)
SHAPES = [
    SMALL,
    replace(SMALL, tied=False),
    replace(SMALL, kv_heads=4, head_width=8, layers=3),
    replace(SMALL, kv_heads=1, hidden=40, vocabulary=1000, tied=False),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def counted(work: Callable[[], Any]) -> tuple[int, int]:
    """FLOPs of matrix products (mm) and of attention (bmm), with attention done as plain products."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        work()
    by_name = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    return by_name["aten.mm"], by_name.get("aten.bmm", 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_a_real_decoder(shape: DecoderConfig) -> None:
    model = Decoder(shape)
    whole = sum(p.numel() for p in model.parameters())
    tables = [model.embedding] + ([model.head] if model.head is not None else [])
    assert shape.parameters() == whole
    assert shape.parameters(embedding=False) == whole - sum(t.weight.numel() for t in tables)


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_of_training_are_those_pytorch_counts(shape: DecoderConfig) -> None:
    model, ids = Decoder(shape), torch.zeros(3, 32, dtype=torch.long)
    products, attention = counted(lambda: token_losses(model, ids, ids).mean().backward())
    plan = forward(shape, tokens=96, length=32, head_tokens=96) * 3
    assert plan.products == pytest.approx(products, rel=0.02)
    assert plan.attention == attention
    assert plan.total == plan.products + plan.attention


def test_logits_of_part_of_the_tokens_cost_their_part() -> None:
    model, ids = Decoder(SMALL), torch.zeros(3, 32, dtype=torch.long)
    targets = ids.clone()
    targets[:, :24] = -100
    products, _ = counted(lambda: token_losses(model, ids, targets).mean().backward())
    assert (forward(SMALL, 96, 32, 24) * 3).products == pytest.approx(products, rel=0.02)


def test_flops_of_a_ppo_pass_are_those_pytorch_counts() -> None:
    models, T = ActorCritic(Decoder(SMALL), Scorer(SMALL)), 32
    ids, some = torch.zeros(3, T + 1, dtype=torch.long), torch.zeros(3, T)
    tensors: dict[str, Tensor] = dict.fromkeys(("log_p", "values", "advantages", "returns"), some)
    batch = Batch({"ids": ids, "mask": torch.ones(3, T, dtype=torch.bool), **tensors}, 1.0, "rollouts")
    products, attention = counted(lambda: PPO(0.2, 0.1, 1.0)(models, batch).total.backward())
    plan = (forward(SMALL, 3 * T, T, 3 * T) + forward(SMALL, 3 * T, T, 0)) * 3
    assert plan.products == pytest.approx(products, rel=0.02)
    assert plan.attention == attention


def test_flops_of_muon_are_those_pytorch_counts() -> None:
    block = [p for n, p in Decoder(SMALL).named_parameters() if p.ndim == 2 and n.startswith("blocks.0")]
    products, _ = counted(lambda: [orthogonalise(p.detach()) for p in block])
    assert muon_flops(SMALL) == SMALL.layers * products


def optimizer_of(model: nn.Module, muon: bool) -> Optimizer:
    return Optimizer(
        model,
        learning_rate=1e-3,
        matrix_learning_rate=0.02 if muon else None,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        eps=1e-8,
    )


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize(("shape", "scorer"), [*((s, False) for s in SHAPES), (SHAPES[0], True)])
def test_optimizer_memory_is_that_of_its_state(shape: DecoderConfig, scorer: bool, muon: bool) -> None:
    model: nn.Module = Scorer(shape) if scorer else Decoder(shape)
    optimizer = optimizer_of(model, muon)
    model(torch.zeros(2, 8, dtype=torch.long)).square().mean().backward()
    optimizer.step(1.0)
    held = sum(t.numel() * t.element_size() for t in optimizer.tensors().values())
    assert optimizer_bytes(shape, muon, scorer) == held


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_autograd_keeps(shape: DecoderConfig, bf16: bool) -> None:
    model, ids = Decoder(shape), torch.zeros(4, 32, dtype=torch.long)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t  # kept alive, so that no address is used twice
        return t

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        loss = token_losses(model, ids, ids).mean()
    held = sum(t.untyped_storage().nbytes() for t in kept.values())
    log_probabilities = 4 * shape.vocabulary * ids.numel()
    assert activation_bytes(shape, ids.numel(), bf16) + log_probabilities == pytest.approx(held, rel=0.02)
    assert loss.isfinite()


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("micro_batch", [2, 8])
def test_peak_of_training_is_what_the_profiler_sees(
    micro_batch: int, bf16: bool, muon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sishu.train.optimizer.has_fast_bf16", lambda device: bf16)
    shape = replace(SMALL, vocabulary=500)
    rate = 0.02 if muon else None
    settings = TrainSettings(batch=8, micro_batch=micro_batch, matrix_learning_rate=rate)
    ids = torch.zeros(8, 32, dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = Decoder(shape)
        optimizer = optimizer_of(model, muon)
        for _ in range(2):
            for part in ids.split(micro_batch):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = token_losses(model, part, part).mean()
                loss.backward()
            optimizer.step(1.0)
            optimizer.zero_grad()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    peak = max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    assert memory(shape, settings, 32, bf16).total == pytest.approx(peak, rel=0.05)


def test_memory_of_ppo_holds_four_models_and_trains_two() -> None:
    policy, value = Decoder(SMALL), Scorer(SMALL)
    size = sum(4 * p.numel() for p in (*policy.parameters(), *value.parameters()))
    m = memory(SMALL, TrainSettings(batch=4, micro_batch=2), 32, False, kind="ppo")
    assert (m.weights, m.gradients) == (2 * size, size)
    assert m.total == m.weights + m.optimizer + max(m.activations + m.gradients, m.gradients + m.update)


def test_memory_grows_with_the_micro_batch_and_counts_its_logits() -> None:
    shape = replace(SMALL, vocabulary=500)
    one, two = (memory(shape, TrainSettings(batch=8, micro_batch=n), 32, False) for n in (1, 2))
    assert two.activations == 2 * one.activations
    assert one.logits == 12 * 500 * 32 <= one.activations
    whole = memory(shape, TrainSettings(batch=2, micro_batch=2), 32, False)
    assert whole.total == two.total - two.gradients  # nothing to accumulate while activations live


def test_every_stage_of_quickstart_is_planned() -> None:
    road = load_recipe("quickstart", {"pretrain": {"train": {"batch": 32, "steps": 300}}})
    c, stages = plan_stages(road, gather_facts(road, None))
    assert [s.name for s in stages] == ["pretrain", "sft", "reward", "ppo"]
    assert stages[0].tokens == 300 * 32 * 256
    assert stages[0].flops.products == 6 * c.parameters() * stages[0].tokens
    assert stages[0].flops.attention == 12 * c.layers * c.heads * c.head_width * 256 * stages[0].tokens
    assert all(s.flops.generation > 0 for s in stages[2:]) and stages[0].flops.generation == 0
    # twice the passes: the updates double, drawing and measuring the rollouts do not
    again = plan_stages(load_recipe("quickstart", {"ppo": {"passes": 8}}), Facts(vocabulary=4096))[1][3]
    assert 1.7 < again.flops.total / stages[3].flops.total < 2
    assert again.flops.generation == stages[3].flops.generation


def test_a_device_that_is_too_small_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    deep = load_recipe("quickstart", {"pretrain": {"model": {"depth": 40}}})
    show_plan("deep", deep, None, quick=True)
    assert "too small" in capsys.readouterr().out
    _, stages = plan_stages(deep, Facts())
    fits = [d.fits(stages[0]) for d in DEVICES]
    assert fits[0] is False and fits == sorted(fits)


@given(st.floats(1e3, 1e13), st.floats(0.01, 1000))
def test_repeated_text_is_worth_less_than_new(unique: float, passes: float) -> None:
    worth = effective_tokens(unique, passes)
    assert worth <= unique * passes * (1 + 1e-9)
    assert worth <= 16.39 * unique
    assert worth <= effective_tokens(unique, passes * 1.5)
    if passes <= 4:
        assert worth >= 0.9 * unique * passes


@given(st.floats(1e9, 1e26))
def test_chinchilla_spends_the_flops(flops: float) -> None:
    parameters, tokens = chinchilla(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert chinchilla(4 * flops)[0] == pytest.approx(2 * parameters)


@given(st.floats(1e3, 1e12))
def test_the_deepest_model_is_the_last_with_enough_text(tokens: float) -> None:
    m = ModelSettings()
    depth = deepest(m, 512, tokens) or 0

    def wanted(depth: int) -> int:
        shape, _ = derive_shape(m.model_copy(update={"depth": depth}), 512)
        return 20 * shape.parameters()

    assert depth == 0 or wanted(depth) <= tokens
    assert depth == 128 or wanted(depth + 1) > tokens


def test_advice_names_its_sources_and_depends_on_the_corpus() -> None:
    road = load_recipe("quickstart", {})
    for corpus, words in ((None, "unknown"), (720_000, "3.4 passes")):
        facts = Facts(vocabulary=4096, corpus_tokens=corpus)
        c, stages = plan_stages(road, facts)
        said = " ".join(advice(road, facts, c, stages[0]))
        assert words in said and "2203.15556" in said and "nanochat" in said
    assert "2305.16264" in said


def write_manifest(folder: Path, figures: dict[str, Any], seconds: float) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"figures": figures, "seconds": seconds}))


def test_a_run_tells_its_facts_and_its_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_bpe(["what is a list? 列表是什么?"] * 20, 400)
    write_manifest(tmp_path / "tokenizer", {"vocabulary": tokenizer.vocabulary_size}, 1.0)
    tokenizer.save(tmp_path / "tokenizer")
    write_manifest(tmp_path / "pretrain", {"train_tokens": 5000}, 12.5)
    write_manifest(tmp_path / "sft", {"conversations": 77}, 3.0)
    turns = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a list"}]
    (tmp_path / "sft" / "conversations-train.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    road = load_recipe("quickstart", {"tokenizer": {"vocabulary": None}})
    facts = gather_facts(road, Run(tmp_path))
    assert facts.vocabulary == tokenizer.vocabulary_size and facts.corpus_tokens == 5000
    assert facts.conversations == 77 and facts.assumed == ()
    assert facts.longest == facts.row == len(tokenizer.encode_conversation(turns).ids)
    assert facts.prompt == len(tokenizer.encode_conversation(turns[:-1], True).ids)
    show_plan("mine", road, Run(tmp_path), quick=True)
    out = capsys.readouterr().out
    assert "measured / estimate" in out and "12.5" in out


def plan_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sishu", "plan", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_command_plans_quickstart_and_measures_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert plan_command(monkeypatch, "quickstart", "pretrain.model.depth=2") == 0
    out = capsys.readouterr().out
    words = ("pretrain", "ppo", "this machine", "H100 SXM", "list prices", "check yours", "logits")
    assert all(word in out for word in words)
    shape, _ = derive_shape(ModelSettings(depth=2), 4096)
    assert f"{shape.parameters():,} parameters" in out


def test_an_unknown_recipe_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_command(monkeypatch, "quikstart") == 2
    assert "'quickstart'" in capsys.readouterr().err


def test_numbers_are_short() -> None:
    assert [si(x) for x in (0, 12, 1500, 12_345_678, 6.67e13)] == ["0", "12", "1.5k", "12.3M", "66.7T"]
    assert [duration(x) for x in (0.123, 45, 90, 7200, 200_000)] == ["0.12s", "45s", "1.5min", "2.0h", "2.3d"]
