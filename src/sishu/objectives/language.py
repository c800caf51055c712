"""Next-token prediction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sishu.batches.batch import IGNORED, Batch
from sishu.models.decoder import Decoder
from sishu.nn.layout import Layout
from sishu.objectives.cross_entropy import head_cross_entropy
from sishu.objectives.loss import Loss


def next_token(model: Decoder, batch: Batch) -> Loss:
    """Mean cross-entropy in nats over targets that are not ignored.

    `ids` and `targets` are (B, T), and so is `documents` where there is one: then each document of a row, by
    its number there, sees itself alone. The logits of ignored positions are never computed, and never those
    of all others at once.
    """
    documents = batch["documents"] if "documents" in batch.tensors else None
    mean, losses_N = _cross_entropy(model, batch["ids"], batch["targets"], documents)
    return Loss(mean, {"loss": losses_N.mean()})


def next_token_of_bytes(bytes_per_token: float) -> Callable[[Decoder, Batch], Loss]:
    """`next_token` with the figure `bits_per_byte` as well, for text that has so many UTF-8 bytes a token."""

    def objective(model: Decoder, batch: Batch) -> Loss:
        loss = next_token(model, batch)
        bits = loss.figures["loss"] / (math.log(2) * bytes_per_token)
        return Loss(loss.total, {**loss.figures, "bits_per_byte": bits})

    return objective


@torch.no_grad()
def token_losses(
    model: Decoder, ids_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None = None
) -> Tensor:
    """Cross-entropy of every counted target in nats, float32, in row order (N,); without a gradient. For
    `documents_BT` see `next_token`."""
    return _cross_entropy(model, ids_BT, targets_BT, documents_BT)[1]


def _cross_entropy(
    model: Decoder, ids_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    counted = targets_BT != IGNORED
    layout = None if documents_BT is None else Layout.packed(documents_BT)
    x_BTD = model.hidden(ids_BT, layout)
    return head_cross_entropy(x_BTD[counted], model.head_weight, targets_BT[counted])


def distributions(
    model: Decoder, ids_BT: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities over the vocabulary at the N positions of a boolean `mask` (B, T - 1), in row order,
    or at all of them: (N, V), float32. These are the largest tensors there are."""
    if mask is None:
        mask = torch.ones_like(ids_BT[:, 1:], dtype=torch.bool)
    x_ND = model.hidden(ids_BT[:, :-1])[mask]
    return (model.logits(x_ND).float() / temperature).log_softmax(-1)


def taken(log_p_NV: Tensor, ids_BT: Tensor, mask: Tensor) -> Tensor:
    """The log-probability that `distributions` at `mask` give the token that follows: (B, T - 1), else 0."""
    taken_N = log_p_NV.gather(-1, ids_BT[:, 1:][mask][:, None]).squeeze(-1)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, taken_N)


def entropies(log_p_NV: Tensor) -> Tensor:
    """Entropy of each distribution in nats, (N,)."""
    return -(log_p_NV.exp() * log_p_NV).sum(-1)


def divergences(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """KL(p ‖ q) of each pair of distributions in nats, (N,): exact, where log p - log q of the token drawn is
    an estimate."""
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def log_probabilities(
    model: Decoder, ids_BT: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of every next token and the entropy of its distribution in nats, both (B, T - 1); with
    a `mask` only its positions are worked out, and the others are 0."""
    if mask is None:
        mask = torch.ones_like(ids_BT[:, 1:], dtype=torch.bool)
    log_p_NV = distributions(model, ids_BT, mask, temperature)
    zeros = torch.zeros(mask.shape, device=mask.device)
    return taken(log_p_NV, ids_BT, mask), zeros.masked_scatter(mask, entropies(log_p_NV.detach()))
