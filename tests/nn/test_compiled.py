"""Compiled functions of training are those of torch, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.native import training
from sishu.native.build import library
from sishu.nn import compiled
from sishu.nn.rotary import rotary_angles, rotate
from sishu.objectives.language import next_token

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C++ compiler")

TYPES = [torch.float32, torch.bfloat16]
Function = Callable[..., Tensor]


def both_ways(function: Function, *inputs: Tensor) -> list[Tensor]:
    """What it gives, and the gradients of what goes in, in float64."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=generator).bfloat16().to(y.dtype))
    return [y.detach().double(), *(x.grad.double() for x in leaves if x.grad is not None)]


def compare(ours: Function, theirs: Function, *inputs: Tensor) -> None:
    """Beside torch in float64, on the same inputs: within float32's rounding, or one of bfloat16."""
    found, wanted = both_ways(ours, *inputs), both_ways(theirs, *(x.double() for x in inputs))
    assert len(found) == len(wanted)
    bound = 2e-6 if all(x.dtype == torch.float32 for x in inputs) else 4e-3
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= bound * other.norm() + 1e-30


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 5), (3, 16), (200, 52), (70, 257)])
def test_rms_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    compare(
        lambda x, w: compiled.rms_norm(x, w, 1e-5),
        lambda x, w: F.rms_norm(x, (width,), w, 1e-5),
        normal(rows, width, dtype=dtype),
        1 + 0.3 * normal(width),
    )


def test_rms_norm_is_in_the_type_of_the_products() -> None:
    x, weight = normal(4, 6, 32).requires_grad_(), normal(32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = compiled.rms_norm(x, weight, 1e-6)
    assert (y.dtype, y.shape) == (torch.bfloat16, x.shape)
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1,), (5, 7), (3, 1100)])
def test_gated(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate, up = 3 * normal(*shape, dtype=dtype), normal(*reversed(shape), dtype=dtype).reshape(shape)
    compare(compiled.gated, lambda g, u: F.silu(g) * u, gate, up)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [2, 22, 64])
def test_heads(rows: int, width: int, normed: bool, dtype: torch.dtype) -> None:
    """Angles are each row's own, or those of all."""
    positions = torch.arange(9)[None] * torch.arange(1, rows + 1)[:, None]
    angles = rotary_angles(positions, torch.rand(width // 2, generator=torch.Generator().manual_seed(2)))
    x = normal(3, 9, 5, width, dtype=dtype)

    def theirs(x: Tensor, weight: Tensor | None = None) -> Tensor:
        x = x.transpose(1, 2)
        x = x if weight is None else F.rms_norm(x, (width,), weight, 1e-5)
        return rotate(x, *angles)

    def ours(x: Tensor, weight: Tensor | None = None) -> Tensor:
        return compiled.heads_apart(x, weight, 1e-5, angles)

    compare(ours, theirs, x, *([1 + 0.3 * normal(width)] if normed else []))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", [1, 5, 16, 40])
def test_causal_softmax(length: int, dtype: torch.dtype) -> None:
    def theirs(scores: Tensor) -> Tensor:
        unseen = torch.ones(length, length, dtype=torch.bool).triu(1)
        return (0.3 * scores).masked_fill(unseen, -torch.inf).softmax(-1)

    compare(lambda s: compiled.causal_softmax(s, 0.3), theirs, 4 * normal(2, 3, length, length, dtype=dtype))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_step_of_a_decoder_has_the_same_gradients(qk_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without compiled code, and on one thread (products by torch differ in the last bits)."""
    sizes = {"width": 52, "layers": 2, "heads": 3, "kv_heads": 1, "head_width": 22, "hidden": 75}
    decoder = Decoder(DecoderConfig(vocabulary=99, context_length=40, qk_norm=qk_norm, **sizes))
    with torch.no_grad():
        for number, weight in enumerate(decoder.parameters()):
            weight.add_(0.1 * normal(number + 1, *weight.shape)[0])
    ids = torch.randint(0, 99, (3, 32), generator=torch.Generator().manual_seed(3))

    def gradients() -> list[Tensor]:
        decoder.zero_grad()
        loss = next_token(decoder, Batch({"ids": ids[:, :-1], "targets": ids[:, 1:]}, 1.0)).total
        loss.backward()
        return [loss.detach(), *(w.grad.clone() for w in decoder.parameters() if w.grad is not None)]

    ours, threads = gradients(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for one, other in zip(gradients(), ours, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(training, "knows", lambda *_: False)
    for one, other in zip(gradients(), ours, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_the_number_of_threads_changes_no_bit() -> None:
    x, weight, gradient = normal(333, 40), normal(40), normal(40, 333).T.contiguous()
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            y, inverse = training.rms_norm(x, weight, 1e-6, torch.float32)
            found.append((y, inverse, *training.rms_norm_backward(x, weight, inverse, gradient)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_without_training_torch_does_it() -> None:
    x = normal(3, 8)
    assert not compiled.learns(x)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled.learns(x), "rollouts are rounded as the training on them"
    assert compiled.learns(x.clone().requires_grad_(), None)
    assert not compiled.learns(x.double().requires_grad_())
    with torch.no_grad():
        assert not compiled.learns(x.clone().requires_grad_())
