"""What is done to logits because of what the text already holds, and because of single tokens: penalties,
biases, tokens that must not come yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sishu.generate.sampling import BAN, Sampling


class TokenCounts:
    """Which tokens one text holds: each once, with how often it stands in the completion. Adding a token
    takes constant time, so that no step goes over the text again."""

    def __init__(self, prompt: Iterable[int] = (), completion: Iterable[int] = ()) -> None:
        self._place = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        self._ids = np.fromiter(self._place, np.int64, len(self._place))
        self._times = np.zeros(len(self._ids), np.float32)
        for token in completion:
            self.add(token)

    def add(self, token: int) -> None:
        """Note a token of the completion."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            grown = max(64, 2 * place)
            self._ids = np.pad(self._ids, (0, grown - place))
            self._times = np.pad(self._times, (0, grown - place))
        if self._times[place] == 0:
            self._ids[place] = token
        self._times[place] += 1

    def copy(self) -> TokenCounts:
        """Counts that go their own way from here."""
        other = TokenCounts()
        other._place, other._ids, other._times = self._place.copy(), self._ids.copy(), self._times.copy()
        return other

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """The tokens of prompt and completion, each once."""
        return self._ids[: len(self._place)]

    @property
    def times(self) -> npt.NDArray[np.float32]:
        """How often each of `ids` stands in the completion; 0 for one of the prompt alone."""
        return self._times[: len(self._place)]


def penalised(sampling: Sampling) -> bool:
    """Whether what was said before has a say, so that counts are needed."""
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


def penalise(logits_BV: Tensor, samplings: Sequence[Sampling], counts: Sequence[TokenCounts]) -> None:
    """In place, each row by its own penalties: first the repetition penalty on tokens of prompt and
    completion (Keskar et al. 2019, arXiv:1909.05858), then frequency and presence penalties on those of the
    completion (OpenAI's definitions)."""
    V = logits_BV.shape[1]
    rows = [row for row, sampling in enumerate(samplings) if penalised(sampling)]
    if not rows:
        return
    sizes = [len(counts[row].ids) for row in rows]
    # all rows' tokens in one list, so that the cost does not grow with the number of calls
    places = np.concatenate([counts[row].ids + row * V for row in rows])
    times = np.concatenate([counts[row].times for row in rows])
    strengths = np.array(
        [
            (s.repetition_penalty, s.frequency_penalty, s.presence_penalty)
            for s in (samplings[row] for row in rows)
        ],
        np.float32,
    )
    repetition, frequency, presence = np.repeat(strengths, sizes, axis=0).T
    device = logits_BV.device
    at = torch.from_numpy(places).to(device)
    flat = logits_BV.view(-1)
    found = flat[at]
    strength = torch.from_numpy(np.ascontiguousarray(repetition)).to(device)
    found = torch.where(found > 0, found / strength, found * strength)
    found -= torch.from_numpy(frequency * times + presence * (times > 0)).to(device)
    flat[at] = found


def bias(logits_BV: Tensor, samplings: Sequence[Sampling]) -> None:
    """In place: add each row's logit biases; one of `BAN` excludes its token."""
    rows, tokens, amounts = [], [], []
    for row, sampling in enumerate(samplings):
        for token, amount in sampling.logit_bias:
            rows.append(row)
            tokens.append(token)
            amounts.append(-torch.inf if amount <= BAN else amount)
    if rows:
        at = (torch.tensor(rows, device=logits_BV.device), torch.tensor(tokens, device=logits_BV.device))
        added = torch.tensor(amounts, dtype=logits_BV.dtype, device=logits_BV.device)
        logits_BV.index_put_(at, added, accumulate=True)


def not_yet(
    logits_BV: Tensor, samplings: Sequence[Sampling], steps: Sequence[int], end_ids: Sequence[int]
) -> None:
    """In place: exclude what ends the answer from rows that have fewer than `min_tokens` tokens, unless
    nothing else is left to a row that has a guide."""
    for row, (sampling, step) in enumerate(zip(samplings, steps, strict=True)):
        if step >= sampling.min_tokens:
            continue
        ends = [*sampling.stop_ids, *(() if sampling.ignore_end else end_ids)]
        if not ends:
            continue
        kept = logits_BV[row, ends]
        logits_BV[row, ends] = -torch.inf
        if sampling.guide is not None and bool(logits_BV[row].max() == -torch.inf):
            logits_BV[row, ends] = kept
