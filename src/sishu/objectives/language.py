"""Next-token prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.batches.batch import IGNORED, Batch
from sishu.models.decoder import Decoder
from sishu.objectives.loss import Loss


def next_token(model: Decoder, batch: Batch) -> Loss:
    """Mean cross-entropy in nats over targets that are not ignored.

    `ids` and `targets` are (B, T); the logits of ignored positions are never computed.
    """
    losses = token_losses(model, batch["ids"], batch["targets"])
    return Loss(losses.mean(), {"loss": losses.detach().mean()})


def token_losses(model: Decoder, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy of every counted target in nats, float32, in row order (N,)."""
    counted = targets_BT != IGNORED
    x_ND = model.hidden(ids_BT)[counted]
    return F.cross_entropy(model.logits(x_ND).float(), targets_BT[counted], reduction="none")


def log_probabilities(
    model: Decoder, ids_BT: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of every next token and the entropy of its distribution in nats, both (B, T - 1).

    With a boolean `mask` (B, T - 1) only its positions are worked out, and the others are 0: the
    distributions over the vocabulary are the largest tensors there are.
    """
    if mask is None:
        mask = torch.ones_like(ids_BT[:, 1:], dtype=torch.bool)
    x_ND = model.hidden(ids_BT[:, :-1])[mask]
    log_p_NV = (model.logits(x_ND).float() / temperature).log_softmax(-1)
    taken_N = log_p_NV.gather(-1, ids_BT[:, 1:][mask][:, None]).squeeze(-1)
    entropy_N = -(log_p_NV.detach().exp() * log_p_NV.detach()).sum(-1)
    zeros = torch.zeros(mask.shape, device=mask.device)
    return zeros.masked_scatter(mask, taken_N), zeros.masked_scatter(mask, entropy_N)
