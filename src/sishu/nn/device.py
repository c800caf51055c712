"""Which device to compute on and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def best_device() -> torch.device:
    """CUDA, then Apple's Metal, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are done by the hardware rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products run in bfloat16 or float16 where asked for (`auto`: bfloat16 where
    fast); weights, gradients and optimizer stay float32."""
    dtype = products_in(device, precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def products_in(device: torch.device, precision: Precision) -> torch.dtype:
    """The type of matrix products in training."""
    if precision == "bf16" or (precision == "auto" and has_fast_bf16(device)):
        return torch.bfloat16
    return torch.float16 if precision == "fp16" else torch.float32


def own_code_fits() -> bool:
    """Whether our compiled functions may be asked: not while torch's compiler reads along, which makes its
    own, and not for float16, which they do not know."""
    if torch.compiler.is_compiling():
        return False
    return not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") == torch.bfloat16
