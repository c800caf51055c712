"""The ranking loss against a slow loop over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from sishu.batches.conversations import ranking_batch
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.ranking import Ranking, calibrated, pairwise, quantiles, rewards_of


def slow(rewards: list[list[float]]) -> tuple[float, float]:
    losses, own, right = [], [], []
    for row in rewards:
        for other in rewards:
            for better in range(len(row)):
                for worse in range(better + 1, len(row)):
                    losses.append(math.log1p(math.exp(other[worse] - row[better])))
                    if other is row:
                        own.append(losses[-1])
                        right.append(row[better] > row[worse])
    return (sum(losses) / len(losses) + sum(own) / len(own)) / 2, sum(right) / len(right)


@pytest.mark.parametrize("answers", [2, 4, 9])
def test_own_pairs_count_half_and_all_pairs_of_all_prompts_half(answers: int) -> None:
    rewards = torch.randn(5, answers, generator=torch.Generator().manual_seed(answers))
    loss, accuracy = pairwise(rewards)
    expected = slow(rewards.tolist())
    assert float(loss) == pytest.approx(expected[0], abs=1e-6)
    assert float(accuracy) == pytest.approx(expected[1])


def test_equal_rewards_are_not_right_and_cost_ln_2() -> None:
    loss, accuracy = pairwise(torch.zeros(2, 3))
    assert float(loss) == pytest.approx(math.log(2)) and float(accuracy) == 0.0


def test_learning_pushes_the_better_answer_up() -> None:
    rewards = torch.zeros(1, 4, requires_grad=True)
    pairwise(rewards)[0].backward()
    assert rewards.grad is not None
    down = rewards.grad[0]
    assert (down.diff() > 0).all() and float(down.sum()) == pytest.approx(0, abs=1e-7)
    assert pairwise(torch.tensor([[1e4, -1e4]]))[0] == 0
    assert torch.isfinite(pairwise(torch.tensor([[-1e4, 1e4]]))[0])


@torch.no_grad()
def test_the_score_is_read_at_each_rows_last_token(tiny_decoder: Decoder) -> None:
    model = Scorer(tiny_decoder.config)
    model.start_from(tiny_decoder, 0)
    prompts = [[[0, 9, 10, 2], [0, 9, 2], [0, 9, 11, 12, 13, 2]], [[0, 8, 2], [0, 8, 7, 2], [0, 8, 30, 2]]]
    alone = [[float(model(torch.tensor([row]))[0, -1]) for row in prompt] for prompt in prompts]
    loss = Ranking()(model, ranking_batch(prompts, pad=1, share=1.0))
    expected = slow(alone)
    assert float(loss.total) == pytest.approx(expected[0], abs=1e-5)
    assert float(loss.figures["accuracy"]) == pytest.approx(expected[1])


def test_a_prompt_whose_rewards_are_all_higher_is_pulled_down() -> None:
    rewards = torch.tensor([[1.0, 0.0], [3.0, 2.0]], requires_grad=True)
    pairwise(rewards)[0].backward()
    assert rewards.grad is not None
    low, high = rewards.grad.sum(1).tolist()
    # of the pairs between prompts, one in four each, the one wrong by 1 outweighs that right by 3
    expected = (torch.tensor(1.0).sigmoid() - torch.tensor(-3.0).sigmoid()) / 4 / 2
    assert high == pytest.approx(float(expected)) and low == pytest.approx(-high)
    assert high > 0, "a step goes against the gradient"


def test_rewards_in_parts_of_like_length_are_those_of_the_whole(tiny_decoder: Decoder) -> None:
    model = Scorer(tiny_decoder.config)
    model.start_from(tiny_decoder, 0)
    lengths = (5, 2, 9, 2, 7, 1, 9)
    batch = ranking_batch([[[6 + n] * n for n in lengths]], pad=1, share=1.0)
    weights = torch.arange(1.0, 1 + len(lengths))
    found: dict[int, tuple[list[float], list[torch.Tensor]]] = {}
    for rows in (1, 3, 100):
        model.zero_grad()
        rewards = rewards_of(model, batch["ids"], batch["last"], rows)
        (rewards * weights).sum().backward()
        gradients = [w.grad.clone() for w in model.parameters() if w.grad is not None]
        found[rows] = (rewards.tolist(), gradients)
    model.zero_grad()
    whole = model(batch["ids"]).gather(1, batch["last"][:, None]).squeeze(1)
    (whole * weights).sum().backward()
    expected = [w.grad for w in model.parameters() if w.grad is not None]
    for rewards_found, gradients in found.values():
        assert rewards_found == pytest.approx(whole.tolist(), abs=1e-5)
        torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


def test_short_rows_are_not_worked_out_to_the_length_of_the_longest(tiny_decoder: Decoder) -> None:
    model = Scorer(tiny_decoder.config)
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    batch = ranking_batch([[[9] * n for n in (2, 30, 3, 2)]], pad=1, share=1.0)
    rewards_of(model, batch["ids"], batch["last"], rows=3)
    assert shapes == [(3, 3), (1, 30)]


def test_calibrated_scores_say_how_many_answers_are_beaten() -> None:
    """Whatever the distribution: here one with a long tail of bad answers."""
    scores = -torch.rand(5000, generator=torch.Generator().manual_seed(0)).log().square()
    marks = torch.tensor(quantiles(scores))
    found = calibrated(scores, marks)
    ranks = scores.argsort().argsort() / (len(scores) - 1)
    torch.testing.assert_close(found, 12**0.5 * (ranks - 0.5), rtol=0, atol=12**0.5 / 100)
    assert float(found.mean()) == pytest.approx(0, abs=1e-3)
    assert float(found.std()) == pytest.approx(1, abs=1e-3)
    beyond = calibrated(torch.tensor([-1e6, 1e6, float(marks[0]), float(marks[-1])]), marks)
    assert beyond.tolist() == pytest.approx([-(3**0.5), 3**0.5] * 2)


def test_between_two_quantiles_the_line_is_straight_and_equal_ones_do_no_harm() -> None:
    marks = torch.tensor([0.0, 1.0, 1.0, 3.0, 7.0])
    share = calibrated(torch.tensor([0.5, 2.0, 1.0, 4.0]), marks) / 12**0.5 + 0.5
    assert share.tolist() == pytest.approx([0.125, 0.625, 0.25, 0.8125])
    assert torch.isfinite(calibrated(torch.zeros(3), torch.zeros(101))).all()
