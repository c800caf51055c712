"""How likely the model held tokens to be, by its raw distribution, as OpenAI and vLLM report it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sishu.models.decoder import Decoder

CHUNK = 256
"""Positions whose logits are formed at once for a prompt."""


@dataclass(frozen=True)
class LogProbabilities:
    """Natural logarithms of a token's probability and of the most likely ones' in its place."""

    chosen: float
    rank: int
    """How many tokens are more likely, plus 1."""
    top: tuple[tuple[int, float], ...]
    """(token, log-probability), the likeliest first."""


def top_log_probs(logits_BV: Tensor, chosen_B: Tensor, n: int | Sequence[int]) -> list[LogProbabilities]:
    """For each row the chosen token's log-probability and rank and the `n` likeliest tokens, n for all rows
    or one per row. The logits are those that the model gave, before penalties and temperature; float32."""
    B, V = logits_BV.shape
    sizes = [n] * B if isinstance(n, int) else list(n)
    if not B == len(chosen_B) == len(sizes):
        raise ValueError(f"{B} rows of logits, {len(chosen_B)} tokens, {len(sizes)} numbers of alternatives")
    logits_BV = logits_BV.float()
    total_B1 = logits_BV.logsumexp(-1, keepdim=True)
    picked_B1 = logits_BV.gather(1, chosen_B.to(logits_BV.device)[:, None])
    rank_B = (logits_BV > picked_B1).sum(1) + 1
    chosen = (picked_B1 - total_B1)[:, 0].tolist()
    most = min(max(sizes, default=0), V)
    tops: list[list[tuple[int, float]]] = [[]] * B
    if most:
        best_BN, ids_BN = logits_BV.topk(most, dim=1)
        pairs = zip(ids_BN.tolist(), (best_BN - total_B1).tolist(), strict=True)
        tops = [list(zip(ids, values, strict=True)) for ids, values in pairs]
    rows = zip(chosen, rank_B.tolist(), tops, sizes, strict=True)
    return [LogProbabilities(value, rank, tuple(top[:size])) for value, rank, top, size in rows]


@torch.inference_mode()
def following_log_probs(
    model: Decoder, hidden_TD: Tensor, following: Sequence[int], n: int
) -> list[LogProbabilities]:
    """Those of the tokens that follow each state (T, D) that `Decoder.hidden` gave. The logits are formed
    `CHUNK` positions at a time, because those of a long prompt do not fit into memory together."""
    if len(hidden_TD) != len(following):
        raise ValueError(f"{len(hidden_TD)} states for {len(following)} tokens that follow them")
    told = list[LogProbabilities]()
    for at in range(0, len(following), CHUNK):
        next_T = torch.tensor(following[at : at + CHUNK], device=hidden_TD.device)
        told += top_log_probs(model.logits(hidden_TD[at : at + CHUNK]), next_T, n)
    return told
