"""What `decode.cpp` is given and does: one pass of a decoder over a few tokens, without the interpreter."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_int64, c_void_p

import torch
from torch import Tensor

from sishu.native.build import library

KINDS = ("fp32", "bf16", "int8", "int4")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
QUERIES = 48
"""Queries that are looked up together at most: of neighbours in a text, those of the heads that share
keys."""
TYPES = (torch.float32, torch.bfloat16, torch.int8, torch.uint8)
"""Of the weights of each kind. Outputs of 8 bits have a scale in bfloat16; of 4 bits, two inputs lie in a
byte, number j of a group of 32 in the low half of byte j, number j + 16 in its high half, and a group has a
scale and a lowest value in bfloat16, next to each other."""


class Matrix(Structure):
    """A matrix (outputs, inputs) in one of `KINDS`."""

    _fields_ = [
        *((name, c_int64) for name in ("kind", "outputs", "inputs")),
        *((name, c_void_p) for name in ("weight", "scale", "bias")),
    ]


class Norm(Structure):
    """RMSNorm, or LayerNorm where there is a bias."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_double)]


class Layer(Structure):
    """A block."""

    _fields_ = [
        *((name, Norm) for name in ("attention_norm", "query_norm", "key_norm", "mlp_norm")),
        *((name, Matrix) for name in ("joined", "output", "up", "down")),
        ("window", c_int64),
    ]


class Model(Structure):
    """A decoder and the cache that it writes to."""

    _fields_ = [
        *((name, c_int64) for name in ("layers", "width", "heads", "kv_heads", "head_width", "hidden")),
        *((name, c_int64) for name in ("gated", "activation")),
        ("layer", POINTER(Layer)),
        ("norm", Norm),
        ("head", Matrix),
        *((name, c_void_p) for name in ("keys", "values")),
        *((name, c_int64) for name in ("slots", "block_size")),
    ]


class Step(Structure):
    """The tokens of one pass."""

    _fields_ = [
        *((name, c_int64) for name in ("rows", "blocks_per_text", "threads", "answers", "groups")),
        *(
            (name, c_void_p)
            for name in ("x", "cos", "sin", "seen", "text", "blocks", "group", "wanted", "logits")
        ),
    ]


def unpacked(weight: Tensor, scale: Tensor) -> Tensor:
    """A 4-bit matrix (O, G, 16) with its scales (O, G, 2) in bfloat16, (O, I). Needs compiled code."""
    built = library()
    assert built is not None
    weight, scale = weight.contiguous(), scale.contiguous()
    outputs, inputs = len(weight), 2 * weight[0].numel()
    to = torch.empty(outputs, inputs, dtype=torch.bfloat16)
    matrix = Matrix(KINDS.index("int4"), outputs, inputs, weight.data_ptr(), scale.data_ptr(), None)
    built.unpack(ctypes.byref(matrix), c_void_p(to.data_ptr()), c_int64(torch.get_num_threads()))
    return to
