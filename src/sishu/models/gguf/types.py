"""How numbers are stored in GGUF files: plain, or in blocks of few bits with a scale of their own."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredType:
    """A way to store numbers: `block` of them take `size` bytes."""

    number: int
    name: str
    block: int
    size: int

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """What a tensor takes; raises ValueError where its rows are no whole number of blocks."""
        if shape[-1] % self.block:
            raise ValueError(f"rows of {shape[-1]:,} numbers are no whole blocks of {self.block}")
        return prod(shape) // self.block * self.size


TYPES = {
    kind.number: kind
    for kind in (
        StoredType(0, "F32", 1, 4),
        StoredType(1, "F16", 1, 2),
        StoredType(2, "Q4_0", 32, 18),
        StoredType(3, "Q4_1", 32, 20),
        StoredType(6, "Q5_0", 32, 22),
        StoredType(7, "Q5_1", 32, 24),
        StoredType(8, "Q8_0", 32, 34),
        StoredType(10, "Q2_K", 256, 84),
        StoredType(11, "Q3_K", 256, 110),
        StoredType(12, "Q4_K", 256, 144),
        StoredType(13, "Q5_K", 256, 176),
        StoredType(14, "Q6_K", 256, 210),
        StoredType(16, "IQ2_XXS", 256, 66),
        StoredType(17, "IQ2_XS", 256, 74),
        StoredType(18, "IQ3_XXS", 256, 98),
        StoredType(19, "IQ1_S", 256, 50),
        StoredType(20, "IQ4_NL", 32, 18),
        StoredType(21, "IQ3_S", 256, 110),
        StoredType(22, "IQ2_S", 256, 82),
        StoredType(23, "IQ4_XS", 256, 136),
        StoredType(29, "IQ1_M", 256, 56),
        StoredType(30, "BF16", 1, 2),
    )
}
"""By their number in files (ggml's `enum ggml_type`)."""
BY_NAME = {kind.name: kind for kind in TYPES.values()}

PIECE = 8192
"""Blocks that are worked on at once: enough for speed, few enough to stay in the processor's cache."""

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

WRITTEN = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q5_1": 9, "Q5_0": 8, "Q4_1": 3, "Q4_0": 2}
"""What models can be written as, and the number of each as a `general.file_type`."""


def decode(data: np.ndarray[Any, Any], kind: StoredType, shape: tuple[int, ...]) -> Tensor:
    """Stored bytes, 1-D uint8, as a tensor that has memory of its own: plain types as they are, blocks in
    float32."""
    if kind.name in PLAIN:
        # a copy, because the bytes belong to the file
        return torch.from_numpy(np.array(data)).view(PLAIN[kind.name]).reshape(shape)
    # here, because the package takes long to import and most commands need none of it
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    weight = np.empty(prod(shape), np.float32)
    with np.errstate(all="ignore"):  # a scale that is no number stays one, as in llama.cpp
        for at in range(0, len(data), PIECE * kind.size):
            piece = data[None, at : at + PIECE * kind.size]
            first, count = at // kind.size * kind.block, piece.size // kind.size * kind.block
            weight[first : first + count] = dequantize(piece, GGMLQuantizationType(kind.number))[0]
    return torch.from_numpy(weight).reshape(shape)


def encode(weight: Tensor, kind: StoredType) -> np.ndarray[Any, Any]:
    """A tensor as the bytes that are stored, 1-D uint8."""
    weight = weight.detach().cpu().contiguous()
    if kind.name in PLAIN:
        plain = weight.to(PLAIN[kind.name]).reshape(-1)
        return plain.view(torch.uint8).numpy()
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    flat = weight.float().reshape(1, -1).numpy()
    packed = np.empty(flat.size // kind.block * kind.size, np.uint8)
    for at in range(0, flat.size, PIECE * kind.block):
        piece = quantize(flat[:, at : at + PIECE * kind.block], GGMLQuantizationType(kind.number))
        first = at // kind.block * kind.size
        packed[first : first + piece.size] = piece[0]
    return packed
