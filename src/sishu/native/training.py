"""What `training.cpp` does, for tensors on the CPU in float32 or bfloat16."""

from __future__ import annotations

from ctypes import Structure, byref, c_double, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from sishu.native.build import library

PARTS = 64
"""Parts of the rows whose sums are added up apart."""
TYPES = (torch.float32, torch.bfloat16)


def knows(*tensors: Tensor) -> bool:
    """Whether compiled code is there and works on tensors like these."""
    return all(t.device.type == "cpu" and t.dtype in TYPES for t in tensors) and library() is not None


class _Row(Structure):
    _fields_ = [("numbers", c_void_p), ("narrow", c_int64)]


class _Heads(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("tokens", "length", "heads", "width")),
        *((name, c_void_p) for name in ("cos", "sin")),
        ("angles", c_int64),
        ("weight", c_void_p),
        ("eps", c_float),
    ]


def _row(tensor: Tensor) -> object:
    assert tensor.is_contiguous() and tensor.dtype in TYPES
    return byref(_Row(tensor.data_ptr(), tensor.dtype == torch.bfloat16))


def _floats(tensor: Tensor | None) -> c_void_p:
    assert tensor is None or (tensor.is_contiguous() and tensor.dtype == torch.float32)
    return c_void_p(None if tensor is None else tensor.data_ptr())


def _call(name: str, *arguments: object) -> None:
    built = library()
    assert built is not None
    getattr(built, name)(*arguments, c_int64(torch.get_num_threads()))


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x / rms(x) · weight in a type, and 1 / rms(x), (N,)."""
    y_ND, inverse_N = torch.empty_like(x_ND, dtype=dtype), torch.empty(len(x_ND))
    sizes = map(c_int64, x_ND.shape)
    _call("rms_norm", *sizes, _row(x_ND), _floats(weight_D), c_double(eps), _row(y_ND), _floats(inverse_N))
    return y_ND, inverse_N


def rms_norm_backward(
    x_ND: Tensor, weight_D: Tensor, inverse_N: Tensor, gradient_ND: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight."""
    to_ND, sums_PD = torch.empty_like(x_ND), torch.zeros(PARTS, x_ND.shape[1])
    parts = _row(x_ND), _floats(weight_D), _floats(inverse_N), _row(gradient_ND), _row(to_ND)
    _call("rms_norm_backward", *map(c_int64, x_ND.shape), *parts, _floats(sums_PD))
    return to_ND, sums_PD.sum(0)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, of tensors of one shape and type."""
    y = torch.empty_like(gate)
    _call("gated", c_int64(gate.numel()), *map(_row, (gate, up, y)))
    return y


def gated_backward(gate: Tensor, up: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of both."""
    to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
    _call("gated_backward", c_int64(gate.numel()), *map(_row, (gate, up, gradient, to_gate, to_up)))
    return to_gate, to_up


Angles = tuple[Tensor, Tensor]


def heads_apart(
    x_BTHK: Tensor, weight_K: Tensor | None, eps: float, angles_BTk: Angles
) -> tuple[Tensor, Tensor]:
    """Heads (B, H, T, K), normalised where there is a weight and turned by cosines and sines (B or 1, T,
    K/2), and 1 / rms of each, (B, T, H)."""
    B, T, H, K = x_BTHK.shape
    y_BHTK, inverse = x_BTHK.new_empty(B, H, T, K), torch.empty(B, T, H)
    heads = _heads(x_BTHK, weight_K, eps, angles_BTk)
    _call("heads_apart", byref(heads), _row(x_BTHK), _row(y_BHTK), _floats(inverse))
    return y_BHTK, inverse


def heads_apart_backward(
    x_BTHK: Tensor,
    weight_K: Tensor | None,
    inverse: Tensor,
    angles_BTk: Angles,
    gradient_BHTK: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight."""
    to_BTHK, sums_PK = torch.empty_like(x_BTHK), torch.zeros(PARTS, x_BTHK.shape[3])
    heads, back = _heads(x_BTHK, weight_K, 0.0, angles_BTk), -angles_BTk[1]
    parts = _row(x_BTHK), _floats(inverse), _floats(back), _row(gradient_BHTK), _row(to_BTHK)
    _call("heads_apart_backward", byref(heads), *parts, _floats(sums_PK))
    return to_BTHK, sums_PK.sum(0)


def causal_softmax(scores: Tensor, scale: float) -> Tensor:
    """softmax(scale · scores) of (…, T, T), row i over its first i + 1; the others are 0."""
    y, length = torch.empty_like(scores), scores.shape[-1]
    sizes = c_int64(scores.numel() // length), c_int64(length)
    _call("causal_softmax", *sizes, _row(scores), c_double(scale), _row(y))
    return y


def causal_softmax_backward(y: Tensor, scale: float, gradient: Tensor) -> Tensor:
    """The gradient of the scores."""
    to, length = torch.empty_like(y), y.shape[-1]
    sizes = c_int64(y.numel() // length), c_int64(length)
    _call("causal_softmax_backward", *sizes, _row(y), c_double(scale), _row(gradient), _row(to))
    return to


def _heads(x_BTHK: Tensor, weight_K: Tensor | None, eps: float, angles_BTk: Angles) -> _Heads:
    B, T, H, K = x_BTHK.shape
    cos, sin = angles_BTk
    assert cos.shape == sin.shape and cos.shape[0] in (1, B) and cos.shape[1:] == (T, K // 2)
    angles = cos.shape[0] * T
    return _Heads(B * T, T, H, K, _floats(cos), _floats(sin), angles, _floats(weight_K), eps)
