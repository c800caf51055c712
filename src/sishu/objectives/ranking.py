"""Learning a reward from ranked answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.models.decoder import Scorer
from sishu.objectives.loss import Loss


def pairwise(rewards_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of -log σ(r_better - r_worse) over all K(K-1)/2 pairs of each row, and the share of pairs in
    the right order; columns are ranked best first (Ouyang et al. 2022, arXiv:2203.02155, equation 1)."""
    better, worse = torch.triu_indices(rewards_BK.shape[1], rewards_BK.shape[1], offset=1)
    margins = rewards_BK[:, better] - rewards_BK[:, worse]
    return -F.logsigmoid(margins).mean(), (margins.detach() > 0).float().mean()


def rewards_of(model: Scorer, ids_BT: Tensor, last_B: Tensor, rows: int = 32) -> Tensor:
    """The reward (B,) of each row, read at `last_B`; `rows` of like length at a time, so that short rows
    are not worked out to the length of the longest."""
    order_B = last_B.argsort(stable=True)
    parts = []
    for some in torch.split(order_B, rows):
        length = int(last_B[some].max()) + 1
        parts.append(model(ids_BT[some, :length]).gather(1, last_B[some, None]).squeeze(1))
    return torch.cat(parts)[order_B.argsort()]


class Ranking:
    """The objective: all pairs of each prompt, and `centring` times the squared mean of its rewards.

    A ranking says nothing about the level of a prompt's rewards; left free, the level differs between
    prompts by as much as answers do, which is noise to whatever learns from the rewards. The second term
    holds it near 0 (Eisenstein et al. 2023, arXiv:2312.09244, section 3).
    """

    def __init__(self, centring: float = 0.0) -> None:
        self.centring = centring

    def __call__(self, model: Scorer, batch: Batch) -> Loss:
        """`ids` (B·K, T) in rank order within each prompt and `last` (B·K,), K from the batch's kind."""
        answers = int(batch.kind.rsplit(" ", 1)[1])
        rewards = rewards_of(model, batch["ids"], batch["last"]).view(-1, answers)
        loss, accuracy = pairwise(rewards)
        level = rewards.mean(1).square().mean()
        return Loss(
            loss + self.centring * level,
            {"loss": loss.detach(), "accuracy": accuracy, "level": level.detach().sqrt()},
        )
