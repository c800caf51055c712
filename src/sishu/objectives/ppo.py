"""Proximal policy optimisation with a value model (Schulman et al. 2017, arXiv:1707.06347), as used for
language models by Stiennon et al. 2020 (arXiv:2009.01325) and Ouyang et al. 2022 (arXiv:2203.02155).

Positions are those of predictions: entry t of a (B, T - 1) tensor belongs to the token at t + 1, and `mask`
is true where that token is part of the completion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sishu.batches.batch import Batch
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.language import distributions, divergences, entropies, next_token, taken
from sishu.objectives.loss import Loss


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the entries where `mask` is true."""
    return x[mask].mean()


def whiten(x: Tensor, mask: Tensor, shift: bool = True) -> Tensor:
    """Scale masked entries to variance 1, and to mean 0 when `shift`; others become 0."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift else white + mean) * mask


def token_rewards(scores_B: Tensor, mask: Tensor) -> Tensor:
    """The score of each completion at its last token, 0 at all others: (B, T - 1)."""
    last = mask.shape[1] - 1 - mask.long().flip(1).argmax(1)
    return torch.zeros(mask.shape, dtype=scores_B.dtype, device=mask.device).scatter(
        1, last[:, None], scores_B[:, None]
    )


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv:1506.02438) and returns, (B, T - 1)."""
    result = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        next_value = values[:, t + 1] * mask[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        result[:, t] = following
    return result, (result + values) * mask


def policy_loss(
    log_p: Tensor, old_log_p: Tensor, advantage: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate, mean over completion tokens, and the figures that tell whether masks and
    log-probabilities are right: `ratio`, `approxkl` (½ E[(Δ log p)²]) and `clipfrac`."""
    difference = log_p - old_log_p
    ratio = difference.exp()
    losses = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))
    figures = {
        "ratio": masked_mean(ratio.detach(), mask),
        "ratio_deviation": (ratio.detach() - 1).abs()[mask].max(),
        "approxkl": 0.5 * masked_mean(difference.detach() ** 2, mask),
        "clipfrac": masked_mean(((ratio.detach() - 1).abs() > clip).float(), mask),
    }
    return masked_mean(losses, mask), figures


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """½ squared error with the prediction kept within `clip` of the old one, the worse of the two."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (near - returns) ** 2), mask)


class AdaptiveKL:
    """A coefficient β that holds the divergence from the reference near a target (Ziegler et al. 2019,
    arXiv:1909.08593, section 2.2)."""

    def __init__(self, coefficient: float, target: float, horizon: int) -> None:
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """`kl` in nats per answer, measured over `episodes` answers."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * episodes / self.horizon


class ActorCritic(nn.Module):
    """The policy and the value model, trained together."""

    def __init__(self, policy: Decoder, value: Scorer) -> None:
        super().__init__()
        self.policy, self.value = policy, value


class PPO:
    """The objective for rollouts, and for pretraining tokens (PPO-ptx).

    The divergence from the reference is a term of the loss, worked out over the whole vocabulary at every
    token of an answer. As a reward, which is how the source papers have it, it is an estimate from the token
    drawn, and a small model pays for that noise with more divergence for the same reward.
    """

    def __init__(
        self,
        clip: float,
        value_coefficient: float,
        temperature: float,
        reference: Decoder,
        control: AdaptiveKL,
    ) -> None:
        self.clip, self.value_coefficient, self.temperature = (
            clip,
            value_coefficient,
            temperature,
        )
        self.reference, self.control = reference, control

    def __call__(self, model: ActorCritic, batch: Batch) -> Loss:
        """A rollout batch holds ids (B, T) and mask, log_p, values, advantages, returns (B, T - 1)."""
        if batch.kind == "tokens":
            loss = next_token(model.policy, batch)
            return Loss(loss.total, {"ptx_loss": loss.figures["loss"]})
        ids, mask = batch["ids"], batch["mask"]
        value = value_loss(model.value(ids[:, :-1]), batch["values"], batch["returns"], mask, self.clip)
        log_p_NV = distributions(model.policy, ids, mask, self.temperature)
        with torch.no_grad():
            reference_NV = distributions(self.reference, ids, mask, self.temperature)
        log_p = taken(log_p_NV, ids, mask)
        policy, figures = policy_loss(log_p, batch["log_p"], batch["advantages"], mask, self.clip)
        divergence = divergences(log_p_NV, reference_NV).mean()
        figures |= {
            "policy_loss": policy.detach(),
            "value_loss": value.detach(),
            "entropy": entropies(log_p_NV.detach()).mean(),
        }
        total = policy + self.control.coefficient * divergence + self.value_coefficient * value
        return Loss(total, figures)
