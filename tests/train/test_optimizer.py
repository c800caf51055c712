"""AdamW is torch's, Muon's updates are near-orthogonal, and every weight has one optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.ppo import ActorCritic
from sishu.train.optimizer import Muon, Optimizer, orthogonalise

SETTINGS = {"learning_rate": 3e-3, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_without_a_matrix_rate_it_is_torchs_adamw(tiny_decoder: Decoder) -> None:
    ours, theirs = copy.deepcopy(tiny_decoder), copy.deepcopy(tiny_decoder)
    optimizer = Optimizer(ours, matrix_learning_rate=None, **SETTINGS)
    reference = torch.optim.AdamW(
        [
            {"params": [w for w in theirs.parameters() if w.ndim >= 2], "weight_decay": 0.1},
            {"params": [w for w in theirs.parameters() if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=3e-3,
        betas=(0.9, 0.95),
        foreach=False,
        fused=False,
    )
    for step in range(20):
        factor = 1 / (step + 1)
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step(factor)
        for group in reference.param_groups:
            group["lr"] = 3e-3 * factor
        reference.step()
        optimizer.zero_grad()
        assert all(w.grad is None for w in ours.parameters())
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert not torch.equal(a, dict(tiny_decoder.named_parameters())[name])


def test_with_a_matrix_rate_only_the_blocks_matrices_leave_adamw(tiny_decoder: Decoder) -> None:
    ours, theirs = copy.deepcopy(tiny_decoder), copy.deepcopy(tiny_decoder)
    one = Optimizer(ours, matrix_learning_rate=0.02, **SETTINGS)
    two = Optimizer(theirs, matrix_learning_rate=None, **SETTINGS)
    for model, optimizer in ((ours, one), (theirs, two)):
        give_gradients(model, 0)
        optimizer.step(1.0)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b) == (not (name.startswith("blocks.") and a.ndim == 2)), name


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (3, 16, 48), (48, 48)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    update = 7e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(update).float())
    if shape[-1] == shape[-2]:  # the smallest of a square one start too near 0 for five rounds
        values = values[..., : int(0.95 * shape[-1])]
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    u, _, vh = torch.linalg.svd(update, full_matrices=False)
    alike = (orthogonalise(update) * (u @ vh)).sum() / (u @ vh).pow(2).sum()
    assert float(alike) > 0.7, "it points where the polar factor does"


def test_muons_step_is_the_papers() -> None:
    """Nesterov momentum, the update orthogonalised, √(rows / columns) for a tall matrix, decay decoupled."""
    generator = torch.Generator().manual_seed(0)
    wide, tall = (torch.randn(s, generator=generator) for s in ((8, 32), (32, 8)))
    weights = {"wide": wide.clone(), "tall": tall.clone(), "also wide": wide.clone() + 1}
    muon = Muon(weights, learning_rate=0.02, decay=0.1, momentum=0.9)
    expected = {n: w.clone() for n, w in weights.items()}
    momenta = {n: torch.zeros_like(w) for n, w in weights.items()}
    for step in range(3):
        for name, weight in weights.items():
            g = torch.randn(weight.shape, generator=generator)
            weight.grad = g
            momenta[name] = 0.9 * momenta[name] + 0.1 * g
            update = orthogonalise(0.9 * momenta[name] + 0.1 * g)
            scale = 2.0 if name == "tall" else 1.0
            expected[name] = expected[name] * (1 - 0.5 * 0.02 * 0.1) - 0.5 * 0.02 * scale * update
        muon.step(0.5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=2e-4, rtol=1e-3, msg=f"{name} {step}")


def test_every_weight_is_covered_in_nested_models_too(tiny_decoder: Decoder) -> None:
    value = Scorer(tiny_decoder.config)
    model = ActorCritic(copy.deepcopy(tiny_decoder), value)
    optimizer = Optimizer(model, matrix_learning_rate=0.01, **SETTINGS)
    assert optimizer.muon is not None
    both = [*optimizer.names, *optimizer.muon.weights]
    assert sorted(both) == sorted(n for n, _ in model.named_parameters())
    assert len(optimizer.muon.weights) == 2 * 2 * 7
    before = {n: w.clone() for n, w in model.named_parameters()}
    give_gradients(model, 1)
    optimizer.step(1.0)
    for name, weight in model.named_parameters():
        assert not torch.equal(weight, before[name]), name


def steps(model: Decoder, optimizer: Optimizer, which: range) -> dict[str, Tensor]:
    for step in which:
        give_gradients(model, step)
        optimizer.step(1.0)
        optimizer.zero_grad()
    return {n: w.detach().clone() for n, w in model.named_parameters()}


def test_tensors_restored_into_a_fresh_optimizer_go_on_bitwise(tiny_decoder: Decoder) -> None:
    one = copy.deepcopy(tiny_decoder)
    first = Optimizer(one, matrix_learning_rate=0.02, **SETTINGS)
    steps(one, first, range(3))
    two = copy.deepcopy(one)
    second = Optimizer(two, matrix_learning_rate=0.02, **SETTINGS)
    second.restore({n: t.clone() for n, t in first.tensors().items()})
    a, b = steps(one, first, range(3, 6)), steps(two, second, range(3, 6))
    assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("matrix_rate", [None, 0.02])
def test_a_factor_multiplies_the_rates_of_the_weights_it_names(
    tiny_decoder: Decoder, matrix_rate: float | None
) -> None:
    faster = SETTINGS | {"learning_rate": 4 * 3e-3}
    faster_matrices = None if matrix_rate is None else 4 * matrix_rate
    models = [copy.deepcopy(tiny_decoder) for _ in range(3)]
    optimizers = [
        Optimizer(models[0], matrix_learning_rate=matrix_rate, factors={"blocks.1.": 4.0}, **SETTINGS),
        Optimizer(models[1], matrix_learning_rate=matrix_rate, **SETTINGS),
        Optimizer(models[2], matrix_learning_rate=faster_matrices, **faster),
    ]
    mixed, slow, fast = (steps(m, o, range(3)) for m, o in zip(models, optimizers, strict=True))
    for name in mixed:
        torch.testing.assert_close(
            mixed[name], (fast if name.startswith("blocks.1.") else slow)[name], rtol=1e-6, atol=1e-7
        )
    again = copy.deepcopy(models[0])
    second = Optimizer(again, matrix_learning_rate=matrix_rate, factors={"blocks.1.": 4.0}, **SETTINGS)
    second.restore({n: t.clone() for n, t in optimizers[0].tensors().items()})
    a, b = steps(models[0], optimizers[0], range(3, 5)), steps(again, second, range(3, 5))
    assert all(torch.equal(a[n], b[n]) for n in a)
