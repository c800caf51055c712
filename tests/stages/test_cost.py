"""The plan's arithmetic against real models, a real optimizer, and the operations PyTorch counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sishu.batches.batch import Batch
from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.models.flops import forward
from sishu.models.presets import PRESETS
from sishu.native import training
from sishu.native.build import library
from sishu.nn import layout
from sishu.objectives.language import next_token
from sishu.objectives.ppo import PPO, ActorCritic, AdaptiveKL
from sishu.stages import cost
from sishu.stages.cost import activation_bytes, memory, muon_flops, optimizer_bytes
from sishu.train.blocks import Blocks
from sishu.train.optimizer import Optimizer, orthogonalise
from sishu.train.trainer import TrainSettings

SMALL = DecoderConfig(
    vocabulary=96, width=64, layers=2, heads=4, kv_heads=2, head_width=16, hidden=192, context_length=32
)
SIZES: Any = {name: getattr(SMALL, name) for name in ("vocabulary", "width", "layers", "context_length")}
SIZES |= {"heads": 4, "kv_heads": 4, "head_width": 16, "hidden": 192}
SHAPES = [
    SMALL,
    replace(SMALL, tied=False),
    replace(SMALL, kv_heads=4, head_width=8, layers=3),
    replace(SMALL, kv_heads=1, hidden=40, vocabulary=1000, tied=False),
    *(replace(PRESETS[name], **SIZES) for name in ("gpt2", "smollm2-135m", "qwen2.5-0.5b")),
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
    return by_name["aten.mm"] + by_name.get("aten.addmm", 0), by_name.get("aten.bmm", 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_a_real_decoder(shape: DecoderConfig) -> None:
    model = Decoder(shape)
    whole = sum(p.numel() for p in model.parameters())
    every = (model.embedding, model.position_embedding, model.head)
    tables = [table for table in every if table is not None]
    assert shape.parameters() == whole
    assert shape.parameters(embedding=False) == whole - sum(t.weight.numel() for t in tables)


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_of_training_are_those_pytorch_counts(shape: DecoderConfig) -> None:
    model, ids = Decoder(shape), torch.zeros(3, 32, dtype=torch.long)
    products, attention = counted(lambda: language_loss(model, ids).backward())
    plan = forward(shape, tokens=96, length=32, head_tokens=96) * 3
    assert plan.products == pytest.approx(products, rel=0.02)
    assert plan.attention == attention
    assert plan.total == plan.products + plan.attention


def test_logits_of_part_of_the_tokens_cost_their_part() -> None:
    model, ids = Decoder(SMALL), torch.zeros(3, 32, dtype=torch.long)
    targets = ids.clone()
    targets[:, :24] = -100
    products, _ = counted(lambda: language_loss(model, ids, targets).backward())
    assert (forward(SMALL, 96, 32, 24) * 3).products == pytest.approx(products, rel=0.02)


def test_flops_of_a_ppo_pass_are_those_pytorch_counts() -> None:
    models, T = ActorCritic(Decoder(SMALL), Scorer(SMALL)), 32
    ids, some = torch.zeros(3, T + 1, dtype=torch.long), torch.zeros(3, T)
    tensors: dict[str, Tensor] = dict.fromkeys(("log_p", "values", "advantages", "returns"), some)
    batch = Batch({"ids": ids, "mask": torch.ones(3, T, dtype=torch.bool), **tensors}, 1.0, "rollouts")
    objective = PPO(0.2, 0.1, 1.0, Decoder(SMALL), AdaptiveKL(0.1, 1.0, 10))
    products, attention = counted(lambda: objective(models, batch).total.backward())
    policy = forward(SMALL, 3 * T, T, 3 * T)
    plan = (policy + forward(SMALL, 3 * T, T, 0)) * 3 + policy  # the reference is only read
    assert plan.products == pytest.approx(products, rel=0.02)
    assert plan.attention == attention


def test_flops_of_muon_are_those_pytorch_counts() -> None:
    block = [p for n, p in Decoder(SMALL).named_parameters() if p.ndim == 2 and n.startswith("blocks.0")]
    products, _ = counted(lambda: [orthogonalise(p.detach()) for p in block])
    assert muon_flops(SMALL) == SMALL.layers * products


def language_loss(model: Decoder, ids: Tensor, targets: Tensor | None = None) -> Tensor:
    return next_token(model, Batch({"ids": ids, "targets": ids if targets is None else targets}, 1.0)).total


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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_autograd_keeps(
    shape: DecoderConfig, bf16: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled and library() is None:
        pytest.skip("needs a C++ compiler")
    if not compiled:  # as elsewhere than on a CPU: torch's functions and its attention
        monkeypatch.setattr(training, "knows", lambda *_: False)
        monkeypatch.setattr(layout, "LONGEST_PLAIN", 0)
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
        loss = language_loss(model, ids)
    held = sum(t.untyped_storage().nbytes() for t in kept.values())
    gradient_of_head = 4 * shape.vocabulary * shape.width
    planned = activation_bytes(shape, ids.numel(), 32, bf16, cpu=compiled) + gradient_of_head
    assert planned == pytest.approx(held, rel=0.02)
    assert loss.isfinite()


@pytest.mark.parametrize("shape", [SMALL, *SHAPES[-3:]], ids=lambda shape: shape.family)
@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("micro_batch", [2, 8])
def test_peak_of_training_is_what_the_profiler_sees(
    micro_batch: int, bf16: bool, muon: bool, shape: DecoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sishu.train.optimizer.has_fast_bf16", lambda device: bf16)
    shape = replace(shape, vocabulary=500)
    rate = 0.02 if muon else None
    settings = TrainSettings(batch=8, micro_batch=micro_batch, matrix_learning_rate=rate)
    ids = torch.zeros(8, 32, dtype=torch.long)
    peak = peak_of_training(shape, muon, ids.split(micro_batch), bf16)
    assert memory(shape, settings, 32, bf16, cpu=True).total == pytest.approx(peak, rel=0.05)


def test_peak_with_long_rows_in_bf16_is_in_the_shares_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = replace(SMALL, heads=8, kv_heads=8, head_width=8, layers=3, context_length=512)
    peak = peak_of_training(shape, False, [torch.zeros(2, 512, dtype=torch.long)], True)
    settings = TrainSettings(batch=2, micro_batch=2, matrix_learning_rate=None)
    sides = [(True, True), (True, False), (False, True), (False, False)]
    plain, *others = (memory(shape, settings, 512, bf16, cpu=cpu) for bf16, cpu in sides)
    assert plain.total == pytest.approx(peak, rel=0.06)
    monkeypatch.setattr(cost, "LONGEST_PLAIN", 0)
    fused, *same = (memory(shape, settings, 512, bf16, cpu=cpu) for bf16, cpu in sides)
    assert fused.total < 0.3 * plain.total  # the fused kernel keeps no shares
    assert same == others, "and nobody else keeps some"


@pytest.mark.parametrize(
    ("shape", "length", "muon"), [(SMALL, 32, True), (SMALL, 256, False), (SHAPES[4], 256, False)]
)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("micro_batch", [2, 8])
def test_peak_with_activation_checkpointing(
    micro_batch: int,
    bf16: bool,
    muon: bool,
    length: int,
    shape: DecoderConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan's saving is the measured one."""
    monkeypatch.setattr("sishu.train.optimizer.has_fast_bf16", lambda device: bf16)
    shape = replace(shape, vocabulary=500, layers=6, context_length=256)
    settings = TrainSettings(batch=8, micro_batch=micro_batch, matrix_learning_rate=0.02 if muon else None)
    ids = torch.zeros(8, length, dtype=torch.long).split(micro_batch)
    kept, again = (peak_of_training(shape, muon, ids, bf16, c) for c in (False, True))
    plans = [
        memory(shape, settings.model_copy(update={"activation_checkpointing": c}), length, bf16, cpu=True)
        for c in (False, True)
    ]
    assert plans[1].total == pytest.approx(again, rel=0.05)
    assert plans[0].total - plans[1].total == pytest.approx(kept - again, rel=0.1, abs=0.03 * kept)
    if length == 256:
        assert again < 0.5 * kept


def peak_of_training(
    shape: DecoderConfig, muon: bool, parts: Sequence[Tensor], bf16: bool, checkpointing: bool = False
) -> int:
    """Bytes at the highest point of two steps over the micro-batches, as the profiler sees them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = Decoder(shape)
        optimizer = optimizer_of(model, muon)
        blocks = Blocks(model, checkpointing=checkpointing, compiled=False)
        for _ in range(2):
            for part in parts:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16), blocks.at_work():
                    loss = language_loss(model, part)
                loss.backward()
            optimizer.step(1.0)
            optimizer.zero_grad()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_memory_of_ppo_holds_four_models_and_trains_two() -> None:
    policy, value = Decoder(SMALL), Scorer(SMALL)
    size = sum(4 * p.numel() for p in (*policy.parameters(), *value.parameters()))
    m = memory(SMALL, TrainSettings(batch=4, micro_batch=2), 32, False, cpu=True, kind="ppo")
    assert (m.weights, m.gradients) == (2 * size, size)
    assert m.total == m.weights + m.optimizer + max(m.activations + m.gradients, m.gradients + m.update)


def test_memory_grows_with_the_micro_batch_and_counts_its_logits() -> None:
    shape = replace(SMALL, vocabulary=500)
    one, two = (memory(shape, TrainSettings(batch=8, micro_batch=n), 32, False, cpu=True) for n in (1, 2))
    assert two.activations - two.logits == 2 * (one.activations - one.logits)
    assert one.logits == 500 * (4 * 32 + 4 * shape.width) <= one.activations
    of_ppo = memory(shape, TrainSettings(batch=8, micro_batch=1), 32, False, cpu=True, kind="ppo")
    assert of_ppo.logits == 12 * 500 * 32 <= of_ppo.activations
    whole = memory(shape, TrainSettings(batch=2, micro_batch=2), 32, False, cpu=True)
    assert whole.total == two.total - two.gradients  # nothing to accumulate while activations live
