"""What every objective returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, the mean over what the micro-batch counts, and figures to write down."""

    total: Tensor
    figures: Mapping[str, Tensor]
