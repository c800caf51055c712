"""Choosing the next token: pure functions on logits."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from sishu.generate.guide import Guide

COLDEST = 1e-5
"""Temperatures below this are 0: logits divided by less overflow float32."""
BAN = -100.0
"""The logit bias that excludes a token; OpenAI's scale goes from here to the same above 0."""
RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 0, math.inf),
    ("temperature", 0, sys.float_info.max),
    ("top_k", 0, math.inf),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("min_tokens", 0, math.inf),
    ("n", 1, math.inf),
    ("log_probs", 0, math.inf),
    ("prompt_log_probs", 0, math.inf),
)
"""Smallest and largest value of the fields; the penalties' are OpenAI's."""


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
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082)."""
    presence_penalty: float = 0.0
    """Taken once from the logit of every token of the completion so far (OpenAI's definition)."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit as often as it stands in the completion (OpenAI's definition)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, number added to its logit); `BAN` or less excludes the token."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the answer beside the model's own."""
    ignore_end: bool = False
    """Go on after the model's own end tokens; `stop_ids` still end the answer."""
    min_tokens: int = 0
    """No token that ends the answer is drawn before there are this many."""
    n: int = 1
    """Answers to one prompt, each with draws of its own."""
    log_probs: int | None = None
    """Tell each token's log-probability, and those of this many most likely ones in its place."""
    prompt_log_probs: int | None = None
    """The same of the prompt's tokens."""
    guide: Guide | None = None
    """What form the answer must have (`sishu.generate.structured`)."""

    def __post_init__(self) -> None:
        """Raises ValueError, one sentence, for a value that means nothing."""
        for name, least, most in RANGES:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is in no range
                raise ValueError(f"{name} is {value}; it must be {_between(least, most)}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0, not infinite"
            )
        for token, bias in self.logit_bias:
            if token < 0:
                raise ValueError(f"logit_bias names token {token}; a token is 0 or more")
            if not abs(bias) <= -BAN:
                raise ValueError(
                    f"logit_bias gives token {token} the bias {bias}; it must be from {BAN:g} to {-BAN:g}"
                )
        if any(token < 0 for token in self.stop_ids):
            raise ValueError(f"stop_ids holds {min(self.stop_ids)}; a token is 0 or more")
        if "" in self.stop:
            raise ValueError("stop holds an empty string, which would end every answer before it begins")

    def check(self, vocabulary: int) -> None:
        """Raises ValueError where this names tokens that a model of `vocabulary` tokens lacks."""
        for name, tokens in (
            ("logit_bias", [token for token, _ in self.logit_bias]),
            ("stop_ids", list(self.stop_ids)),
        ):
            if max(tokens, default=0) >= vocabulary:
                raise ValueError(f"{name} names token {max(tokens)}; the last token is {vocabulary - 1}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, with no draw."""
        return self.temperature < COLDEST


def _between(least: float, most: float) -> str:
    return f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"


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
