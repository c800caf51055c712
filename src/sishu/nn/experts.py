"""Many networks, of which each token is sent to few."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sishu.nn.mlp import Activation, activation


class MixtureOfExperts(nn.Module):
    """E SwiGLU networks, of which a router picks `chosen` for each token (Shazeer et al. 2017,
    arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088): (B, T, D) -> (B, T, D).

    A token's experts count with the router's softmax over all experts; with `normalised` these shares are
    made to sum to 1. `hidden` is the size I inside one expert: gate and up are (E, I, D), down is (E, D, I).
    """

    def __init__(
        self, width: int, hidden: int, experts: int, chosen: int, normalised: bool, act: Activation = "silu"
    ) -> None:
        super().__init__()
        self.chosen, self.normalised, self.act = chosen, normalised, activation(act)
        self.router = nn.Linear(width, experts, bias=False)
        self.gate = nn.Parameter(torch.empty(experts, hidden, width))
        self.up = nn.Parameter(torch.empty(experts, hidden, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))
        for weight in (self.gate, self.up, self.down):
            bound = weight.shape[-1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, 1)
        share_NE = self.router(x_ND).float().softmax(-1)
        share_NC, expert_NC = share_NE.topk(self.chosen, dim=-1)
        if self.normalised:
            share_NC = share_NC / share_NC.sum(-1, keepdim=True)
        out_ND = torch.zeros_like(x_ND)
        for expert in cast(list[int], expert_NC.unique().tolist()):
            token, place = (expert_NC == expert).nonzero(as_tuple=True)
            y = self.expert(expert, x_ND[token]) * share_NC[token, place, None]
            out_ND = out_ND.index_add(0, token, y.to(out_ND.dtype))
        return out_ND.view_as(x_BTD)

    def expert(self, number: int, x_ND: Tensor) -> Tensor:
        """What one expert makes of tokens, (N, D) -> (N, D)."""
        h_NI = self.act(F.linear(x_ND, self.gate[number])) * F.linear(x_ND, self.up[number])
        return F.linear(h_NI, self.down[number])
