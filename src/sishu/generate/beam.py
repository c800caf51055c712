"""Beam search: the likeliest answers among those that a fixed number of beginnings, kept at every step, lead
to. Its rules and scores are those of transformers' `generate(num_beams=…)`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sishu.models.decoder import Decoder


@dataclass(frozen=True)
class Beam:
    """An answer: its tokens, with the one that ended it, and its score, the sum of their log-probabilities
    divided by length ** length_penalty."""

    ids: list[int]
    score: float


@torch.inference_mode()
def beam_search(
    model: Decoder,
    prompt: Sequence[int],
    *,
    beams: int = 4,
    max_tokens: int = 256,
    end_ids: Collection[int] = (),
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
) -> list[Beam]:
    """The `beams` best answers to a prompt of at least one token, the best first.

    `length_penalty` above 0 favours long answers. `early_stopping`: True stops once there are `beams` whole
    answers; False when the best beginning, at its present length, scores no better than the worst of them;
    "never" when it could not even at the length most to its advantage.
    Raises ValueError where the prompt is empty or too long or a number makes no sense.
    """
    context = model.config.context_length
    if not 0 < len(prompt) <= context:
        raise ValueError(f"a prompt of {len(prompt)} tokens; it must have one and at most {context}")
    if beams < 1 or max_tokens < 1:
        raise ValueError(f"{beams} beams of {max_tokens} tokens; both must be 1 or more")
    device, V = model.embedding.weight.device, model.config.vocabulary
    # the last token of an answer is not read, so it may stand behind the context's end
    longest = min(max_tokens, context + 1 - len(prompt))
    # so many that `beams` are left to go on even if every beam ends in every way
    wanted = beams * max(2, 1 + len(set(end_ids)))
    cache = model.new_cache(1, min(context, len(prompt) + longest))
    positions_1T = torch.arange(len(prompt), device=device)[None]
    last_BD = model.hidden(torch.tensor([list(prompt)], device=device), cache.layout(positions_1T))[:, -1]
    answers: list[list[int]] = [[]]
    scores_B = torch.zeros(1, device=device)
    whole: list[Beam] = []
    for length in range(1, longest + 1):
        total_BV = scores_B[:, None] + model.logits(last_BD).float().log_softmax(-1)
        best = total_BV.flatten().topk(min(wanted, total_BV.numel()))
        found = list(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        going: list[tuple[float, int, int]] = []
        for rank, (score, place) in enumerate(found):
            row, token = divmod(place, V)
            if token not in end_ids and length < longest:
                going.append((score, row, token))
            elif rank < beams:
                whole.append(Beam([*answers[row], token], score / length**length_penalty))
        # a stable sort, so that of equal answers the earlier one stays
        whole = sorted(whole, key=lambda beam: -beam.score)[:beams]
        going = going[:beams]
        if not going or _done(whole, going[0][0], beams, length, longest, length_penalty, early_stopping):
            break
        answers = [[*answers[row], token] for _, row, token in going]
        scores_B = torch.tensor([score for score, _, _ in going], device=device)
        cache = cache.rows(torch.tensor([row for _, row, _ in going], device=device))
        ids_B1 = torch.tensor([[token] for _, _, token in going], device=device)
        position_B1 = torch.full_like(ids_B1, len(prompt) + length - 1)
        last_BD = model.hidden(ids_B1, cache.layout(position_B1))[:, -1]
    return whole


def _done(
    whole: Sequence[Beam],
    best: float,
    beams: int,
    length: int,
    longest: int,
    length_penalty: float,
    early_stopping: bool | Literal["never"],
) -> bool:
    """Whether no better answer is to be expected from a best beginning of this score and length."""
    if len(whole) < beams:
        return False
    if early_stopping is True:
        return True
    favourable = longest if early_stopping == "never" and length_penalty > 0 else length
    return bool(best / favourable**length_penalty <= min(beam.score for beam in whole))
