"""Tables of vectors: tokens, positions, kinds of segments."""

from __future__ import annotations

import torch
from torch import nn


def embedding(rows: int, width: int) -> nn.Embedding:
    """torch's own, which begins with N(0, 1), but for one without memory (on the meta device): there torch
    would import its reference kernels to fill it, which takes longer than reading a small model."""
    weight = torch.empty(rows, width)
    if not weight.is_meta:
        nn.init.normal_(weight)
    table = nn.Embedding(rows, width, _weight=weight)
    table.weight.requires_grad_(True)
    return table
