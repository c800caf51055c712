"""Random numbers of a place: uniform, independent of batch and neighbours, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sishu.generate.draws import LANES, Draws, seed_of, uniform


def chance(counts: np.ndarray, expected: float) -> float:
    """How often a sample at least this uneven would turn up (chi-square test)."""
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = torch.tensor((counts.size - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(chi_square / 2, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("seeds", "steps", "lane"),
    [
        (range(40_000), [0] * 40_000, 0),
        ([7] * 40_000, range(40_000), 0),
        ([-3] * 40_000, range(40_000), 2),
        ([s << 40 for s in range(40_000)], [5] * 40_000, 1),
    ],
)
def test_numbers_are_uniform_over_seeds_and_over_steps(seeds: range, steps: range, lane: int) -> None:
    drawn = uniform(list(seeds), list(steps), lane)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert 1e-4 < chance(np.histogram(drawn, 100, (0, 1))[0], 400) < 1 - 1e-4
    # … and so are pairs of neighbours
    pairs = np.histogram2d(drawn[:-1], drawn[1:], 20, ((0, 1), (0, 1)))[0]
    assert 1e-4 < chance(pairs, (len(drawn) - 1) / 400) < 1 - 1e-4
    halves = (uniform(list(seeds), list(steps), (lane + 1) % LANES) > 0.5) == (drawn > 0.5)
    assert abs(halves.mean() - 0.5) < 0.015


def test_seeds_next_to_each_other_are_not_one_stream_shifted() -> None:
    one, two = (set(uniform([seed] * 1000, range(1000)).tolist()) for seed in (1, 2))
    assert not one & two and len(one) == 1000


def test_a_seed_means_the_same_in_later_versions() -> None:
    """Written down once: whoever has noted a seed gets the same answer again."""
    assert uniform([0, 1, 2**64 - 1], [0, 1, 12345]).tolist() == FIRST


FIRST = [0.6524484863740321, 0.2191151301314187, 0.022353208544517944]


@given(st.integers(), st.integers(0, 2**40), st.integers(0, LANES - 1))
def test_a_number_depends_on_its_own_seed_and_step_alone(seed: int, step: int, lane: int) -> None:
    alone = uniform([seed], [step], lane)[0]
    assert uniform([1, seed, -9], [0, step, 77], lane)[1] == alone == Draws(seed).at(step, lane)
    assert uniform([seed + 2**64], [step], lane)[0] == alone


def test_answers_to_one_request_have_different_seeds() -> None:
    assert seed_of(5) == 5 and seed_of(-1) == 2**64 - 1
    several = {seed_of(seed, choice) for seed in range(50) for choice in range(50)}
    assert len(several) == 2500
    assert seed_of(5, 3) == seed_of(5, 3) and seed_of(None) != seed_of(None)


def test_a_lane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="lane 4"):
        uniform([1], [1], 4)
