"""Hashes that are the same on every machine and in every run."""

from __future__ import annotations

from hashlib import sha256

import numpy
from numpy.typing import NDArray


def text_digest(text: str) -> bytes:
    """The first 16 bytes of SHA-256 over the text without regard to case and white space."""
    return sha256(" ".join(text.lower().split()).encode("utf-8", "replace")).digest()[:16]


def mix(values: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit in reaches every bit out."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))
