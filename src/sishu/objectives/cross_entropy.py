"""Cross-entropy of a linear head without the logits of all tokens at once.

A vocabulary of 150,000 makes 600 KB of logits for every token, and automatic differentiation keeps them,
their logarithms and their gradients. Here some tokens at a time go through the head, and what they add to the
gradients is worked out on the spot (Hsu et al. 2024, arXiv:2410.10989), so that no more is kept than one
gradient of the states and one of the head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sishu.native.cross_entropy import cross_entropy_

NUMBERS_AT_ONCE = 1 << 26
"""Logits formed at once: fewer save memory, but the head's gradient is added up once for each time."""
NUMBERS_IN_FLOAT32 = 1 << 22
"""Of these, how many are worked on in float32 at once where compiled code does not do it."""


def rows_at_once(vocabulary: int, numbers: int = NUMBERS_AT_ONCE) -> int:
    """How many tokens go through the head together."""
    return max(16, numbers // vocabulary)


def head_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats of the logits x Wᵀ: its mean over the tokens, which has a gradient for states and
    weights, and that of each token, (N,), which has none; both float32. Products are in the precision of
    autocast where that is on, all else in float32. No token gives a mean of 0."""
    mean, losses_N = _HeadCrossEntropy.apply(x_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call]  # torch gives it no types
    return mean, losses_N


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        kind = x_ND.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
        wanted_x, wanted_weight = ctx.needs_input_grad[:2]
        losses_N = torch.empty(len(x_ND), device=x_ND.device)
        grad_x = torch.empty_like(x_ND) if wanted_x else None
        grad_weight: Tensor | None = None
        weight = weight_VD.to(precision)
        some = rows_at_once(len(weight))
        with torch.autocast(kind, enabled=False):
            for at in range(0, len(x_ND), some):
                x, targets = x_ND[at : at + some].to(precision), targets_N[at : at + some]
                logits = F.linear(x, weight)
                losses_N[at : at + some] = _losses_(logits, targets, wanted_x or wanted_weight)
                if grad_x is not None:
                    grad_x[at : at + some] = logits @ weight
                if wanted_weight:
                    product = logits.mT @ x
                    grad_weight = (
                        product.to(weight_VD.dtype) if grad_weight is None else grad_weight.add_(product)
                    )
        if wanted_weight and grad_weight is None:
            grad_weight = torch.zeros_like(weight_VD)
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.mark_non_differentiable(losses_N)
        ctx.count = max(1, len(x_ND))
        return losses_N.sum() / ctx.count, losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        factor = grad_mean / ctx.count
        x, weight = (None if g is None else g * factor.to(g.dtype) for g in ctx.saved_tensors)
        return x, weight, None


def _losses_(logits_NV: Tensor, targets_N: Tensor, gradient: bool) -> Tensor:
    """Losses of some tokens; with `gradient` their logits become what the loss has as gradient for them."""
    found = cross_entropy_(logits_NV, targets_N, gradient)
    if found is not None:
        return found
    losses, some = [], rows_at_once(logits_NV.shape[1], NUMBERS_IN_FLOAT32)
    for logits, targets in zip(torch.split(logits_NV, some), torch.split(targets_N, some), strict=True):
        log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        losses.append(F.nll_loss(log_p, targets, reduction="none"))
        if gradient:
            p = log_p.exp_()
            p[torch.arange(len(p), device=p.device), targets] -= 1
            logits.copy_(p)
    return torch.cat(losses)
