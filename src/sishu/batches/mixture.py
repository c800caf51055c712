"""Rows of several sources in given proportions, exact and not by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

import torch

from sishu.batches.batch import Batch, Source, Stateless, draw

FINEST = 1000
"""Shares are taken as fractions with at most this denominator, which keeps a period short."""


def whole_weights(shares: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportions of `shares`, taken as the nearest fractions with at most
    `FINEST` parts, the last as what is left: (0.8, 0.2) -> (4, 1). Raises ValueError for shares below 0, that
    do not add up to 1, or so small that they come to nothing."""
    if min(shares, default=-1) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        raise ValueError(f"shares must be 0 or more and add up to 1, not {list(shares)}")
    parts = [Fraction(share).limit_denominator(FINEST) for share in shares[:-1]]
    parts.append(1 - sum(parts, Fraction()))
    if any((part > 0) != (share > 0) or part < 0 for part, share in zip(parts, shares, strict=True)):
        raise ValueError(f"each of the shares {list(shares)} must be 0 or at least 1/{FINEST}")
    period = math.lcm(*(part.denominator for part in parts))
    return tuple(int(part * period) for part in parts)


class Mixture(Stateless):
    """Rows of several sources, one after another in an order shuffled anew every period.

    A period has as many rows as the weights have together, and of each source exactly as many as its weight:
    so at every moment each has given its share to within less than its weight. Each source goes through its
    own rows without leaving one out, and comes round in its own time: a small corpus is seen again while
    a large one is not yet at its end. Everything is a function of the seed and the step.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[int], batch: int, micro_batch: int, seed: int
    ) -> None:
        """`sources` have batches of one row, (1, T), all of the same length, whose number is the step. Raises
        ValueError where weights are not as many, not whole, or all 0."""
        if len(weights) != len(sources) or min(weights, default=0) < 0 or not sum(weights):
            raise ValueError(f"{len(sources)} sources need as many weights, not all 0, instead of {weights}")
        self.sources, self.weights = sources, tuple(weights)
        self.batch, self.micro_batch, self.seed = batch, min(micro_batch, batch), seed
        self.period = sum(weights)
        self._starts = [0, *accumulate(weights)]

    def row(self, position: int) -> tuple[int, int]:
        """Which source the row at this position of the training is from, and which of its rows it is."""
        [place] = draw(self.period, 1, position, "mixture", self.seed)
        source = next(i for i, end in enumerate(self._starts[1:]) if place < end)
        rounds = position // self.period
        return source, rounds * self.weights[source] + place - self._starts[source]

    def given(self, steps: int) -> list[int]:
        """How many rows of each source are in the first `steps` steps."""
        rounds, rest = divmod(steps * self.batch, self.period)
        counts = [rounds * weight for weight in self.weights]
        for position in range(steps * self.batch - rest, steps * self.batch):
            counts[self.row(position)[0]] += 1
        return counts

    def batches(self, step: int) -> list[Batch]:
        """Batches with the tensors of the sources, row by row: each (B, …)."""
        rows = [self.row(position) for position in range(step * self.batch, (step + 1) * self.batch)]
        found = [batch for source, number in rows for batch in self.sources[source].batches(number)]
        tensors = {name: torch.cat([one[name] for one in found]) for name in found[0].tensors}
        parts = {name: torch.split(tensor, self.micro_batch) for name, tensor in tensors.items()}
        sizes = [min(self.micro_batch, self.batch - at) for at in range(0, self.batch, self.micro_batch)]
        return [
            Batch({name: part[i] for name, part in parts.items()}, size / self.batch, kind=found[0].kind)
            for i, size in enumerate(sizes)
        ]
