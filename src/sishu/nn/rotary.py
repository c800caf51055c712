"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split form of Llama and Qwen, and
the ways to stretch it over a longer context."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["linear", "ntk", "dynamic", "yarn", "llama3"]

LARGEST_FACTOR = 2**20


@dataclass(frozen=True)
class RopeScaling:
    """How rotary angles are changed so that a model trained on `original_context` positions reads `factor`
    times as many.

    - `linear`: position interpolation, every angle divided by the factor (Chen et al. 2023,
      arXiv:2306.15595).
    - `ntk`: a larger base, so that slow angles are interpolated and fast ones kept (bloc97 2023).
    - `dynamic`: `ntk` for as much as a text is longer than the original context; keys that a cache holds
      keep the angles of when they were written.
    - `yarn`: angles that turn often within the original context are kept, slow ones interpolated, those
      between in between; queries and keys grow with the logarithm of the factor (Peng et al. 2023,
      arXiv:2309.00071).
    - `llama3`: as `yarn` but by wavelength and without growth (Llama 3.1, arXiv:2407.21783).
    """

    kind: Kind
    factor: float
    original_context: int
    fast: float = 32.0
    """yarn: turns within the original context from which an angle is kept."""
    slow: float = 1.0
    """yarn: turns up to which an angle is wholly interpolated."""
    attention_factor: float | None = None
    """yarn: what sines and cosines are multiplied by; None: 0.1 ln(factor) + 1."""
    truncate: bool = True
    """yarn: round the two borders outwards to whole dimensions."""
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    """llama3: the borders, as turns within the original context."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= LARGEST_FACTOR or self.original_context <= 0:
            raise ValueError(
                f"rope scaling needs a factor from 1 to {LARGEST_FACTOR} ({self.factor}) and a positive "
                f"original context ({self.original_context})"
            )
        borders = (self.slow, self.fast), (self.low_frequency_factor, self.high_frequency_factor)
        if not all(0 < low < high < math.inf for low, high in borders):
            raise ValueError(f"rope scaling needs two positive borders, the lower one first: {borders}")
        if self.attention_factor is not None and not 0 < self.attention_factor < math.inf:
            raise ValueError(f"rope scaling needs a positive attention factor, not {self.attention_factor}")

    def grown(self) -> float:
        """What sines and cosines are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0


def rotary_frequencies(
    head_width: int, theta: float, scaling: RopeScaling | None = None, length: int = 0
) -> Tensor:
    """Radians a position, (K/2,) in float32; `length`, a text's positions, matters to `dynamic` alone."""
    exponents = -torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width
    plain = theta**exponents
    if scaling is None:
        return plain
    factor, context = scaling.factor, scaling.original_context
    if scaling.kind in ("ntk", "dynamic"):
        stretch = factor if scaling.kind == "ntk" else factor * max(length, context) / context - (factor - 1)
        return ntk_base(theta, stretch, head_width) ** exponents
    if scaling.kind == "linear":
        return plain / factor
    if scaling.kind == "llama3":
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        turns = context * plain / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
    else:
        kept = 1 - _ramp(head_width, theta, scaling)
    return (1 - kept) * plain / factor + kept * plain


def ntk_base(theta: float, factor: float, head_width: int) -> float:
    """The base at which the slowest angle is interpolated by the whole factor and the fastest not at all."""
    return float(theta * factor ** (head_width / (head_width - 2)))


def _ramp(head_width: int, theta: float, scaling: RopeScaling) -> Tensor:
    """0 for angles that are kept, 1 for those interpolated, (K/2,)."""

    def dimension(turns: float) -> float:
        turned = math.log(scaling.original_context / (turns * 2 * math.pi))
        return head_width * turned / (2 * math.log(theta))

    low, high = dimension(scaling.fast), dimension(scaling.slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_width - 1)
    if low == high:
        high += 0.001  # a step, not a division by zero
    places = torch.arange(head_width // 2, dtype=torch.float32, device="cpu")
    return ((places - low) / (high - low)).clamp(0, 1)


def rotary_angles(positions_BT: Tensor, frequencies: Tensor, grown: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of these positions, two float32 tensors (B, T, K/2)."""
    angles = positions_BT[..., None].to(torch.float32) * frequencies
    cos, sin = angles.cos(), angles.sin()
    return (cos, sin) if grown == 1.0 else (cos * grown, sin * grown)


def rotate(x_BHTK: Tensor, cos_BTk: Tensor, sin_BTk: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + K/2]) by its position's angle; shapes (B, H, T, K) and (B or 1, T, K/2)."""
    first, second = x_BHTK.chunk(2, dim=-1)
    cos, sin = cos_BTk.unsqueeze(1).to(x_BHTK.dtype), sin_BTk.unsqueeze(1).to(x_BHTK.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
