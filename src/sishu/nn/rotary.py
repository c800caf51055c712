"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split form of Llama and Qwen."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(context_length: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines for every position: two float32 tensors of shape (T, K/2)."""
    frequencies = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, cos_BTk: Tensor, sin_BTk: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + K/2]) by its position's angle; shapes (B, H, T, K) and (B or 1, T, K/2)."""
    first, second = x_BHTK.chunk(2, dim=-1)
    cos, sin = cos_BTk.unsqueeze(1).to(x_BHTK.dtype), sin_BTk.unsqueeze(1).to(x_BHTK.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
