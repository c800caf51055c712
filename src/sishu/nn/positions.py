"""Positions that are added: sinusoids to the stream, ALiBi's distances to the scores of attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(positions_BT: Tensor, width: int, theta: float = 10_000.0) -> Tensor:
    """Sines in even places and cosines in odd ones, (B, T, D) in float32 (Vaswani et al. 2017,
    arXiv:1706.03762, §3.5)."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=positions_BT.device) / width
    angles = positions_BT[..., None].to(torch.float32) * theta**-exponents
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width]


def alibi_slopes(heads: int) -> Tensor:
    """How much a score loses for each position of distance, (H,): powers of 2^(-8/H), and where H is no
    power of two every second one of twice the next smaller power besides (Press et al. 2022,
    arXiv:2108.12409)."""

    def powers(count: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / count) for i in range(count)]

    whole = 2 ** math.floor(math.log2(heads))
    return torch.tensor(powers(whole) + powers(2 * whole)[0 : 2 * (heads - whole) : 2], device="cpu")
