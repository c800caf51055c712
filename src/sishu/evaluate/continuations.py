"""How likely a model holds given continuations of a prompt to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sishu.batches.batch import pad_right
from sishu.models.decoder import Decoder
from sishu.nn.cache import StaticCache
from sishu.tokenizer.tokenizer import Tokenizer

POSITIONS, PIECE = 8192, 512
"""Positions that the rows read at once may hold together, and tokens of a beginning read in one pass."""


class Continued(NamedTuple):
    """The ids of a prompt with what follows, and how many of them, at the end, are to be judged."""

    ids: list[int]
    judged: int


def continued(tokenizer: Tokenizer, prompt: str, continuation: str) -> Continued:
    """Ids of a whole text of a prompt and its continuation. They are encoded together, as they stood in the
    texts that the model learnt from; judged is what the prompt alone would not have begun with."""
    whole, alone = tokenizer.encode(prompt + continuation), tokenizer.encode(prompt)
    shared = common_length([whole, alone])
    return Continued(tokenizer.begin(whole), len(whole) - shared)


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    # in the order of words in a dictionary: those between begin like both
    first, last = min(map(list, rows)), max(map(list, rows))
    alike = (a == b for a, b in zip(first, last, strict=False))
    return next((at for at, same in enumerate(alike) if not same), min(len(first), len(last)))


@torch.inference_mode()
def log_probs_of(model: Decoder, texts: Sequence[Continued]) -> list[list[float]]:
    """The natural logarithm of the probability of each judged token, given all before it, for every text.

    What all texts begin with is read once, whatever their number, and the rest in batches. Raises ValueError
    for a text longer than the model's context, or with no token before those judged.
    """
    context = model.config.context_length
    for ids, judged in texts:
        if len(ids) > context + 1:
            raise ValueError(f"a text of {len(ids)} tokens exceeds the context of {context}")
        if judged >= len(ids):
            raise ValueError("a continuation needs at least one token before it")
    asked = [place for place, text in enumerate(texts) if text.judged]
    if not asked:
        return [[] for _ in texts]
    rows = [texts[place].ids for place in asked]
    head = min(common_length(rows), min(len(texts[place].ids) - texts[place].judged for place in asked) - 1)
    together = max(1, POSITIONS // max(map(len, rows)))
    dtype = model.norm.weight.dtype if isinstance(model.norm.weight, Tensor) else None
    begun = _read(model, rows[0][:head], dtype) if head else None
    # the last token is judged, not read: labels of one token behind one question are one row
    alike: dict[tuple[int, ...], list[int]] = {}
    for place in asked:
        alike.setdefault(tuple(texts[place].ids[head:-1]), []).append(place)
    rests = sorted(alike, key=len)  # rows of like lengths together
    found: dict[int, list[float]] = {}
    for at in range(0, len(rests), together):
        some = rests[at : at + together]
        states_BTD = _states(model, some, head, begun, dtype)
        for x_TD, rest in zip(states_BTD, some, strict=True):
            for place in alike[rest]:
                found[place] = _judge(model, x_TD[: len(rest)], texts[place])
    return [found.get(place, []) for place in range(len(texts))]


def _read(model: Decoder, ids: Sequence[int], dtype: torch.dtype | None) -> StaticCache:
    """The keys and values of a beginning."""
    device = model.embedding.weight.device
    cache = model.new_cache(1, len(ids), dtype)
    for at in range(0, len(ids), PIECE):
        piece = torch.tensor([ids[at : at + PIECE]], device=device)
        model.hidden(piece, cache.layout(torch.arange(at, at + piece.shape[1], device=device)[None]))
    return cache


def _states(
    model: Decoder,
    rests: Sequence[Sequence[int]],
    head: int,
    begun: StaticCache | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Last states (B, T, D) of texts that go on with `rests` behind a beginning of `head` tokens."""
    device = model.embedding.weight.device
    cache = model.new_cache(len(rests), head + max(map(len, rests)), dtype)
    if begun is not None:
        for new, old in zip((*cache.keys, *cache.values), (*begun.keys, *begun.values), strict=True):
            new[:, :, : head + 1] = old
    ids_BT = pad_right([list(rest) for rest in rests], 0).to(device)
    places_BT = torch.arange(head, head + ids_BT.shape[1], device=device).expand(ids_BT.shape)
    lengths_B1 = torch.tensor([[len(rest)] for rest in rests], device=device)
    return model.hidden(ids_BT, cache.layout(places_BT.where(places_BT - head < lengths_B1, -1)))


def _judge(model: Decoder, x_TD: Tensor, text: Continued) -> list[float]:
    """The log-probabilities of the judged tokens, of which the last follows the last state."""
    targets_N1 = torch.tensor(text.ids[-text.judged :], device=x_TD.device)[:, None]
    log_p_NV = model.logits(x_TD[-text.judged :]).float().log_softmax(-1)
    told: list[float] = log_p_NV.gather(1, targets_N1)[:, 0].tolist()
    return told
