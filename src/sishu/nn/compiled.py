"""What surrounds the matrix products in training, as functions with a gradient whose both ways are compiled.

torch does each of these as up to ten passes over memory, forward and backward. Where there is no compiled
code, and outside of training, the modules of `nn` do them by torch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sishu.native import training
from sishu.nn.device import own_code_fits


def learns(*tensors: Tensor | None) -> bool:
    """Whether this is a pass of training, of which compiled code knows the types: a gradient will be asked of
    it, or autocast is on. What is only read while training is rounded alike, so that a policy that did not
    change gives the probabilities it gave before (PPO)."""
    if not own_code_fits():
        return False
    there = [t for t in tensors if t is not None]
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in there)
    return (wanted or torch.is_autocast_enabled("cpu")) and training.knows(*there)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last dimension; in the type of autocast's products where that is on."""
    narrow = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if narrow else x.dtype
    return _apply(_RMSNorm, x.reshape(-1, x.shape[-1]), weight_D, eps, dtype).view(x.shape)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up."""
    return _apply(_Gated, gate.contiguous(), up.contiguous())


def heads_apart(
    x_BTHK: Tensor, weight_K: Tensor | None, eps: float, angles_BTk: tuple[Tensor, Tensor]
) -> Tensor:
    """Heads one behind the other, (B, H, T, K), normalised where there is a weight, and turned."""
    cos, sin = (part.contiguous() for part in angles_BTk)
    return _apply(_HeadsApart, x_BTHK.contiguous(), weight_K, eps, cos, sin)


def causal_softmax(scores_BHTT: Tensor, scale: float) -> Tensor:
    """softmax(scale · scores), where each position sees itself and what came before."""
    return _apply(_CausalSoftmax, scores_BHTT.contiguous(), scale)


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]  # torch gives it no types


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y_ND, inverse_N = training.rms_norm(x_ND, weight_D.float(), eps, dtype)
        ctx.save_for_backward(x_ND, weight_D, inverse_N)
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_ND, weight_D, inverse_N = ctx.saved_tensors
        to_x, to_weight = training.rms_norm_backward(
            x_ND, weight_D.float(), inverse_N, gradient_ND.contiguous()
        )
        return to_x, to_weight.to(weight_D.dtype), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return training.gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return training.gated_backward(gate, up, gradient.contiguous())


class _HeadsApart(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BTHK: Tensor, weight_K: Tensor | None, eps: float, cos_BTk: Tensor, sin_BTk: Tensor
    ) -> Tensor:
        weight = None if weight_K is None else weight_K.float()
        y_BHTK, inverse = training.heads_apart(x_BTHK, weight, eps, (cos_BTk, sin_BTk))
        kept = x_BTHK if weight_K is not None else x_BTHK.new_empty(())
        ctx.shape = x_BTHK.shape
        ctx.save_for_backward(kept, weight_K, inverse, cos_BTk, sin_BTk)
        return y_BHTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHTK: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, weight_K, inverse, cos_BTk, sin_BTk = ctx.saved_tensors
        weight = None if weight_K is None else weight_K.float()
        x_BTHK = x if weight_K is not None else x.new_empty(ctx.shape)
        to_x, to_weight = training.heads_apart_backward(
            x_BTHK, weight, inverse, (cos_BTk, sin_BTk), gradient_BHTK.contiguous()
        )
        return to_x, None if weight_K is None else to_weight.to(weight_K.dtype), None, None, None


class _CausalSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores_BHTT: Tensor, scale: float) -> Tensor:
        y_BHTT = training.causal_softmax(scores_BHTT, scale)
        ctx.scale = scale
        ctx.save_for_backward(y_BHTT)
        return y_BHTT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHTT: Tensor) -> tuple[Tensor, None]:
        (y_BHTT,) = ctx.saved_tensors
        return training.causal_softmax_backward(y_BHTT, ctx.scale, gradient_BHTT.contiguous()), None
