"""What `cross_entropy.cpp` does: losses and gradients of logits in place."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from sishu.native.build import library


def cross_entropy_(logits_NV: Tensor, targets_N: Tensor, gradient: bool) -> Tensor | None:
    """Cross-entropy in nats of each row, (N,) float32; with `gradient` the logits become its gradient, the
    softmax minus one-hot. None, with nothing changed, where compiled code does not do this: for other types
    than float32 and bfloat16, off the CPU, or where there is none. Raises IndexError for a target that is no
    logit's number."""
    built = library() if logits_NV.device.type == "cpu" else None
    if built is None or logits_NV.dtype not in (torch.float32, torch.bfloat16):
        return None
    assert logits_NV.is_contiguous() and targets_N.dtype == torch.int64
    rows, vocabulary = logits_NV.shape
    targets_N, losses_N = targets_N.contiguous(), torch.empty(rows)
    if rows and (int(targets_N.min()) < 0 or int(targets_N.max()) >= vocabulary):
        raise IndexError(f"a target lies outside of {vocabulary} logits")
    built.cross_entropy(
        c_void_p(logits_NV.data_ptr()),
        *(c_int64(n) for n in (logits_NV.dtype == torch.bfloat16, rows, vocabulary)),
        *(c_void_p(tensor.data_ptr()) for tensor in (targets_N, losses_N)),
        *(c_int64(n) for n in (gradient, torch.get_num_threads())),
    )
    return losses_N
