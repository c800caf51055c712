"""Normalisation of a vector's size: RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) and LayerNorm (Ba et
al. 2016, arXiv:1607.06450)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.nn import compiled

Norm = Literal["rms", "layer"]


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last dimension."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if compiled.learns(x, self.weight):
            return compiled.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """torch's, whose kernel for CPUs takes no narrow weights for float32: FSDP2 may have fetched such."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 != self.weight.dtype:
            return F.layer_norm(x, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return super().forward(x)


def norm(kind: Norm, width: int, eps: float) -> nn.Module:
    """A normalisation of this kind; LayerNorm has a bias."""
    return RMSNorm(width, eps) if kind == "rms" else LayerNorm(width, eps)
