"""Choosing tokens of many answers at once: against transformers, plain lists, chi-square and single rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sishu.generate import nucleus
from sishu.generate.guide import Guide
from sishu.generate.nucleus import keep_by_sorting, keep_nucleus
from sishu.generate.penalties import TokenCounts
from sishu.generate.sampler import BLOCK, allowed_by_shifts, distribution, keep_allowed, processed, sample
from sishu.generate.sampling import Sampling

Keep = Callable[[Tensor, Sequence[float]], None]


def logits(rows: int, size: int = 50, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def packed(allowed_BV: Tensor) -> Tensor:
    """A boolean mask as int32 words, 32 tokens each."""
    B, V = allowed_BV.shape
    bits = torch.zeros(B, -(-V // 32) * 32, dtype=torch.int64)
    bits[:, :V] = allowed_BV
    words = (bits.view(B, -1, 32) << torch.arange(32)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


WAYS = [
    Sampling(),
    Sampling(temperature=0.4),
    Sampling(temperature=1.8),
    Sampling(top_k=1),
    Sampling(top_k=7),
    Sampling(top_k=99),
    Sampling(top_p=0.05),
    Sampling(top_p=0.5),
    Sampling(top_p=0.95),
    Sampling(min_p=0.02),
    Sampling(min_p=1.0),
    Sampling(temperature=0.7, top_k=20, top_p=0.8),
    Sampling(temperature=1.5, top_p=0.9, min_p=0.1),
    Sampling(temperature=1.2, top_k=5, min_p=0.05),
    Sampling(temperature=1.3, top_k=11, top_p=0.7, min_p=0.15, repetition_penalty=1.4),
    Sampling(repetition_penalty=0.8, top_p=0.9),
]


def theirs(given: Tensor, sampling: Sampling, ids: Tensor) -> Tensor:
    """The distributions (B, V) that transformers would sample from."""
    s, steps = sampling, LogitsProcessorList()
    if s.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
    steps.append(TemperatureLogitsWarper(float(s.temperature)))
    if s.top_k:
        steps.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        steps.append(TopPLogitsWarper(s.top_p))
    if s.min_p:
        steps.append(MinPLogitsWarper(s.min_p))
    return steps(ids, given.clone()).softmax(-1)


@pytest.mark.parametrize("size", [50, 700])
@pytest.mark.parametrize("sampling", WAYS)
def test_distributions_are_transformers(sampling: Sampling, size: int) -> None:
    rows = 30
    ids = torch.randint(0, size, (rows, 12), generator=torch.Generator().manual_seed(1))
    counts = [TokenCounts(row[:7], row[7:]) for row in ids.tolist()]
    ours = distribution(logits(rows, size), [sampling] * rows, [5] * rows, counts)
    expected = theirs(logits(rows, size), sampling, ids)
    assert torch.equal(ours > 0, expected > 0)
    torch.testing.assert_close(ours.float(), expected)


def test_processed_logits_are_transformers_to_the_bit() -> None:
    ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    counts = [TokenCounts(row[:7], row[7:]) for row in ids.tolist()]
    for penalty in (1.1, 1.7, 0.6):
        ours = processed(logits(4), [Sampling(repetition_penalty=penalty)] * 4, [5] * 4, counts)
        assert torch.equal(ours, RepetitionPenaltyLogitsProcessor(penalty)(ids, logits(4)))


def chance(tokens: Tensor, p: Tensor) -> float:
    """How often draws at least this far from the distribution would turn up (chi-square test)."""
    counts = torch.bincount(tokens, minlength=len(p)).double()
    assert (counts[p == 0] == 0).all()
    expected = len(tokens) * p
    if int((p > 0).sum()) == 1:
        return 1.0
    rare = expected < 5  # the test is an approximation that needs some draws of each
    both = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    both, wanted = both[wanted > 0], wanted[wanted > 0]
    chi_square = ((both - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(both) - 1) / 2).double(), chi_square / 2))


@pytest.mark.parametrize("size", [8, BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize("sampling", WAYS)
def test_draws_follow_the_distribution(sampling: Sampling, size: int) -> None:
    draws = 6000
    row = logits(1, size, seed=3) / 2
    counts = TokenCounts([1, 2], [3, 3, 5])
    p = theirs(row, sampling, torch.tensor([[1, 2, 3, 3, 5]]))[0].double()
    several = range(0, draws, 2000)  # (not all at once: that many rows of logits are large)
    tokens = torch.cat(
        [
            sample(row.expand(2000, -1), [sampling] * 2000, [at] * 2000, range(2000), [counts] * 2000)
            for at in several
        ]
    )
    assert 1e-3 < chance(tokens, p) <= 1
    seeds = [int(seed) for seed in range(2000)]
    first = sample(row.expand(2000, -1), [sampling] * 2000, seeds, [0] * 2000, [counts] * 2000)
    assert 1e-3 < chance(first, p) <= 1


def test_the_chi_square_test_can_fail() -> None:
    row = logits(1, 8)[0] / 2
    tokens = sample(row.expand(5000, -1), [Sampling()] * 5000, [0] * 5000, range(5000))
    assert chance(tokens, (row / 1.1).softmax(-1).double()) < 1e-3


MIXED = [
    Sampling(temperature=0),
    Sampling(),
    Sampling(temperature=1.5, top_p=0.9),
    Sampling(top_k=5),
    Sampling(temperature=0, repetition_penalty=1.5),
    Sampling(min_p=0.1, presence_penalty=1.0),
    Sampling(logit_bias=((3, 5.0), (4, -100.0))),
    Sampling(min_tokens=9, stop_ids=(7,)),
    Sampling(guide=Guide("regex", "a")),
    Sampling(temperature=2.0, top_k=9, top_p=0.7, min_p=0.01, frequency_penalty=-0.5),
]


@pytest.mark.parametrize("size", [50, 1000])
def test_a_row_is_chosen_as_if_it_were_alone(size: int) -> None:
    """… whatever shares its batch, in whatever order."""
    generator = torch.Generator().manual_seed(2)
    for trial in range(20):
        B = len(MIXED)
        rows = logits(B, size, seed=trial)
        before = rows.clone()
        counts = [TokenCounts([1, 2, row], [row + 3, row + 3, 20]) for row in range(B)]
        seeds, steps = list(range(trial, trial + B)), [3 * row for row in range(B)]
        mask = torch.full((B, -(-size // 32)), -1, dtype=torch.int32)
        mask[8] = packed(torch.rand(1, size, generator=generator) < 0.3)[0]
        alone = [
            int(
                sample(
                    rows[i : i + 1],
                    [MIXED[i]],
                    [seeds[i]],
                    [steps[i]],
                    [counts[i]],
                    mask[i : i + 1],
                    end_ids=(9,),
                )
            )
            for i in range(B)
        ]
        order = torch.randperm(B, generator=generator)[: 1 + trial % B].tolist()
        together = sample(
            rows[order],
            [MIXED[i] for i in order],
            [seeds[i] for i in order],
            [steps[i] for i in order],
            [counts[i] for i in order],
            mask[order],
            end_ids=(9,),
        )
        assert together.tolist() == [alone[i] for i in order]
        assert torch.equal(rows, before)


def test_greedy_takes_the_first_of_the_likeliest_whatever_else_is_set() -> None:
    rows = logits(20)
    rows[3, 30] = rows[3, 10] = 50.0
    for s in (Sampling(temperature=0), Sampling(temperature=1e-300, top_k=3, top_p=0.5, min_p=0.3)):
        tokens = sample(rows, [s] * 20, [1] * 20, [0] * 20)
        assert torch.equal(tokens, rows.argmax(-1)) and tokens[3] == 10
    assert torch.equal(
        sample(rows.bfloat16(), [Sampling(temperature=0)] * 20, [1] * 20, [0] * 20)[4:], tokens[4:]
    )


def test_extreme_temperatures_neither_overflow_nor_let_excluded_tokens_in() -> None:
    s = Sampling(temperature=1e300, logit_bias=((0, -100.0),))
    tokens = sample(logits(1, 4).expand(4000, -1), [s] * 4000, [1] * 4000, range(4000))
    assert chance(tokens, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]).double()) > 1e-3
    cold = sample(100 * logits(20), [Sampling(temperature=1e-5)] * 20, [1] * 20, [0] * 20)
    assert torch.equal(cold, logits(20).argmax(-1))


def test_a_mask_excludes_what_has_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (5, 32, 33, 64, 70):
        wanted = torch.rand(6, size, generator=generator) < 0.4
        wanted[:, 1] = True
        given = logits(6, size)
        keep_allowed(given, packed(wanted))
        assert torch.equal(given == -torch.inf, ~wanted)
        everything = logits(6, size)
        keep_allowed(everything, torch.full((6, -(-size // 32)), -1, dtype=torch.int32))
        assert torch.equal(everything, logits(6, size))
        # as an accelerator does it
        assert torch.equal(allowed_by_shifts(packed(wanted))[:, :size], wanted)
    short = logits(2, 70)  # more logits than the mask knows tokens
    keep_allowed(short, torch.full((2, 2), -1, dtype=torch.int32))
    assert torch.equal(short[:, :64], logits(2, 70)[:, :64]) and (short[:, 64:] == -torch.inf).all()


def test_min_tokens_keeps_every_end_back() -> None:
    rows = torch.zeros(4, 10)
    rows[:, 2], rows[:, 5], rows[:, 7] = 9.0, 8.0, 7.0
    free = Sampling(temperature=0)
    held = Sampling(temperature=0, min_tokens=3, stop_ids=(5,))
    on = Sampling(temperature=0, min_tokens=3, stop_ids=(5,), ignore_end=True)
    ways = [free, held, held, on]
    assert sample(rows, ways, [0] * 4, [0, 2, 3, 0], end_ids=(2,)).tolist() == [2, 7, 2, 2]


def test_a_guide_that_leaves_nothing_but_the_end_goes_before_min_tokens() -> None:
    rows = torch.zeros(2, 40)
    mask = packed(torch.arange(40).eq(2).expand(2, -1))
    early = Sampling(min_tokens=3, guide=Guide("regex", "a"))
    tokens = sample(rows, [early, early], [0, 1], [0, 0], None, mask, end_ids=(2,))
    assert tokens.tolist() == [2, 2]


@pytest.mark.parametrize("keep", [keep_nucleus, keep_by_sorting])
@settings(deadline=None, max_examples=200)
@given(
    weights=st.lists(st.integers(0, 12), min_size=2, max_size=40),
    p=st.floats(0.01, 0.999),
    few=st.sampled_from([0, 10, 1024]),
)
def test_top_p_keeps_the_smallest_set(keep: Keep, few: int, weights: list[int], p: float) -> None:
    """Small whole numbers, so that there are many ties and sums are exact."""
    if not any(weights):
        weights[0] = 1
    given = torch.tensor([weights], dtype=torch.float32) / max(weights)
    one = given.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nucleus, "_FEW", few)
        keep(one, [p])
    kept = one[0] > 0
    assert torch.equal(one[0][kept], given[0][kept])
    scaled = [w / max(weights) for w in given[0].tolist()]
    total = math.fsum(scaled)
    held = [w for w, k in zip(scaled, kept.tolist(), strict=True) if k]
    left = [w for w, k in zip(scaled, kept.tolist(), strict=True) if not k and w > 0]
    assert math.fsum(held) >= p * total * (1 - 1e-6)
    assert math.fsum(held) - min(held) < p * total * (1 + 1e-6)
    assert not left or max(left) <= min(held)
    border = [k for w, k in zip(scaled, kept.tolist(), strict=True) if w == min(held)]
    assert border == sorted(border, reverse=True)  # of equal ones the first


@pytest.mark.parametrize("keep", [keep_nucleus, keep_by_sorting])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 30.0])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_plain_sums(keep: Keep, spread: float) -> None:
    generator = torch.Generator().manual_seed(4)
    rows = (spread * torch.randn(6, 20_011, generator=generator)).log_softmax(-1)
    given = (rows - rows.amax(-1, keepdim=True)).exp()
    wanted = [0.01, 0.3, 0.9, 0.95, 0.999, 1 - 1e-12]
    ours = given.clone()
    keep(ours, wanted)
    for row, p in enumerate(wanted):
        ordered, order = given[row].double().sort(descending=True, stable=True)
        reached = ordered.cumsum(0)
        size = int((reached - ordered < p * reached[-1]).sum())
        kept = (ours[row] > 0).nonzero()[:, 0].tolist()
        # a border may fall between tokens whose sums differ by rounding alone
        assert abs(len(kept) - int((ordered[:size] > 0).sum())) <= 1
        assert set(kept[:-1]) <= set(order[: size + 1].tolist()) or spread == 0.0


@settings(deadline=None, max_examples=100)
@given(st.floats(0.001, 1.0), st.integers(0, 1000), st.floats(0.1, 3))
def test_min_p_keeps_what_is_likely_enough_and_the_likeliest(min_p: float, seed: int, warm: float) -> None:
    rows = logits(3, 60, seed)
    p = distribution(rows, [Sampling(min_p=min_p, temperature=warm)] * 3, [0] * 3)
    full = (rows / warm).softmax(-1).double()
    ratio = full / full.amax(-1, keepdim=True)
    assert (p[ratio < min_p * (1 - 1e-5)] == 0).all() and (p[ratio > min_p * (1 + 1e-5)] > 0).all()
    assert (p.gather(1, rows.argmax(-1, keepdim=True)) > 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(3, dtype=torch.float64))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_top_k_keeps_equals_of_the_last(k: int, values: list[int]) -> None:
    p = distribution(torch.tensor([values]).float(), [Sampling(top_k=k)], [0])[0]
    last = sorted(values, reverse=True)[min(k, len(values)) - 1]
    assert (p > 0).tolist() == [value >= last for value in values]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 59), st.integers(0, 10_000), st.sampled_from([Sampling(), *WAYS[:13]]))
def test_a_bias_of_minus_100_excludes(token: int, seed: int, sampling: Sampling) -> None:
    rows = logits(1, 60, seed % 17)
    rows[0, token] = 400.0
    banned = Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        logit_bias=((token, -100.0),),
    )
    assert sample(rows, [banned], [seed], [0]).item() != token
    chosen = Sampling(logit_bias=((token, 100.0),))
    assert sample(logits(1, 60, seed % 17), [chosen], [seed], [0]).item() == token


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        sample(logits(2), [Sampling()], [0], [0])
    with pytest.raises(ValueError, match="3 rows of a mask for 2"):
        sample(logits(2), [Sampling()] * 2, [0] * 2, [0] * 2, None, torch.full((3, 2), -1, dtype=torch.int32))
    with pytest.raises(ValueError, match="counts"):
        sample(logits(1), [Sampling(presence_penalty=1.0)], [0], [0])
