"""Which examples a step sees, and that cutting a step into micro-batches changes no gradient."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sishu.batches.batch import Batch, draw, pad_right, shuffled
from sishu.batches.conversations import Conversations, Rankings
from sishu.batches.tokens import Windows
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.language import next_token
from sishu.objectives.loss import Loss, Together
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


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 30))
def test_an_order_that_is_kept_is_the_one_made_anew(count: int, size: int, step: int) -> None:
    places = [divmod(at, count) for at in range(step * size, (step + 1) * size)]
    assert draw(count, size, step, "x", 7) == [shuffled(count, "x", 7, epoch)[n] for epoch, n in places]


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
    if isinstance(objective, Together):
        batches = objective.together(model, batches)
    for batch in batches:
        loss = objective(model, batch).total * batch.share
        loss.backward()
        total += float(loss.detach())
    return total, {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(6, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def windows(micro_batch: int) -> list[Batch]:
    tokens = np.random.default_rng(0).integers(6, 320, 500).astype(np.uint16)
    return Windows(tokens, 24, 8, micro_batch, seed=0).batches(0)


def conversations(micro_batch: int) -> list[Batch]:
    """From 2 to 16 tokens to learn in each."""
    rows = [
        Conversation(ids(6 + 3 * i, i), [False] * 4 + [j % 3 > 0 for j in range(2 + 3 * i)]) for i in range(8)
    ]
    return Conversations(rows, 1, 8, micro_batch, 0).batches(0)


def rankings(micro_batch: int) -> list[Batch]:
    prompts = [[ids(5 + (7 * i + 3 * k) % 11, 10 * i + k) for k in range(3)] for i in range(8)]
    return Rankings(prompts, 1, 8, micro_batch, 0).batches(0)


def scorer(decoder: Decoder) -> Scorer:
    model = Scorer(decoder.config)
    model.start_from(decoder, 0)
    return model


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("source", [windows, conversations, rankings])
def test_micro_batches_give_one_gradient(
    tiny_decoder: Decoder, source: Callable[[int], list[Batch]], micro_batch: int
) -> None:
    """Eight times one is once eight, whatever each has to learn."""
    parts, whole = source(micro_batch), source(8)
    assert len(parts) == -(-8 // micro_batch) and len(whole) == 1
    assert sum(b.share for b in parts) == pytest.approx(1.0)
    model, objective = (scorer(tiny_decoder), Ranking()) if source is rankings else (tiny_decoder, next_token)
    loss_a, a = gradients(model, parts, objective)
    loss_b, b = gradients(model, whole, objective)
    assert loss_a == pytest.approx(loss_b, abs=1e-5)
    assert a.keys() == b.keys() and len(a) > 10
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_unequal_micro_batches_weigh_by_their_tokens() -> None:
    assert len({b.share for b in conversations(1)}) > 4
    assert [b.tokens for b in conversations(8)] == [sum(5 + 3 * i for i in range(8))]


def test_rankings_are_compared_with_all_of_the_step(tiny_decoder: Decoder) -> None:
    """Not only with those of their micro-batch."""
    model, parts = scorer(tiny_decoder), rankings(3)
    (whole,) = rankings(8)
    expected, accuracy = pairwise(rewards_of(model, whole["ids"], whole["last"]).view(8, 3))
    for batch in Ranking().together(model, parts):
        loss = Ranking()(model, batch)
        assert float(loss.total.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
        assert float(loss.figures["accuracy"]) == float(accuracy)
    apart = sum(float(Ranking()(model, b).total.detach()) * b.share for b in parts)
    assert abs(apart - float(expected.detach())) > 1e-4
    assert Ranking().together(model, [whole]) == [whole]
