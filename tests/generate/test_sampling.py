"""Choosing tokens: against transformers' processors, and by chi-square against the distribution asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

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


def test_the_first_fields_stand_where_they_stood() -> None:
    """Training builds them by place and by these defaults."""
    names = [field.name for field in fields(Sampling)][:8]
    assert names == [
        "max_tokens",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "seed",
        "stop",
        "min_p",
    ]
    s = Sampling()
    assert (s.max_tokens, s.temperature, s.top_k, s.top_p, s.repetition_penalty) == (256, 1.0, 0, 1.0, 1.0)
    assert (s.seed, s.stop, s.guide, s.log_probs, s.prompt_log_probs) == (None, (), None, None, None)
    assert (s.min_p, s.presence_penalty, s.frequency_penalty, s.logit_bias, s.stop_ids) == (0, 0, 0, (), ())
    assert (s.ignore_end, s.min_tokens, s.n) == (False, 0, 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -1}, "top_k is -1; it must be 0 or more"),
        ({"min_p": 1.5}, "min_p is 1.5; it must be from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; it must be from -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"n": 0}, "n is 0; it must be 1 or more"),
        ({"log_probs": -1}, "log_probs"),
        ({"prompt_log_probs": -1}, "prompt_log_probs"),
        ({"logit_bias": ((1, 101.0),)}, "gives token 1 the bias 101.0"),
        ({"logit_bias": ((1, float("nan")),)}, "the bias nan"),
        ({"logit_bias": ((-1, 1.0),)}, "token -1"),
        ({"stop_ids": (4, -2)}, "stop_ids holds -2"),
        ({"stop": ("a", "")}, "empty string"),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling(**wrong)


def test_tokens_that_the_model_lacks_are_refused() -> None:
    Sampling(logit_bias=((49, 1.0),), stop_ids=(49,)).check(50)
    with pytest.raises(ValueError, match="logit_bias names token 50; the last token is 49"):
        Sampling(logit_bias=((50, 1.0),)).check(50)
    with pytest.raises(ValueError, match="stop_ids names token 77"):
        Sampling(stop_ids=(3, 77)).check(50)
