"""The loss of a head, some tokens at a time, is that of torch on all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.native.build import library
from sishu.native.cross_entropy import cross_entropy_
from sishu.objectives import cross_entropy
from sishu.objectives.cross_entropy import head_cross_entropy, rows_at_once

KINDS = [torch.float32, torch.bfloat16]


@pytest.fixture(params=["compiled", "torch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(cross_entropy, "cross_entropy_", lambda *_: None)
    elif library() is None:
        pytest.skip("needs a C++ compiler")
    return str(request.param)


def some(rows: int, vocabulary: int, width: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + vocabulary)
    x = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    return x, weight, torch.randint(0, vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 2), (7, 16), (40, 33), (100, 1000), (33, 15)])
@pytest.mark.parametrize("at_once", [16, 1 << 26])
def test_loss_and_gradients(
    by: str, rows: int, vocabulary: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "rows_at_once", lambda *_: at_once)
    x, weight, targets = some(rows, vocabulary)
    theirs = [part.clone().requires_grad_() for part in (x, weight)]
    ours = [part.clone().requires_grad_() for part in (x, weight)]
    expected = F.cross_entropy(F.linear(*theirs), targets, reduction="none")
    (0.3 * expected.mean()).backward()
    mean, losses = head_cross_entropy(*ours, targets)
    (0.3 * mean).backward()
    torch.testing.assert_close(losses, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(mean, expected.mean(), atol=1e-5, rtol=1e-5)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-6, rtol=1e-4)


def test_under_autocast_it_is_as_exact_as_torch(by: str) -> None:
    """Beside float64: products of bfloat16 cost both the same."""
    x, weight, targets = some(64, 500)

    def gradients(loss_of: object, dtype: torch.dtype) -> list[Tensor]:
        parts = [part.to(dtype, copy=True).requires_grad_() for part in (x, weight)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            loss = loss_of(*parts)  # type: ignore[operator]  # one of the two below
        loss.backward()
        return [loss.detach().double(), *(part.grad.double() for part in parts)]

    exact = gradients(lambda x, w: F.cross_entropy(F.linear(x, w), targets), torch.float64)
    theirs = gradients(lambda x, w: F.cross_entropy(F.linear(x, w).float(), targets), torch.float32)
    ours = gradients(lambda x, w: head_cross_entropy(x, w, targets)[0], torch.float32)
    for found, other, wanted in zip(ours, theirs, exact, strict=True):
        assert (found - wanted).norm() <= 1.2 * (other - wanted).norm() + 1e-4 * wanted.norm()


def test_nothing_is_learned_where_nothing_is_asked(by: str) -> None:
    x, weight, targets = some(20, 50)
    mean, losses = head_cross_entropy(x, weight, targets)
    assert not mean.requires_grad
    torch.testing.assert_close(losses, F.cross_entropy(F.linear(x, weight), targets, reduction="none"))
    frozen = weight.clone().requires_grad_()
    head_cross_entropy(x, frozen, targets)[0].backward()
    assert frozen.grad is not None


def test_no_tokens(by: str) -> None:
    x, weight, targets = some(3, 5)
    weight.requires_grad_()
    mean, losses = head_cross_entropy(x[:0], weight, targets[:0])
    mean.backward()
    assert float(mean.detach()) == 0
    assert losses.shape == (0,)
    assert weight.grad is not None and not weight.grad.any()


@pytest.mark.skipif(library() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", KINDS)
def test_large_and_infinite_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-torch.inf, 2.0, 1.0], [-3e38, 3e38, 0.0]]).to(dtype)
    targets = torch.tensor([0, 1, 1])
    expected = F.cross_entropy(logits.float(), targets, reduction="none")
    gradients = logits.float().softmax(-1) - F.one_hot(targets, 3)
    losses = cross_entropy_(logits, targets, gradient=True)
    assert losses is not None
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        logits.float(), gradients, atol=1e-6 if dtype == torch.float32 else 4e-3, rtol=0
    )


def test_not_a_number_stays_one(by: str) -> None:
    x, weight, targets = some(4, 40)
    x[2, 0] = torch.nan
    assert head_cross_entropy(x, weight, targets)[0].isnan()


def test_a_target_outside_of_the_vocabulary_is_refused(by: str) -> None:
    x, weight, targets = some(4, 40)
    targets[1] = 40
    with pytest.raises(IndexError):
        head_cross_entropy(x, weight, targets)


def test_a_large_vocabulary_goes_some_rows_at_a_time() -> None:
    assert rows_at_once(150_000) * 150_000 <= cross_entropy.NUMBERS_AT_ONCE
    assert rows_at_once(10**9) == 16
