"""The scaling law L(N, D) = E + A / N^α + B / D^β: fitted to measured losses, and what follows from it.

Hoffmann et al. 2022 (arXiv:2203.15556, section 3.3 and appendix D.3): the Huber loss between the logarithms
of the predicted and the measured loss, from a grid of starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sishu.console import UserError
from sishu.scaling.descent import descend

Numbers = npt.NDArray[np.float64]

FEWEST, KINDS = 6, 3
"""Losses, and different sizes and token counts among them, below which five numbers cannot be told apart."""
RESAMPLES, ENDS = 200, (2.5, 97.5)
"""Fits to redrawn losses, and the percentiles of their predictions that bound an interval."""


class Measured(NamedTuple):
    """One trained model."""

    weights: float
    """N, those of the embedding left out or not, but of all alike."""
    tokens: float
    """D, those that were read again counted again."""
    loss: float
    """On held-out text, in any unit: nats a token, bits a byte."""


@dataclass(frozen=True)
class Law:
    """The five numbers."""

    E: float
    """What no size and no amount of text takes away, in the loss's unit."""
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, weights: float, tokens: float) -> float:
        """The loss of a model of N weights after D tokens."""
        return float(self.E + self.A / weights**self.alpha + self.B / tokens**self.beta)

    def growth(self) -> tuple[float, float]:
        """(a, b) of N ∝ C^a and D ∝ C^b where C = 6·N·D operations are spent best."""
        return self.beta / (self.alpha + self.beta), self.alpha / (self.alpha + self.beta)


def fit(measured: Sequence[Measured]) -> Law:
    """The law nearest to the losses. Raises UserError where they do not determine one."""
    _check(measured)
    points = _Points.of(measured)
    found, objectives = descend(points.x, points.y, points.log_loss, _starts(points.log_loss))
    best = found[int(np.argmin(objectives))]
    law = points.law(best)
    _check_law(law, measured)
    return law


def interval(law: Law, measured: Sequence[Measured], weights: float, tokens: float) -> tuple[float, float]:
    """Between which losses 95 % of trainings at (N, D) would lie if the law holds: it is fitted again to
    losses whose distances from it are drawn anew from those there are, and what it then predicts gets one,
    too (a residual bootstrap; Efron & Tibshirani 1993, chapter 9). The distances are widened by
    √(P / (P - 5)), because five numbers were bent to fit P of them."""
    points = _Points.of(measured)
    count = len(measured)
    fitted = np.log([law.loss(m.weights, m.tokens) for m in measured])
    distances = (points.log_loss - fitted) * np.sqrt(count / (count - 5))
    rng = np.random.default_rng(0)
    redrawn = fitted + distances[rng.integers(0, count, (RESAMPLES, count))]
    near = points.numbers(law)
    starts = np.concatenate([near[None], _starts(points.log_loss)[::48]])
    every = np.tile(starts, (RESAMPLES, 1))
    found, objectives = descend(points.x, points.y, np.repeat(redrawn, len(starts), axis=0), every)
    best = objectives.reshape(RESAMPLES, -1).argmin(1) + np.arange(RESAMPLES) * len(starts)
    logs = np.log([points.law(found[i]).loss(weights, tokens) for i in best])
    logs += distances[rng.integers(0, count, RESAMPLES)]
    low, high = np.percentile(np.exp(logs), ENDS)
    return float(low), float(high)


class Choice(NamedTuple):
    """One way to spend a number of operations."""

    size: int
    """Which of the sizes."""
    weights: float
    tokens: float
    loss: float


def best_choice(law: Law, sizes: Sequence[tuple[float, float]], flops: float) -> Choice:
    """The one of some sizes, each (N, operations of training for one token), of which the law promises the
    lowest loss for `flops` operations."""
    choices = (
        Choice(place, weights, flops / each, law.loss(weights, flops / each))
        for place, (weights, each) in enumerate(sizes)
    )
    return min(choices, key=lambda choice: choice.loss)


class _Points(NamedTuple):
    """The losses as the descent wants them: the logarithms of N and D from their means, so that the five
    numbers hardly depend on each other."""

    x: Numbers
    y: Numbers
    log_loss: Numbers
    centre: tuple[float, float]

    @staticmethod
    def of(measured: Sequence[Measured]) -> _Points:
        x, y, log_loss = np.log(np.array(measured, dtype=np.float64)).T
        return _Points(x - x.mean(), y - y.mean(), log_loss, (float(x.mean()), float(y.mean())))

    def law(self, numbers: Numbers) -> Law:
        a, alpha, b, beta, e = map(float, numbers)
        with np.errstate(over="ignore"):
            size, data, rest = np.exp([a + alpha * self.centre[0], b + beta * self.centre[1], e])
        return Law(E=float(rest), A=float(size), alpha=alpha, B=float(data), beta=beta)

    def numbers(self, law: Law) -> Numbers:
        a = np.log(law.A) - law.alpha * self.centre[0]
        b = np.log(law.B) - law.beta * self.centre[1]
        return np.array([a, law.alpha, b, law.beta, np.log(max(law.E, 1e-300))])


def _starts(log_loss: Numbers) -> Numbers:
    """Where the descent begins: how the middle loss may be shared among the three terms, and exponents."""
    middle = float(np.median(log_loss))
    rows = []
    for kept, size, alpha, beta in product((0.1, 0.5, 0.9), (0.1, 0.5, 0.9), *[(0.1, 0.3, 0.6, 1.0)] * 2):
        shares = np.log([(1 - kept) * size, (1 - kept) * (1 - size), kept]) + middle
        rows.append([shares[0], alpha, shares[1], beta, shares[2]])
    return np.array(rows)


def _check(measured: Sequence[Measured]) -> None:
    if not all(0 < m.loss < np.inf for m in measured):
        raise UserError("A loss of the ladder is no positive number, so that no law fits: look at its rung.")
    for what, kinds in (("sizes", {m.weights for m in measured}), ("tokens", {m.tokens for m in measured})):
        if len(kinds) < KINDS:
            raise UserError(
                f"A law of three terms cannot be fitted to {len(kinds)} different {what}: give at least "
                f"{KINDS}, with widths=[…] and tokens=[…]."
            )
    if len(measured) < FEWEST:
        raise UserError(
            f"A law of five numbers cannot be fitted to {len(measured)} losses: at least {FEWEST} are needed."
        )


def _check_law(law: Law, measured: Sequence[Measured]) -> None:
    """Raises UserError for a law that says nothing of larger models."""
    distances = [abs(np.log(m.loss / law.loss(m.weights, m.tokens))) for m in measured]
    scatter = float(np.median(distances))
    weights, tokens = ([getattr(m, name) for m in measured] for name in ("weights", "tokens"))
    for what, more, exponent, factor, values in (
        ("size", "widths further apart, or more tokens", law.alpha, law.A, weights),
        ("tokens", "numbers of tokens further apart", law.beta, law.B, tokens),
    ):
        ends = [factor / v**exponent for v in (min(values), max(values))]
        gain = (ends[0] - ends[1]) / float(np.median([m.loss for m in measured]))
        if not np.isfinite(exponent) or not gain > scatter:
            raise UserError(
                f"The losses do not fall with {what} by more than they scatter ({gain:.2%} against "
                f"{scatter:.2%}), so that they predict nothing: give the ladder {more}."
            )
