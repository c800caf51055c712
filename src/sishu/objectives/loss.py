"""What every objective returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sishu.batches.batch import Batch


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, the mean over what the micro-batch counts, and figures to write down."""

    total: Tensor
    figures: Mapping[str, Tensor]


@runtime_checkable
class Together(Protocol):
    """An objective whose loss compares what lies in different micro-batches of a step."""

    def together(self, model: Any, batches: Sequence[Batch]) -> list[Batch]:
        """The micro-batches with what each must know of the others; asked before every update."""
