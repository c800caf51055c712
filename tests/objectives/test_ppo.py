"""PPO's arithmetic against slow loops, and what must hold at the old policy."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.language import log_probabilities
from sishu.objectives.ppo import (
    PPO,
    ActorCritic,
    AdaptiveKL,
    advantages,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)

SPANS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=4
)  # (prompt, completion) lengths of the rows


def masks(spans: list[tuple[int, int]]) -> Tensor:
    longest = max(a + b for a, b in spans)
    place = torch.arange(longest)
    return torch.stack([(place >= a) & (place < a + b) for a, b in spans])


def noise(mask: Tensor, seed: int) -> Tensor:
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SPANS, st.sampled_from([1.0, 0.9]), st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.integers(0, 9))
@settings(deadline=None)
def test_advantages_are_the_textbooks(
    spans: list[tuple[int, int]], gamma: float, lam: float, seed: int
) -> None:
    """Â_t = Σ (γλ)^l δ_{t+l}, written out as the sum it is, over the completion only."""
    mask = masks(spans)
    rewards, values = noise(mask, seed), noise(mask, seed + 100)
    ours, returns = advantages(rewards * mask, values * mask, mask, gamma, lam)
    for row, (start, length) in enumerate(spans):
        end = start + length
        for t in range(mask.shape[1]):
            if not start <= t < end:
                assert ours[row, t] == 0 and returns[row, t] == 0
                continue
            total = 0.0
            for at in range(t, end):
                following = float(values[row, at + 1]) if at + 1 < end else 0.0
                delta = float(rewards[row, at]) + gamma * following - float(values[row, at])
                total += (gamma * lam) ** (at - t) * delta
            assert float(ours[row, t]) == pytest.approx(total, abs=1e-9)
            assert float(returns[row, t]) == pytest.approx(total + float(values[row, t]), abs=1e-9)


@given(SPANS, st.integers(0, 9))
@settings(deadline=None)
def test_values_outside_the_completion_do_not_leak(spans: list[tuple[int, int]], seed: int) -> None:
    mask = masks(spans)
    rewards, values = noise(mask, seed), noise(mask, seed + 1)
    clean = advantages(rewards * mask, values * mask, mask, 1.0, 0.95)
    dirty = advantages(torch.where(mask, rewards, 7.0), torch.where(mask, values, 9.0), mask, 1.0, 0.95)
    torch.testing.assert_close(clean, dirty)


def test_whitening() -> None:
    mask = masks([(2, 5), (0, 3), (4, 1)])
    x = 5 + 3 * noise(mask, 0)
    white = whiten(x, mask)
    assert float(white[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(white[mask].std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert (white[~mask] == 0).all()
    scaled = whiten(x, mask, shift=False)
    assert float(scaled[mask].mean()) == pytest.approx(float(x[mask].mean()))
    assert torch.isfinite(whiten(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))).all()
    assert float(masked_mean(x, mask)) == pytest.approx(float(x[mask].mean()))


def test_the_score_comes_with_the_last_token() -> None:
    mask = masks([(2, 3), (0, 1), (1, 5)])
    expected = torch.zeros(mask.shape, dtype=torch.float64)
    expected[0, 4], expected[1, 0], expected[2, 5] = 10, 20, 30
    scores = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(token_rewards(scores, mask), expected)


def test_at_the_old_policy_nothing_is_clipped() -> None:
    mask = masks([(1, 4), (0, 6)])
    log_p, advantage = noise(mask, 0), noise(mask, 1)
    loss, figures = policy_loss(log_p, log_p.clone(), advantage, mask, 0.2)
    assert float(figures["ratio"]) == 1.0 and float(figures["ratio_deviation"]) == 0.0
    assert float(figures["approxkl"]) == 0.0 and float(figures["clipfrac"]) == 0.0
    assert float(loss) == pytest.approx(-float(advantage[mask].mean()))


@pytest.mark.parametrize(
    ("shift", "advantage", "learns"),
    [(0.5, 1.0, False), (0.5, -1.0, True), (-0.5, 1.0, True), (-0.5, -1.0, False), (0.1, 1.0, True)],
)
def test_beyond_the_trust_region_there_is_no_gradient(shift: float, advantage: float, learns: bool) -> None:
    old = torch.tensor([[-2.0]])
    log_p = (old + shift).requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss, figures = policy_loss(log_p, old, torch.tensor([[advantage]]), mask, 0.2)
    loss.backward()
    expected = -advantage * float(torch.tensor(shift).exp()) if learns else 0.0
    assert log_p.grad is not None and float(log_p.grad) == pytest.approx(expected, abs=1e-6)
    assert float(figures["clipfrac"]) == (abs(float(torch.tensor(shift).exp()) - 1) > 0.2)
    assert float(figures["approxkl"]) == pytest.approx(shift**2 / 2, abs=1e-6)


def test_positions_outside_the_mask_have_no_say() -> None:
    mask = masks([(2, 2), (0, 3)])
    log_p, old, advantage = (noise(mask, i) for i in range(3))
    base = policy_loss(log_p, old, advantage, mask, 0.2)
    again = policy_loss(
        torch.where(mask, log_p, 50.0), torch.where(mask, old, 0.0), advantage.where(mask, 1e3), mask, 0.2
    )
    torch.testing.assert_close(base, again)


@pytest.mark.parametrize(
    ("value", "returns", "loss", "gradient"),
    [
        (0.1, 1.0, 0.405, -0.9),  # within the clip: the plain squared error
        (0.5, 1.0, 0.32, 0.0),  # moved too far towards the return: clipped at 0.2, nothing to gain
        (0.5, -1.0, 1.125, 1.5),  # moved away from the return: the worse of the two, which still learns
    ],
)
def test_value_clipping(value: float, returns: float, loss: float, gradient: float) -> None:
    new = torch.tensor([[value]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    ours = value_loss(new, torch.zeros(1, 1), torch.tensor([[returns]]), mask, 0.2)
    ours.backward()
    assert float(ours.detach()) == pytest.approx(loss)
    assert new.grad is not None and float(new.grad) == pytest.approx(gradient, abs=1e-6)


def test_the_objective_serves_both_kinds_of_batch(tiny_decoder: Decoder) -> None:
    value = Scorer(tiny_decoder.config)
    value.start_from(tiny_decoder, 0)
    models = ActorCritic(tiny_decoder, value)
    ids = torch.randint(6, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = masks([(3, 5), (2, 6)])
    with torch.no_grad():
        log_p, _ = log_probabilities(tiny_decoder, ids, 0.7)
        values = value(ids[:, :-1])
    tensors = {"ids": ids, "mask": mask, "log_p": log_p, "values": values}
    advantage = noise(mask, 0).float() * mask
    batch = Batch(tensors | {"advantages": advantage, "returns": values + 1}, 1.0, "rollouts")
    objective = PPO(0.2, 0.5, 0.7, copy.deepcopy(tiny_decoder), AdaptiveKL(0.1, 1.0, 10))
    loss = objective(models, batch)
    assert float(loss.figures["ratio_deviation"]) < 1e-5 and float(loss.figures["clipfrac"]) == 0
    assert float(loss.figures["value_loss"]) == pytest.approx(0.5, abs=1e-5)
    assert float(loss.total.detach()) == pytest.approx(-float(advantage[mask].mean()) + 0.25, abs=1e-4)
    tokens = Batch({"ids": ids[:, :-1], "targets": ids[:, 1:]}, 1.0, "tokens")
    expected = -float(log_probabilities(tiny_decoder, ids)[0].detach().mean())
    assert float(objective(models, tokens).figures["ptx_loss"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kl", "factor"), [(2.0, 1.0), (2.2, 1.01), (100.0, 1.02), (1.8, 0.99), (-5.0, 0.98)]
)
def test_the_coefficient_follows_the_divergence(kl: float, factor: float) -> None:
    """β ← β (1 + K clip(kl / target - 1, ±0.2)), K = episodes / horizon."""
    control = AdaptiveKL(0.05, target=2.0, horizon=1000)
    control.update(kl, episodes=100)
    assert control.coefficient == pytest.approx(0.05 * factor)


def test_the_divergence_is_a_term_of_the_loss(tiny_decoder: Decoder) -> None:
    """β times the mean over an answer's tokens of KL(policy ‖ reference), as torch works it out; β is the
    controller's of the moment, and what the reference thinks is no one's to learn from."""
    value = Scorer(tiny_decoder.config)
    value.start_from(tiny_decoder, 0)
    models, reference = ActorCritic(tiny_decoder, value), copy.deepcopy(tiny_decoder)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    ids = torch.randint(6, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = masks([(3, 5), (2, 6)])
    with torch.no_grad():
        p, q = ((m(ids[:, :-1]) / 0.7).log_softmax(-1)[mask] for m in (tiny_decoder, reference))
        tensors = {"log_p": log_probabilities(tiny_decoder, ids, 0.7)[0], "values": value(ids[:, :-1])}
    expected = float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))
    batch = Batch(
        tensors | {"ids": ids, "mask": mask, "advantages": mask * 0.0, "returns": tensors["values"]},
        1.0,
        "rollouts",
    )
    control = AdaptiveKL(0.3, 1e-9, 10)
    objective = PPO(0.2, 0.5, 0.7, reference, control)
    loss = objective(models, batch).total
    assert expected > 0.01 and float(loss.detach()) == pytest.approx(0.3 * expected, rel=1e-3)
    control.update(1.0, episodes=10)
    assert float(objective(models, batch).total.detach()) == pytest.approx(0.3 * 1.2 * expected, rel=1e-3)
    loss.backward()
    assert all(weight.grad is None for weight in reference.parameters())
    assert any(bool(weight.grad.any()) for weight in tiny_decoder.parameters() if weight.grad is not None)
