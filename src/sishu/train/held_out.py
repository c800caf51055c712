"""How well a model predicts text it never saw, in units that do not depend on the tokenizer."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.batches.batch import IGNORED
from sishu.batches.tokens import Ids
from sishu.models.decoder import Decoder
from sishu.nn.device import Precision, autocast
from sishu.nn.layout import Layout
from sishu.objectives.language import token_losses

TOGETHER, CHUNK = 4096, 512
"""Tokens read at once, and positions whose logits are formed at once, where every position is looked at."""


@torch.no_grad()
def held_out_nats(
    model: Decoder,
    tokens: Ids,
    bos: int,
    *,
    stride: int,
    precision: Precision,
    batch: int = 16,
    separate: bool = False,
) -> tuple[float, int]:
    """Summed cross-entropy in nats over a row of documents, and how many tokens it counts.

    Windows of the model's context start every `stride` tokens and each token counts once, in the first
    window that reaches it, so a stride below the context gives every token at least context - stride
    tokens of past (the very first ones aside). Document starts are context, not targets. With `separate` no
    document sees another.
    """
    if len(tokens) < 2:
        return 0.0, 0
    length = min(model.config.context_length, len(tokens) - 1)
    starts = list(range(0, max(1, len(tokens) - length - 1 + stride), stride))
    rows, targets, reached = [], [], 1
    for start in (min(s, len(tokens) - length - 1) for s in starts):
        window = np.asarray(tokens[start : start + length + 1]).astype(np.int64)
        target = window[1:].copy()
        target[: max(0, reached - start - 1)] = IGNORED
        target[target == bos] = IGNORED
        reached = start + length + 1
        rows.append(torch.from_numpy(window[:-1]))
        targets.append(torch.from_numpy(target))
    device = model.embedding.weight.device
    nats, count = 0.0, 0
    for i in range(0, len(rows), batch):
        ids, wanted = (
            torch.stack(rows[i : i + batch]),
            torch.stack(targets[i : i + batch]),
        )
        documents = (ids == bos).cumsum(1).to(device) if separate else None
        with autocast(device, precision):
            losses = token_losses(model, ids.to(device), wanted.to(device), documents)
        nats += float(losses.double().sum())
        count += losses.numel()
    return nats, count


@torch.no_grad()
def position_losses(model: Decoder, rows_NT: Tensor, *, precision: Precision) -> Tensor:
    """Cross-entropy in nats of each token behind the first, given those before it: ids (N, T + 1) -> (N, T)
    in float32 on the CPU. Positions count from 0 and may go beyond the model's context, which shows what it
    makes of those it was not trained on; learnt positions have no such and raise IndexError."""
    device, length = model.embedding.weight.device, rows_NT.shape[1] - 1
    losses = torch.empty(len(rows_NT), length)
    together = max(1, TOGETHER // max(1, length))
    for at in range(0, len(rows_NT), together):
        ids_BT = rows_NT[at : at + together].to(device)
        with autocast(device, precision):
            x_BTD = model.hidden(ids_BT[:, :-1], Layout.plain(length, device))
            for begin in range(0, length, CHUNK):
                targets_BT = ids_BT[:, begin + 1 : begin + 1 + CHUNK]
                logits_BTV = model.logits(x_BTD[:, begin : begin + CHUNK]).float()
                nats_BT = F.cross_entropy(logits_BTV.mT, targets_BT, reduction="none")
                losses[at : at + together, begin : begin + CHUNK] = nats_BT.cpu()
    return losses


def bits_per_byte(nats: float, size: int) -> float:
    """Nats over a text of `size` UTF-8 bytes, as bits per byte."""
    return nats / math.log(2) / size
