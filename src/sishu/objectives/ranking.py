"""Learning a reward from ranked answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.models.decoder import Scorer
from sishu.objectives.loss import Loss


def pairwise(rewards_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of -log σ(r_better - r_worse) over all pairs of columns, which are ranked best first (Ouyang et
    al. 2022, arXiv:2203.02155, equation 1), and the share of a prompt's own pairs in the right order.

    Half of the mean is over each prompt's own pairs; in the other half the better answer may be to one prompt
    and the worse to another: a documented answer is better than a broken one whatever was asked. Rankings
    within prompts say nothing about the level of a prompt's rewards; left free, it differs between prompts by
    more than answers do, which is noise to who learns from them.
    """
    better, worse = torch.triu_indices(rewards_BK.shape[1], rewards_BK.shape[1], offset=1)
    margins_BBP = rewards_BK[:, None, better] - rewards_BK[None, :, worse]
    own_PB = margins_BBP.diagonal()
    loss = -0.5 * (F.logsigmoid(own_PB).mean() + F.logsigmoid(margins_BBP).mean())
    return loss, (own_PB.detach() > 0).float().mean()


def rewards_of(model: Scorer, ids_BT: Tensor, last_B: Tensor, rows: int = 32) -> Tensor:
    """The reward (B,) of each row, read at `last_B`; `rows` of like length at a time, so that short rows
    are not worked out to the length of the longest."""
    order_B = last_B.argsort(stable=True)
    parts = []
    for some in torch.split(order_B, rows):
        length = int(last_B[some].max()) + 1
        parts.append(model(ids_BT[some, :length]).gather(1, last_B[some, None]).squeeze(1))
    return torch.cat(parts)[order_B.argsort()]


def quantiles(scores: Tensor, count: int = 101) -> list[float]:
    """Scores that divide these into `count` - 1 equal parts, from the least to the greatest."""
    return [float(q) for q in torch.quantile(scores.double(), torch.linspace(0, 1, count).double())]


def calibrated(scores_B: Tensor, quantiles_Q: Tensor) -> Tensor:
    """√12 (F - ½), where F is the share of the answers behind the quantiles that score less, (B,): of these
    answers the mean is 0 and the deviation 1, and no score is beyond ±√3.

    What a ranking loss learns is the order of answers; how far apart they lie is a matter of how easily told
    they were in training, so that a few broken answers make most of the deviation and good ones lie close
    together. Calibrated by the reference policy's answers (Balashankar et al. 2024, arXiv:2412.19792), a
    reward says how many of them an answer beats.
    """
    above_B = torch.searchsorted(quantiles_Q, scores_B.contiguous()).clamp(1, len(quantiles_Q) - 1)
    low_B, high_B = quantiles_Q[above_B - 1], quantiles_Q[above_B]
    within_B = ((scores_B - low_B) / (high_B - low_B).clamp(min=1e-9)).clamp(0, 1)
    return 12**0.5 * ((above_B - 1 + within_B) / (len(quantiles_Q) - 1) - 0.5)


class Ranking:
    """The objective: all pairs of ranks, between all prompts of a step."""

    def together(self, model: Scorer, batches: Sequence[Batch]) -> list[Batch]:
        """The micro-batches of a step with the slope of its loss at each of their rewards, which all of them
        decide: read once beforehand, then gone back through micro-batch by micro-batch (Gao et al. 2021,
        arXiv:2101.06983)."""
        if len(batches) == 1:
            return list(batches)
        with torch.no_grad():
            parts = [_rewards(model, batch) for batch in batches]
        with torch.enable_grad():
            leaves = [part.requires_grad_() for part in parts]
            loss, accuracy = pairwise(torch.cat(leaves))
            slopes = torch.autograd.grad(loss, leaves)
        whole = {"loss": loss.detach(), "accuracy": accuracy}
        return [
            replace(b, tensors={**b.tensors, **whole, "slopes": own / b.share})
            for b, own in zip(batches, slopes, strict=True)
        ]

    def __call__(self, model: Scorer, batch: Batch) -> Loss:
        """`ids` (B·K, T) in rank order within each prompt and `last` (B·K,), K from the batch's kind; where
        `together` was asked, the loss is that of the whole step."""
        rewards_BK = _rewards(model, batch)
        if "slopes" not in batch.tensors:
            loss, accuracy = pairwise(rewards_BK)
            return Loss(loss, {"loss": loss.detach(), "accuracy": accuracy})
        along = (rewards_BK * batch["slopes"]).sum()
        loss = along + (batch["loss"] - along).detach()  # the step's value, this micro-batch's gradient
        return Loss(loss, {"loss": batch["loss"], "accuracy": batch["accuracy"]})


def _rewards(model: Scorer, batch: Batch) -> Tensor:
    """Rewards (B, K) of a micro-batch's prompts."""
    return rewards_of(model, batch["ids"], batch["last"]).view(-1, int(batch.kind.rsplit(" ", 1)[1]))
