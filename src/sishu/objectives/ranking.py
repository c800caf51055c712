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


def ranking(model: Scorer, batch: Batch) -> Loss:
    """`ids` (B·K, T) in rank order within each prompt and `last` (B·K,), K from the batch's kind."""
    answers = int(batch.kind.rsplit(" ", 1)[1])
    rewards = model(batch["ids"]).gather(1, batch["last"][:, None]).view(-1, answers)
    loss, accuracy = pairwise(rewards)
    return Loss(loss, {"loss": loss.detach(), "accuracy": accuracy})
