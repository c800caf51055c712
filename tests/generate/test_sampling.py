"""Choosing tokens: against transformers' processors, and by chi-square against the distribution asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sishu.generate.sampling import Sampling, adjust, choose


def uniform(rows: int, seed: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(rows: int, size: int = 50, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("penalty", [1.1, 1.5, 2.0])
def test_the_repetition_penalty_is_transformers(penalty: float) -> None:
    ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(4, 50, dtype=torch.bool).scatter_(1, ids, True)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits(4).clone())
    torch.testing.assert_close(adjust(logits(4), Sampling(repetition_penalty=penalty), seen), theirs)
    assert torch.equal(adjust(logits(4), Sampling(repetition_penalty=penalty)), logits(4))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 50, 99])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_temperature_top_k_and_top_p_are_transformers(temperature: float, top_k: int, top_p: float) -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)
    theirs = TemperatureLogitsWarper(temperature)(ids, logits(20))
    if top_k:
        theirs = TopKLogitsWarper(top_k)(ids, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(ids, theirs)
    ours = adjust(logits(20), Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert torch.equal(ours.isinf(), theirs.isinf())
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


def expected(row: Tensor, s: Sampling) -> Tensor:
    """The distribution asked for, worked out with plain lists."""
    p = [float(x) for x in (row.double() / s.temperature).softmax(-1)]
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if s.top_k:
        order = order[: s.top_k]
    kept, total = [], sum(p[i] for i in order)
    reached = 0.0
    for i in order:
        if reached >= s.top_p:
            break
        kept.append(i)
        reached += p[i] / total
    mass = sum(p[i] for i in kept)
    return torch.tensor([p[i] / mass if i in kept else 0.0 for i in range(len(p))])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=1.7),
        Sampling(top_k=3),
        Sampling(top_p=0.6),
        Sampling(temperature=1.3, top_k=5, top_p=0.8),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    row, draws = logits(1, 8)[0] / 2, 20_000
    tokens = choose(row.expand(draws, -1), sampling, uniform(draws, 0))
    counts = torch.bincount(tokens, minlength=8).double()
    p = expected(row, sampling).double()
    assert (counts[p == 0] == 0).all()
    allowed = p > 0
    chi_square = ((counts - draws * p) ** 2 / (draws * p))[allowed].sum()
    freedom = int(allowed.sum()) - 1
    assert torch.special.gammaincc(torch.tensor(freedom / 2.0).double(), chi_square / 2) > 0.001


def test_temperature_zero_takes_the_most_likely_whatever_else_is_set() -> None:
    for s in (Sampling(temperature=0), Sampling(temperature=0, top_k=3, top_p=0.5, seed=3)):
        assert torch.equal(choose(logits(20), s, uniform(20, 0)), logits(20).argmax(-1))


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 1e-300])
def test_a_temperature_next_to_zero_is_zero(temperature: float) -> None:
    s = Sampling(temperature=temperature, top_p=0.9)
    assert torch.equal(choose(logits(20), s, uniform(20, 0)), logits(20).argmax(-1))


def test_the_generator_decides() -> None:
    flat = torch.zeros(64, 50)
    one, two, other = (choose(flat, Sampling(), uniform(len(flat), s)) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_half_precision_is_sampled_in_float32() -> None:
    assert adjust(logits(2).bfloat16(), Sampling(temperature=0.7)).dtype == torch.float32
