"""What an objective is given, and who gives it to the trainer."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

IGNORED = -100
"""The target of a position that no loss counts."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `share` is its weight in the step's loss: the shares of a step's micro-batches of
    one kind sum to 1 (or to the coefficient of that kind), each in proportion to what it counts."""

    tensors: Mapping[str, Tensor]
    share: float
    kind: str = ""
    tokens: int | None = None
    """Tokens among `ids` that are no padding; all where it is not given."""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved = {k: v.to(device) for k, v in self.tensors.items()}
        return Batch(moved, self.share, self.kind, self.tokens)


class Source(Protocol):
    """Where a trainer's batches come from."""

    @property
    def passes(self) -> int:
        """How many optimizer updates are made on each step's batches (PPO's inner epochs; else 1)."""

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of one step, the same whenever it is asked for in the same state."""

    def after(self, step: int, figures: dict[str, float]) -> None:
        """Called when the step is done, with its figures, which it may add to."""

    def done(self) -> bool:
        """Whether to end here, before the last step, there being nothing more to gain."""

    def state(self) -> dict[str, Any]:
        """What must be kept to go on after a kill, as plain JSON; {} when the step says it all."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


class Stateless:
    """A source whose batches depend on the seed and the step alone."""

    passes = 1

    def after(self, step: int, figures: dict[str, float]) -> None:
        pass

    def done(self) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def shuffled(count: int, *seed: int | str) -> list[int]:
    """A permutation of range(count) fixed by the seed parts, the same on every platform."""
    order = list(range(count))
    random.Random("/".join(map(str, seed))).shuffle(order)
    return order


def draw(count: int, size: int, step: int, *seed: int | str) -> list[int]:
    """The `size` indices of step `step`, going through a fresh permutation of range(count) every epoch."""
    places = (divmod(position, count) for position in range(step * size, (step + 1) * size))
    return [_order(count, *seed, epoch)[place] for epoch, place in places]


@lru_cache(maxsize=8)
def _order(count: int, *seed: int | str) -> array[int]:
    """What `shuffled` gives, kept: a run asks for the same one at every step of an epoch."""
    order = array("I" if count <= 2**32 else "Q", range(count))
    random.Random("/".join(map(str, seed))).shuffle(order)
    return order


def pad_right(rows: list[list[int]], value: int) -> Tensor:
    """Rows of ids as one tensor (B, T), the longest row deciding T."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
