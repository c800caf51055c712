"""The position-wise network: plain and gated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from sishu.nn import compiled

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function of this name; `gelu_tanh` is GPT-2's approximation (Hendrycks & Gimpel 2016,
    arXiv:1606.08415)."""
    if name == "gelu_tanh":
        return lambda x: F.gelu(x, approximate="tanh")
    functions: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
    return functions[name]


class MLP(nn.Module):
    """down(act(up(x))): (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, hidden: int, act: Activation = "gelu", bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)
        self.act = activation(act)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(x_BTD)))
        return y


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)): (B, T, D) -> (B, T, D) (Shazeer 2020, arXiv:2002.05202), or the same with
    another activation."""

    def __init__(self, width: int, hidden: int, act: Activation = "silu", bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)
        self.act = activation(act)
        self.is_silu = act == "silu"

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.gate(x_BTD), self.up(x_BTD)
        if self.is_silu and compiled.learns(gate, up):
            return cast(Tensor, self.down(compiled.gated(gate, up)))
        return cast(Tensor, self.down(self.act(gate) * up))
