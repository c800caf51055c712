"""Which examples a step sees, and that cutting a step into micro-batches changes no gradient."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sishu.batches.batch import Batch, draw, pad_right, shuffled
from sishu.batches.conversations import Rankings, in_micro_batches
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.language import next_token
from sishu.objectives.loss import Loss
from sishu.objectives.ranking import Ranking, pairwise, rewards_of
from sishu.tokenizer.chat import Conversation


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_every_index_comes_once_an_epoch(count: int, size: int, seed: int) -> None:
    steps = -(-3 * count // size)
    seen = [i for step in range(steps) for i in draw(count, size, step, "x", seed)]
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_are_in_different_orders() -> None:
    epochs = [tuple(draw(50, 50, step, "x", 0)) for step in range(4)]
    assert len({*epochs, tuple(draw(50, 50, 0, "x", 1)), tuple(draw(50, 50, 0, "y", 0))}) == 6
    assert shuffled(8, "x", 0) == [5, 3, 4, 1, 2, 0, 6, 7], "the order is fixed for all platforms"


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    forwards = [draw(11, 4, step, "x", 0) for step in range(9)]
    assert [draw(11, 4, step, "x", 0) for step in reversed(range(9))] == forwards[::-1]


def test_orders_are_even() -> None:
    """Every index is as likely in every place."""
    firsts = Counter(shuffled(5, "even", i)[0] for i in range(2000))
    assert sum((firsts[i] - 400) ** 2 / 400 for i in range(5)) < 18.5  # chi-square, 4 degrees, p = 0.001


def test_padding_is_on_the_right() -> None:
    assert pad_right([[1, 2, 3], [4], []], 9).tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]


def gradients(
    model: nn.Module, batches: list[Batch], objective: Callable[..., Loss]
) -> tuple[float, dict[str, Tensor]]:
    model = copy.deepcopy(model).train()
    total = 0.0
    for batch in batches:
        loss = objective(model, batch).total * batch.share
        loss.backward()
        total += float(loss.detach())
    return total, {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(6, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_of_conversations_give_one_gradient(tiny_decoder: Decoder, micro_batch: int) -> None:
    rows = [
        Conversation(ids(6 + 3 * i, i), [False] * 4 + [j % 3 > 0 for j in range(2 + 3 * i)]) for i in range(8)
    ]
    parts, whole = in_micro_batches(rows, 1, micro_batch), in_micro_batches(rows, 1, 8)
    assert len(parts) == -(-8 // micro_batch) and len(whole) == 1
    assert sum(b.share for b in parts) == pytest.approx(1.0)
    loss_a, a = gradients(tiny_decoder, parts, next_token)
    loss_b, b = gradients(tiny_decoder, whole, next_token)
    assert loss_a == pytest.approx(loss_b, abs=1e-5)
    assert a.keys() == b.keys() and len(a) > 10
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_rankings_are_compared_within_a_micro_batch(tiny_decoder: Decoder, micro_batch: int) -> None:
    """And each micro-batch counts by its prompts."""
    model = Scorer(tiny_decoder.config)
    model.start_from(tiny_decoder, 0)
    prompts = [[ids(5 + (7 * i + 3 * k) % 11, 10 * i + k) for k in range(3)] for i in range(8)]
    parts = Rankings(prompts, 1, 8, micro_batch, 0).batches(0)
    whole = Rankings(prompts, 1, 8, 8, 0).batches(0)
    assert sum(b.share for b in parts) == pytest.approx(1.0) and len(whole) == 1
    rewards = rewards_of(model, whole[0]["ids"], whole[0]["last"]).view(8, 3)
    expected = sum(len(some) / 8 * pairwise(some)[0] for some in rewards.split(micro_batch))
    model.zero_grad()
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    slow = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    loss, found = gradients(model, parts, Ranking())
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    assert slow.keys() == found.keys() and len(slow) > 10
    for name in slow:
        torch.testing.assert_close(found[name], slow[name], atol=1e-6, rtol=1e-4)
