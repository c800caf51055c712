"""Several tokens from one pass of the model: a cheap guess proposes them, the model says how many stand.

Neither way changes what an answer says. A guess that is certain of its tokens (looked up in the text itself)
is checked by drawing the model's own tokens, with the random numbers of their places, and keeping the guess
as far as it agrees: token for token what plain sampling would give. A guess that draws from a distribution
(a smaller model) is checked by the rule of Leviathan et al. 2023 (arXiv:2211.17192), which accepts more and
keeps the distribution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sishu.generate.draws import Draws, seed_of
from sishu.generate.penalties import TokenCounts, penalised
from sishu.generate.sampler import distribution, sample
from sishu.generate.sampling import Sampling
from sishu.models.decoder import Decoder

PROPOSED, ACCEPTED, INSTEAD = 1, 2, 3
"""Lanes of the random numbers (`sishu.generate.draws`): for the draft's token, for whether it stands, for
the one that takes its place."""


def propose_ngram(ids: Sequence[int], count: int, longest: int = 3, shortest: int = 1) -> list[int]:
    """Up to `count` tokens that followed the last tokens of a text when they last stood in it before (prompt
    lookup, Saxena 2023): the longest run of `longest` down to `shortest` tokens that did; perhaps none."""
    ids = list(ids)
    for size in range(min(longest, len(ids) - 1), shortest - 1, -1):
        ending = ids[-size:]
        for at in range(len(ids) - size - 1, -1, -1):
            if ids[at] == ending[0] and ids[at : at + size] == ending:  # the first alone is fast to look at
                return ids[at + size : at + size + count]
    return []


def agreed(proposed: Sequence[int], drawn: Sequence[int]) -> int:
    """How many proposed tokens stand: as far as they are those that the model drew in their places."""
    count = 0
    while count < len(proposed) and proposed[count] == drawn[count]:
        count += 1
    return count


def verify(p_TV: Tensor, q_KV: Tensor, proposed: Sequence[int], draws: Draws, step: int) -> tuple[int, int]:
    """How many of K proposed tokens stand, and the token that follows them.

    `p_TV` (K + 1, V) are the model's probabilities in the places of the proposed tokens and behind them,
    `q_KV` (K, V) those that the tokens were drawn from; `step` is the place of the first. A token x stands
    with probability min(1, p(x) / q(x)); in place of the first that does not, one is drawn from
    max(0, p - q), and behind the last from p (algorithm 1 of the paper).
    Raises ValueError where the shapes do not fit.
    """
    K = len(proposed)
    if len(p_TV) != K + 1 or len(q_KV) != K:
        raise ValueError(f"{K} proposed tokens with {len(p_TV)} and {len(q_KV)} distributions")
    for place, token in enumerate(proposed):
        p, q = float(p_TV[place, token]), float(q_KV[place, token])
        if draws.at(step + place, ACCEPTED) * q >= p:
            rest_V = (p_TV[place] - q_KV[place]).clamp(min=0)
            # rounding may leave nothing where the two are the same
            return place, _drawn(rest_V if rest_V.sum() > 0 else p_TV[place], draws, step + place)
    return K, _drawn(p_TV[K], draws, step + K)


def _drawn(weights_V: Tensor, draws: Draws, step: int) -> int:
    cumulative_V = weights_V.double().cumsum(0)
    wanted = draws.at(step, INSTEAD) * float(cumulative_V[-1])
    return int(torch.searchsorted(cumulative_V, wanted, right=True))


@dataclass
class Speculated:
    """An answer, with the token that ended it, and how the guesses fared."""

    ids: list[int] = field(default_factory=list)
    proposed: int = 0
    accepted: int = 0
    passes: int = 0
    """Passes of the model, that over the prompt included."""


class _Reader:
    """One model and its cache over one text, of which it has read the beginning."""

    def __init__(self, model: Decoder, length: int) -> None:
        self.model = model
        self.cache = model.new_cache(1, length)
        self.read = 0

    def logits(self, ids: Sequence[int], last: int) -> Tensor:
        """Read what is new of the text; logits (last, V) behind its last `last` tokens."""
        device = self.model.embedding.weight.device
        new = torch.tensor([list(ids[self.read :])], device=device)
        positions_1T = torch.arange(self.read, len(ids), device=device)[None]
        x_1TD = self.model.hidden(new, self.cache.layout(positions_1T))
        self.read = len(ids)
        return self.model.logits(x_1TD[0, -last:])

    def back_to(self, length: int) -> None:
        """Forget what stands behind the first `length` tokens; what the cache holds of it is overwritten
        before it is seen."""
        self.read = min(self.read, length)


class SpeculativeDecoder:
    """Generates one answer at a time with a guess of up to `ahead` tokens: a smaller model of the same
    vocabulary where there is a `draft`, what followed the same words before where there is none."""

    def __init__(self, model: Decoder, draft: Decoder | None = None, ahead: int = 4) -> None:
        """Raises ValueError where the two models have different vocabularies."""
        if draft is not None and draft.config.vocabulary != model.config.vocabulary:
            raise ValueError(
                f"the draft has {draft.config.vocabulary} tokens, the model {model.config.vocabulary}"
            )
        self.model, self.draft, self.ahead = model, draft, ahead

    @torch.inference_mode()
    def complete(
        self, prompt: Sequence[int], sampling: Sampling, end_ids: Collection[int] = ()
    ) -> Speculated:
        """An answer to a prompt of at least one token. At temperature 0, and always without a draft, it has
        the tokens that plain sampling with this seed gives (`sishu.generate.sampler.sample`). Raises
        ValueError for an empty or too long prompt or a guide, which has states of its own."""
        context = self.model.config.context_length
        if not 0 < len(prompt) <= context:
            raise ValueError(f"a prompt of {len(prompt)} tokens; it must have one and at most {context}")
        if sampling.guide is not None:
            raise ValueError("speculative decoding here does not follow guides")
        longest = min(sampling.max_tokens, context + 1 - len(prompt))
        length = min(context, len(prompt) + longest)
        draws = Draws(seed_of(sampling.seed))
        target = _Reader(self.model, length)
        draft = None
        if self.draft is not None:
            draft = _Reader(self.draft, min(length, self.draft.config.context_length))
        ends = set(sampling.stop_ids) | (set() if sampling.ignore_end else set(end_ids))
        how = _Way(sampling, draws, tuple(end_ids), TokenCounts(prompt))
        text, answer = list(prompt), Speculated()
        while len(answer.ids) < longest:
            room = min(self.ahead, longest - len(answer.ids) - 1)
            proposed, q_KV = self._propose(draft, text, answer, how, room)
            logits_TV = target.logits([*text, *proposed], len(proposed) + 1)
            answer.passes += 1
            if q_KV is None:
                drawn = how.tokens(logits_TV, proposed, len(answer.ids))
                stood = agreed(proposed, drawn)
                follows = drawn[stood]
            else:
                p_TV = how.distributions(logits_TV, proposed, len(answer.ids))
                stood, follows = verify(p_TV, q_KV, proposed, draws, len(answer.ids))
            answer.proposed += len(proposed)
            answer.accepted += stood
            for token in (*proposed[:stood], follows):
                answer.ids.append(token)
                text.append(token)
                how.counts.add(token)
                if token in ends:
                    return answer
            for reader in (target, draft):
                if reader is not None:
                    reader.back_to(len(text) - 1)
        return answer

    def _propose(
        self, draft: _Reader | None, text: list[int], answer: Speculated, how: _Way, room: int
    ) -> tuple[list[int], Tensor | None]:
        """Tokens that may come next, and the distributions (K, V) that they were drawn from, None where they
        are compared with the model's own."""
        if draft is None:
            return propose_ngram(text, room), None
        proposed: list[int] = []
        rows: list[Tensor] = []
        while len(proposed) < room and len(text) + len(proposed) <= draft.cache.length:
            logits_1V = draft.logits([*text, *proposed], 1)
            step = len(answer.ids) + len(proposed)
            counts = how.after(proposed)
            if how.sampling.greedy:
                proposed += sample(
                    logits_1V, [how.sampling], [0], [step], [counts], None, how.end_ids
                ).tolist()
                continue
            q_1V = distribution(logits_1V, [how.sampling], [step], [counts], None, how.end_ids)
            cumulative_V = q_1V[0].cumsum(0)
            wanted = how.draws.at(step, PROPOSED) * float(cumulative_V[-1])
            proposed.append(int(torch.searchsorted(cumulative_V, wanted, right=True)))
            rows.append(q_1V)
        if how.sampling.greedy or not rows:
            return proposed, None
        return proposed, torch.cat(rows)


@dataclass
class _Way:
    """How the tokens of one answer are chosen."""

    sampling: Sampling
    draws: Draws
    end_ids: tuple[int, ...]
    counts: TokenCounts

    def after(self, proposed: Sequence[int]) -> TokenCounts:
        """The counts once these have been accepted; the present ones where no penalty reads them."""
        if not penalised(self.sampling):
            return self.counts
        counts = self.counts.copy()
        for token in proposed:
            counts.add(token)
        return counts

    def _places(
        self, proposed: Sequence[int], step: int
    ) -> tuple[list[Sampling], list[int], list[TokenCounts]]:
        T = len(proposed) + 1
        counts = [self.after(proposed[:place]) for place in range(T)]
        return [self.sampling] * T, list(range(step, step + T)), counts

    def tokens(self, logits_TV: Tensor, proposed: Sequence[int], step: int) -> list[int]:
        """The tokens that the model draws in the places of the proposed ones and behind them."""
        samplings, steps, counts = self._places(proposed, step)
        seeds = [self.draws.seed] * len(steps)
        drawn: list[int] = sample(logits_TV, samplings, seeds, steps, counts, None, self.end_ids).tolist()
        return drawn

    def distributions(self, logits_TV: Tensor, proposed: Sequence[int], step: int) -> Tensor:
        """Their probabilities (K + 1, V)."""
        samplings, steps, counts = self._places(proposed, step)
        return distribution(logits_TV, samplings, steps, counts, None, self.end_ids)
