"""How much of its context a model uses: the loss at every position, and numbers hidden in long texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sishu.console import UserError
from sishu.evaluate.continuations import Continued, log_probs_of
from sishu.generate.batching import BatchingEngine
from sishu.generate.sampling import Sampling
from sishu.models.decoder import Decoder
from sishu.nn.device import Precision
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.held_out import position_losses

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far into a text a number is hidden: 0 is its beginning, 1 its end."""
NEEDLE = "\nThe secret number of the school is {number}. Remember it: {number}.\n"
QUESTION = "\nThe secret number of the school is"
SAID = " {number}."
DIGITS = 5
ANSWER = 16
"""Tokens that the model may go on for; a number beside all other tokens fits."""


def loss_by_position(model: Decoder, rows_NT: Tensor, precision: Precision = "fp32") -> Tensor:
    """Mean cross-entropy in nats over N windows, ids (N, T + 1), of the token behind each of T positions:
    (T,) in float32. Where it goes on falling, what stands far back is of use; where it rises, the model has
    left the positions that it knows (Press et al. 2022, arXiv:2108.12409, figure 1)."""
    return position_losses(model, rows_NT, precision=precision).mean(0)


def binned(losses_T: Tensor, bins: int) -> list[tuple[int, int, float]]:
    """(first position, position behind the last, mean loss) of as many stretches of like length, or of each
    position where there are fewer."""
    edges = [at * len(losses_T) // bins for at in range(bins + 1)]
    spans = [(a, b) for a, b in pairwise(edges) if b > a]
    return [(a, b, float(losses_T[a:b].double().mean())) for a, b in spans]


@dataclass(frozen=True)
class Needle:
    """What a model made of numbers hidden at one depth of texts of one length."""

    length: int
    """Tokens of the texts, question included."""
    depth: float
    trials: int
    hits: float
    """Share of the texts after which the model went on with the number."""
    first: float
    """Share of the texts in which the right number was the likeliest of those compared."""
    share: float
    """Mean probability of the right number among those compared; 1 / how many by chance."""


def needle_grid(
    engine: BatchingEngine,
    haystack_ids: Sequence[int],
    lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS,
    *,
    trials: int = 3,
    others: int = 9,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Needle]:
    """Hide a random number in texts cut from `haystack_ids` (ordinary text of the model's tokenizer, taken as
    a ring), ask for it, and let the model go on greedily; and compare the probability of the right number
    with that of `others`, which tells something of models that do not yet answer (after Kamradt 2023).

    One `Needle` for each length and depth, in that order; `advance` is told how many texts are done. The same
    seed hides the same numbers. Raises UserError for a length that the model does not read, or that has no
    room for question and number.
    """
    tokenizer, found = engine.tokenizer, []
    if not haystack_ids:
        raise UserError("There is no text to hide numbers in: give a longer one.")
    for length in lengths:
        if length > engine.context_length:
            raise UserError(
                f"A text of {length:,} tokens exceeds the model's context of {engine.context_length:,}."
            )
        for depth in depths:
            rng = random.Random(f"{seed}/{length}/{depth}")
            texts = [hidden(tokenizer, haystack_ids, length, depth, others, rng) for _ in range(trials)]
            found.append(_cell(engine, texts, length, depth))
            advance(trials)
    return found


@dataclass(frozen=True)
class Hidden:
    """A prompt in which a number is hidden, and the numbers to choose from, the right one first."""

    prompt: list[int]
    numbers: list[str]
    answers: list[list[int]]
    """Ids of how each would be said."""


def hidden(
    tokenizer: Tokenizer,
    haystack_ids: Sequence[int],
    length: int,
    depth: float,
    others: int,
    rng: random.Random,
) -> Hidden:
    """A text of `length` tokens, with room for the answer, of which a number is part at this depth."""
    low, high = 10 ** (DIGITS - 1), 10**DIGITS
    numbers = [str(n) for n in rng.sample(range(low, high), others + 1)]
    needle, question = tokenizer.encode(NEEDLE.format(number=numbers[0])), tokenizer.encode(QUESTION)
    answers = [_behind(tokenizer, QUESTION, SAID.format(number=n)) for n in numbers]
    begin = tokenizer.begin([])
    room = length - len(begin) - len(needle) - len(question) - max(ANSWER, *map(len, answers))
    if room < 0:
        raise UserError(
            f"A text of {length:,} tokens has no room for a hidden number and its question: it takes "
            f"{length - room:,} at least."
        )
    start, cut = rng.randrange(len(haystack_ids)), round(depth * room)
    hay = [haystack_ids[(start + at) % len(haystack_ids)] for at in range(room)]
    return Hidden([*begin, *hay[:cut], *needle, *hay[cut:], *question], numbers, answers)


def _behind(tokenizer: Tokenizer, before: str, text: str) -> list[int]:
    """Ids of a text as it stands behind another that keeps its own ids."""
    head, whole = tokenizer.encode(before), tokenizer.encode(before + text)
    return whole[len(head) :] if whole[: len(head)] == head else tokenizer.encode(text)


def _cell(engine: BatchingEngine, texts: Sequence[Hidden], length: int, depth: float) -> Needle:
    greedy = Sampling(max_tokens=ANSWER, temperature=0, ignore_end=True)
    went_on = engine.complete([text.prompt for text in texts], greedy)
    hits = sum(text.numbers[0] in said.text for text, said in zip(texts, went_on, strict=True))
    first, share = 0, 0.0
    for text in texts:
        rows = [Continued([*text.prompt, *answer], len(answer)) for answer in text.answers]
        likely = torch.tensor([sum(told) for told in log_probs_of(engine.model, rows)])
        first += int(likely.argmax() == 0)
        share += float(likely.softmax(0)[0])
    count = len(texts)
    return Needle(length, depth, count, hits / count, first / count, share / count)
