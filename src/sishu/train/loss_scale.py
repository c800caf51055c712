"""Loss scaling, without which small gradients are nothing in float16 (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1.0


@dataclass
class LossScale:
    """The power of two that a loss is multiplied by before its gradient is worked out; plain numbers, so that
    a checkpoint can hold them. Halved where a gradient overflows, doubled after so many updates without, as
    `torch.amp.GradScaler` does it."""

    scale: float = 2.0**16
    good: int = 0
    """Updates since the scale changed."""
    patience: int = 2000
    """Updates without an overflow after which the scale doubles."""

    @torch.no_grad()
    def undo(self, weights: Iterable[Tensor]) -> None:
        """Divide the gradients by the scale, which changes no other bit of them."""
        for weight in weights:
            if weight.grad is not None:
                weight.grad.mul_(1 / self.scale)

    def updated(self) -> None:
        """An update was made."""
        self.good += 1
        if self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0

    def overflowed(self) -> bool:
        """A gradient is not a number; whether the scale can be at fault, and so was made smaller."""
        if self.scale <= SMALLEST:
            return False
        self.scale, self.good = max(SMALLEST, self.scale / 2), 0
        return True
