"""The law is found again in losses that follow one, and what cannot be fitted is told."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.scaling.descent import DELTA, descend, huber, predicted
from sishu.scaling.law import Law, Measured, best_choice, fit, interval

HOFFMANN = Law(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
"""Hoffmann et al. 2022, arXiv:2203.15556, equation 10."""
BESIROGLU = Law(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
"""The same losses fitted again: Besiroglu et al. 2024, arXiv:2404.10102."""
SIZES, TOKENS = np.geomspace(7e7, 1.6e10, 6).tolist(), np.geomspace(5e9, 5e11, 4).tolist()
"""Where Hoffmann et al. trained."""
FLOPS = 5.76e23
"""Of Gopher and Chinchilla."""


def losses(law: Law, sizes: list[float], tokens: list[float], noise: float, seed: int) -> list[Measured]:
    rng = np.random.default_rng(seed)
    return [
        Measured(n, d, law.loss(n, d) * math.exp(noise * rng.standard_normal()))
        for n, d in product(sizes, tokens)
    ]


@given(
    rest=st.floats(0.2, 3),
    size=st.floats(0.2, 2),
    alpha=st.floats(0.2, 0.8),
    data=st.floats(0.2, 2),
    beta=st.floats(0.2, 0.8),
)
@settings(deadline=None, max_examples=15)
def test_a_law_is_found_in_its_own_losses(
    rest: float, size: float, alpha: float, data: float, beta: float
) -> None:
    """`size` and `data`: what the smallest model and the fewest tokens cost."""
    law = Law(E=rest, A=size * 2e5**alpha, alpha=alpha, B=data * 4e5**beta, beta=beta)
    found = fit(losses(law, np.geomspace(2e5, 2e6, 5).tolist(), [4e5, 8e5, 1.6e6], 0, 0))
    assert (found.E, found.alpha, found.beta) == pytest.approx((law.E, law.alpha, law.beta), rel=1e-3)
    assert found.loss(8e6, 1.6e6) == pytest.approx(law.loss(8e6, 1.6e6), rel=1e-5)


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU])
def test_published_laws_are_found_in_noisy_losses(law: Law) -> None:
    found = fit(losses(law, SIZES, TOKENS, 0.001, 1))
    assert (found.alpha, found.beta) == pytest.approx((law.alpha, law.beta), rel=0.05)
    assert pytest.approx(law.E, rel=0.02) == found.E
    assert found.loss(7e10, 1.4e12) == pytest.approx(law.loss(7e10, 1.4e12), rel=0.005)


def test_one_wild_loss_does_not_bend_the_law() -> None:
    """What the Huber loss is for."""
    measured = losses(HOFFMANN, SIZES, TOKENS, 0.0005, 2)
    measured[5] = measured[5]._replace(loss=measured[5].loss * 1.2)
    assert fit(measured).loss(7e10, 1.4e12) == pytest.approx(HOFFMANN.loss(7e10, 1.4e12), rel=0.005)


def test_operations_are_spent_as_published() -> None:
    """Against the closed form for C = 6·N·D, and against Chinchilla's 70 billion weights and 1.4 trillion
    tokens, near which the corrected fit has its optimum."""
    sizes = [(n, 6 * n) for n in np.geomspace(1e9, 1e12, 3000).tolist()]
    for law in (HOFFMANN, BESIROGLU):
        best = best_choice(law, sizes, FLOPS)
        a, b = law.growth()
        closed = (law.alpha * law.A / law.beta / law.B) ** (1 / (law.alpha + law.beta)) * (FLOPS / 6) ** a
        assert best.weights == pytest.approx(closed, rel=0.01)
        assert best.weights * best.tokens * 6 == pytest.approx(FLOPS)
        assert a + b == pytest.approx(1) and sizes[best.size][0] == best.weights
        assert best.loss == law.loss(best.weights, best.tokens)
    assert best.weights == pytest.approx(7e10, rel=0.1) and best.tokens == pytest.approx(1.4e12, rel=0.1)


def test_intervals_hold_what_they_promise() -> None:
    """Of 12 ladders, all drawn by fixed seeds, 95 % should hold the loss of one more training; with so few
    points and the Huber loss somewhat fewer do."""
    held = 0
    for seed in range(12):
        measured = losses(HOFFMANN, SIZES[:5], TOKENS[:3], 0.003, seed)
        one = losses(HOFFMANN, [4 * SIZES[4]], [TOKENS[2]], 0.003, 1000 + seed)[0]
        low, high = interval(fit(measured), measured, one.weights, one.tokens)
        assert low < high < 1.3 * low
        held += low <= one.loss <= high
    assert held >= 10


def test_the_descent_ends_below_scipy() -> None:
    """The same objective by L-BFGS-B from a grid of starts as Hoffmann et al. take one."""
    optimize = pytest.importorskip("scipy.optimize", reason="needs scipy, which a peer of the tests brings")
    measured = losses(BESIROGLU, SIZES, TOKENS, 0.005, 3)
    n, d, loss = np.log(np.array(measured)).T

    def objective(numbers: np.ndarray) -> float:
        return float(huber(predicted(numbers[None], n, d)[0] - loss)[0])

    starts = product((0.0, 10.0), (0.0, 0.5, 1.0), (0.0, 10.0), (0.0, 0.5, 1.0), (0.5,))
    theirs = min(
        (optimize.minimize(objective, start, method="L-BFGS-B", tol=1e-15) for start in starts),
        key=lambda one: float(one.fun),
    )
    ours = fit(measured)
    found = np.array([math.log(ours.A), ours.alpha, math.log(ours.B), ours.beta, math.log(ours.E)])
    assert objective(found) <= theirs.fun * 1.0001
    a, alpha, b, beta, e = theirs.x
    other = Law(E=math.exp(e), A=math.exp(a), alpha=alpha, B=math.exp(b), beta=beta)
    assert ours.loss(7e10, 1.4e12) == pytest.approx(other.loss(7e10, 1.4e12), rel=0.01)


def test_loss_and_terms_are_torchs() -> None:
    distances = np.linspace(-0.01, 0.01, 21)[None]
    whole = torch.nn.functional.huber_loss(
        torch.from_numpy(distances), torch.zeros(1, 21, dtype=torch.float64), reduction="sum", delta=DELTA
    )
    assert huber(distances)[0] == pytest.approx(float(whole))
    numbers, x, y = np.array([[0.3, 0.5, -0.2, 0.4, -900.0]]), np.array([-1.0, 2.0]), np.array([0.5, -3.0])
    logs, shares = predicted(numbers, x, y)
    terms = torch.tensor([[0.3 - 0.5 * u, -0.2 - 0.4 * v, -900.0] for u, v in zip(x, y, strict=True)])
    assert logs[0] == pytest.approx(terms.logsumexp(-1).tolist(), rel=1e-6)
    assert shares[0] == pytest.approx(terms.softmax(-1).numpy(), rel=1e-5)


def test_fits_at_once_are_fits_one_by_one() -> None:
    n, d, loss = np.log(np.array(losses(HOFFMANN, SIZES[:4], TOKENS[:3], 0.002, 4))).T
    x, y = n - n.mean(), d - d.mean()
    other = loss + np.random.default_rng(5).normal(0, 0.002, len(loss))
    starts = np.array([[0.0, 0.3, 0.0, 0.3, 0.5], [-1.0, 0.5, -0.5, 0.2, 0.0]])
    both, objectives = descend(x, y, np.stack([loss, other]), starts)
    for row, target in enumerate((loss, other)):
        alone, objective = descend(x, y, target, starts[row : row + 1])
        assert both[row] == pytest.approx(alone[0], rel=1e-4)
        assert objectives[row] == pytest.approx(objective[0], rel=1e-6)


GRID = losses(HOFFMANN, SIZES[:3], TOKENS[:3], 0, 0)


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (GRID[:6], "cannot be fitted to 2 different sizes: give at least 3"),
        ([m for m in GRID if m.tokens != TOKENS[0]], "cannot be fitted to 2 different tokens"),
        ([GRID[0], GRID[4], GRID[8]], "cannot be fitted to 3 losses: at least 6 are needed"),
        ([*GRID[1:], GRID[0]._replace(loss=math.nan)], "is no positive number"),
        ([m._replace(loss=1 + 1e9 / m.tokens) for m in GRID], "do not fall with size by more than"),
        ([m._replace(loss=1 + 1e7 / m.weights) for m in GRID], "do not fall with tokens by more than"),
        ([m._replace(loss=2.0) for m in GRID], "do not fall with size"),
        ([m._replace(loss=1 + 1e9 / m.tokens + m.weights / 1e10) for m in GRID], "do not fall with size"),
    ],
)
def test_what_determines_no_law_is_told(measured: list[Measured], told: str) -> None:
    with pytest.raises(UserError, match=told):
        fit(measured)
