"""Rows of several sources: exact shares, none left out, the same whenever they are asked for."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.batches.batch import Batch, Stateless
from sishu.batches.mixture import Mixture, whole_weights
from sishu.batches.tokens import Windows


class Numbered(Stateless):
    """A source whose every row says where it is from and which it is."""

    def __init__(self, name: int) -> None:
        self.name = name

    def batches(self, step: int) -> list[Batch]:
        ids = torch.tensor([[self.name, step]])
        return [Batch({"ids": ids, "targets": ids + 1}, 1.0, "tokens")]


def numbered(weights: list[int], batch: int, micro: int = 64, seed: int = 0) -> Mixture:
    return Mixture([Numbered(i) for i in range(len(weights))], weights, batch, micro, seed)


def rows_of(mixture: Mixture, steps: int) -> list[tuple[int, int]]:
    found = [b["ids"].tolist() for step in range(steps) for b in mixture.batches(step)]
    return [(source, number) for part in found for source, number in part]


MIXTURES = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any), st.integers(1, 7), st.integers(0, 3)
)


@given(mixture=MIXTURES, periods=st.integers(1, 4))
@settings(deadline=None)
def test_a_period_has_exactly_the_weights_and_no_row_is_left_out(
    mixture: tuple[list[int], int, int], periods: int
) -> None:
    weights, batch, seed = mixture
    steps = math.lcm(sum(weights), batch) // batch * periods
    rows = rows_of(numbered(weights, batch, seed=seed), steps)
    whole = len(rows) // sum(weights)
    counted = Counter(source for source, _ in rows)
    assert [counted[i] for i in range(len(weights))] == [whole * weight for weight in weights]
    assert sorted(rows) == [(i, n) for i, w in enumerate(weights) for n in range(whole * w)]


@given(mixture=MIXTURES, steps=st.integers(0, 30))
@settings(deadline=None)
def test_at_every_step_the_shares_are_right_to_within_a_period(
    mixture: tuple[list[int], int, int], steps: int
) -> None:
    weights, batch, seed = mixture
    mixed = numbered(weights, batch, seed=seed)
    counted = Counter(source for source, _ in rows_of(mixed, steps))
    assert mixed.given(steps) == [counted[i] for i in range(len(weights))]
    for source, weight in enumerate(weights):
        exact = Fraction(weight * steps * batch, sum(weights))
        assert abs(counted[source] - exact) <= weight


@given(mixture=MIXTURES, micro=st.integers(1, 8), step=st.integers(0, 50))
@settings(deadline=None)
def test_a_step_is_the_same_whenever_it_is_asked_for_and_micro_batches_only_cut_it(
    mixture: tuple[list[int], int, int], micro: int, step: int
) -> None:
    weights, batch, seed = mixture
    [whole] = numbered(weights, batch, batch, seed).batches(step)
    used = numbered(weights, batch, micro, seed)
    for other in (3, 0):
        used.batches(other)
    cut = used.batches(step)
    for name in ("ids", "targets"):
        assert torch.equal(whole[name], torch.cat([b[name] for b in cut]))
    assert [b.share for b in cut] == pytest.approx([len(b["ids"]) / batch for b in cut])
    assert sum(b.share for b in cut) == pytest.approx(1)
    assert max(len(b["ids"]) for b in cut) <= micro and {b.kind for b in cut} == {"tokens"}
    assert used.state() == {}, "the seed and the step say it all"


def test_another_seed_is_another_order() -> None:
    assert rows_of(numbered([3, 2], 5, seed=1), 6) != rows_of(numbered([3, 2], 5, seed=2), 6)
    firsts = {tuple(source for source, _ in rows_of(numbered([3, 2], 5), n)[-5:]) for n in range(1, 9)}
    assert len(firsts) > 2, "the order within a period changes from one to the next"


def test_where_a_period_fits_a_step_every_step_has_the_same_shares() -> None:
    mixed = numbered([3, 1], 8)
    for step in range(20):
        assert Counter(mixed.batches(step)[0]["ids"][:, 0].tolist()) == {0: 6, 1: 2}


@given(
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 9)),
    length=st.integers(1, 8),
    weights=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(deadline=None)
def test_small_corpora_come_round_each_in_its_own_time(
    sizes: tuple[int, int], length: int, weights: tuple[int, int]
) -> None:
    """After any whole number of rounds, each token was read as often as its corpus was, to within once."""
    corpora = [np.arange(n, dtype=np.uint16) + 100 * i for i, n in enumerate(sizes)]
    windows = [Windows(tokens, length, 1, 1, 0) for tokens in corpora]
    batch = sum(weights)
    mixed = Mixture(windows, weights, batch, batch, 0)
    steps = math.lcm(*(source.per_epoch for source in windows))
    read = Counter(i for step in range(steps) for i in mixed.batches(step)[0]["ids"].flatten().tolist())
    for source, (tokens, window) in enumerate(zip(corpora, windows, strict=True)):
        epochs = steps * weights[source] // window.per_epoch
        counts = [read[int(token)] for token in tokens]
        assert min(counts) >= epochs
        assert sum(counts) == steps * weights[source] * length


def test_one_source_alone_is_itself() -> None:
    tokens = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint16)
    alone = Windows(tokens, 16, 6, 4, seed=3)
    mixed = Mixture([Windows(tokens, 16, 1, 1, seed=3)], [1], 6, 4, seed=3)
    for step in (0, 7, 31):
        for ours, theirs in zip(mixed.batches(step), alone.batches(step), strict=True):
            assert torch.equal(ours["ids"], theirs["ids"]) and torch.equal(ours["targets"], theirs["targets"])
            assert (ours.share, ours.kind) == (theirs.share, theirs.kind)


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ((0.8, 0.2), (4, 1)),
        ((1 - 0.15, 0.15), (17, 3)),
        ((1.0, 0.0), (1, 0)),
        ((0.5, 0.3, 0.2), (5, 3, 2)),
        ((1 / 3, 2 / 3), (1, 2)),
        ((1.0,), (1,)),
        ((1 - 0.001, 0.001), (999, 1)),
    ],
)
def test_shares_as_whole_numbers(shares: tuple[float, ...], weights: tuple[int, ...]) -> None:
    assert whole_weights(shares) == weights


@given(share=st.floats(0.001, 0.999))
def test_any_share_is_met_as_nearly_as_a_thousand_parts_can(share: float) -> None:
    rest, own = whole_weights([1 - share, share])
    assert own / (own + rest) == pytest.approx(share, abs=0.0005 + 1e-6)


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.2, -0.2), (), (1 - 1e-5, 1e-5)])
def test_shares_that_cannot_be_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        whole_weights(shares)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_weights_that_cannot_be_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Mixture([Numbered(0), Numbered(1)], weights, 2, 2, 0)
