"""What goes wrong in a step: a loss or gradient that is not a number, a loss that jumps. When to give up."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import NoReturn

from sishu.console import UserError, counted

SEEN, ENOUGH = 64, 16
"""Step losses that are remembered, and how many it takes to say what is usual."""
DEVIATIONS, SHARE = 6.0, 0.2
"""A loss jumps when it is above the median by so many deviations and by this share of the median."""
MOST_ROLLBACKS = 5
"""After so many jumps training stops at the next."""


class Spike(Exception):
    """The loss of a step is far above what was usual; no update was made."""

    def __init__(self, loss: float, usual: float) -> None:
        super().__init__(f"the loss is {loss:.4g} and was {usual:.4g}")
        self.loss, self.usual = loss, usual


@dataclass
class Health:
    """What is remembered of the steps so far; plain numbers, so that a checkpoint can hold them."""

    recent: list[float] = field(default_factory=list)
    """Losses of the last updates that were made, at most `SEEN`."""
    norm: float | None = None
    """The gradient's norm, before clipping, at the last update that was made."""
    skipped: int = 0
    """Updates left out in a row."""

    def good(self, loss: float, norm: float) -> None:
        """An update was made."""
        self.recent = [*self.recent[1 - SEEN :], loss]
        self.norm, self.skipped = norm, 0

    def check(self, loss: float) -> None:
        """Raises Spike for a loss above median + 6 × 1.4826 × median absolute deviation of the last ones and
        above 1.2 × median, once there are 16."""
        if len(self.recent) < ENOUGH:
            return
        median = statistics.median(self.recent)
        deviation = 1.4826 * statistics.median(abs(x - median) for x in self.recent)
        if loss > median + DEVIATIONS * deviation and loss > median + SHARE * abs(median):
            raise Spike(loss, median)

    def diverged(self, stage: str, step: int, data_step: int, what: str) -> NoReturn:
        """Raises UserError: no update could be made for too long."""
        raise UserError(
            f"The {stage} stage diverged: {what} at step {step} is not a number, for "
            f"{counted(self.skipped, 'update')} in a row, {self._before()}; lower the learning rate, set "
            f"train.precision=fp32, or look at the data of the steps up to {data_step}."
        )

    def spiked(self, stage: str, step: int, data_step: int, spike: Spike) -> NoReturn:
        """Raises UserError: the loss jumps whatever data it is given."""
        raise UserError(
            f"The {stage} stage diverged: at step {step} {spike}, after {MOST_ROLLBACKS} times back to a "
            f"checkpoint, {self._before()}; lower the learning rate, set train.precision=fp32, or look at "
            f"the data of the steps up to {data_step}."
        )

    def _before(self) -> str:
        if not self.recent or self.norm is None:
            return "and no loss before it was one"
        return f"the last good loss being {self.recent[-1]:.4g} with a gradient norm of {self.norm:.4g}"
