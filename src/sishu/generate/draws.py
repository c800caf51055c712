"""Random numbers that depend on a seed and a place alone, not on what was drawn before or beside them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD = (1 << 64) - 1
LANES = 4
"""Independent numbers for one place: 0 draws the token, the others serve speculative decoding."""


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators")."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seeds: Sequence[int], steps: Sequence[int], lane: int = 0) -> npt.NDArray[np.float64]:
    """A number on [0, 1 - 2⁻⁵²] for each (seed, step): SplitMix64 at a counter. Any integer is a seed; two
    that differ by 2⁶⁴ are the same. Raises ValueError for a lane outside 0 to `LANES` - 1."""
    if not 0 <= lane < LANES:
        raise ValueError(f"lane {lane} is none of 0 to {LANES - 1}")
    start = np.array([seed & _WORD for seed in seeds], dtype=np.uint64)
    count = np.array([(step * LANES + lane) & _WORD for step in steps], dtype=np.uint64)
    # the seed goes through the mixer too, so that neighbouring seeds are not the same stream, shifted
    bits = _mixed(_mixed(start + _GOLDEN) + (count + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def seed_of(seed: int | None, choice: int = 0) -> int:
    """The seed of one of the answers to a request: choice 0 has the request's own, the others have ones
    derived from it. None draws a fresh one."""
    if seed is None:
        return secrets.randbits(64)
    if choice == 0:
        return seed & _WORD
    one = np.array([seed & _WORD, choice], dtype=np.uint64)
    return int(_mixed(_mixed(one[:1]) ^ (one[1:] * _GOLDEN))[0])


@dataclass(frozen=True)
class Draws:
    """The random numbers of one answer: that of step t depends on the seed and t alone, so that a seed gives
    the same answer whatever shares its batch."""

    seed: int

    def at(self, step: int, lane: int = 0) -> float:
        """The number of this step, on [0, 1)."""
        return float(uniform((self.seed,), (step,), lane)[0])
