"""Choosing the next token: pure functions on logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-5
"""Temperatures below this are 0: logits divided by less overflow float32."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop."""

    max_tokens: int = 256
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    """Keep only this many most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities reach this sum
    (Holtzman et al. 2020, arXiv:1904.09751)."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens already present (Keskar et al. 2019)."""
    seed: int | None = None
    """Fixes the choice; None draws a fresh seed."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are not part of it."""


def adjust(logits_BV: Tensor, sampling: Sampling, seen_BV: Tensor | None = None) -> Tensor:
    """Logits after penalty, temperature, top-k and top-p, in float32; excluded tokens are -inf.

    `seen_BV` is a boolean mask of tokens already in the text, used by the repetition penalty.
    """
    logits = logits_BV.float()
    if sampling.repetition_penalty != 1.0 and seen_BV is not None:
        penalty = sampling.repetition_penalty
        logits = torch.where(seen_BV, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature >= COLDEST:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, order, ordered)
    return logits


def choose(
    logits_BV: Tensor,
    sampling: Sampling,
    draws_B: Tensor,
    seen_BV: Tensor | None = None,
) -> Tensor:
    """One token per row, (B,): where the row's draw, uniform on [0, 1), falls in the adjusted cumulative
    distribution, or the most likely token at temperature 0."""
    logits = adjust(logits_BV, sampling, seen_BV)
    if sampling.temperature < COLDEST:
        return logits.argmax(-1)
    cumulative = logits.softmax(-1).double().cumsum(-1)
    draws = draws_B.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, draws, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
