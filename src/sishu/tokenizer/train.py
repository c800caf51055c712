"""Learning a byte-level BPE vocabulary (Sennrich et al. 2016, arXiv:1508.07909) from text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import rustbpe  # type: ignore[import-untyped]  # it ships no types
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from sishu.console import UserError
from sishu.tokenizer.byte_level import BYTE_OF, OWN_PATTERN, split_by, written
from sishu.tokenizer.chat import SPECIAL_TOKENS
from sishu.tokenizer.guard import open_tokenizer
from sishu.tokenizer.patterns import patterns_named
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.vocabularies import byte_level_json, merges_of

SMALLEST = 256 + len(SPECIAL_TOKENS)
LARGE = 16_000_000
"""Characters from which on the faster trainer learns. Both merge the most frequent pair first; they differ in
which of two equally frequent pairs comes first, so a vocabulary learnt from less stays what it always was."""


def train_bpe(texts: Iterable[str], vocabulary: int, pattern: str | None = None) -> Tokenizer:
    """Merge the most frequent pairs until there are `vocabulary` tokens, or no pair occurs twice.

    `pattern` is the name of a way to cut text that llama.cpp knows, such as "qwen2" or "gpt-4o" (see
    `sishu.tokenizer.patterns`), for a vocabulary that a GGUF file can carry; ours when not given.

    Raises UserError when `vocabulary` cannot hold the 256 bytes and the special tokens, or for a name that is
    not known or means more than one pattern.
    """
    if vocabulary < SMALLEST:
        raise UserError(f"tokenizer.vocabulary is {vocabulary}; it must be at least {SMALLEST}.")
    patterns = (OWN_PATTERN,) if pattern is None else patterns_named(pattern)
    if patterns is None or len(patterns) != 1:
        raise UserError(f"{pattern!r} is not the name of a single pattern: take qwen2, llama-bpe or gpt-4o.")
    beginning: list[str] = []
    size = 0
    rest = iter(texts)
    for text in rest:
        beginning.append(text)
        size += len(text)
        if size >= LARGE:
            return _train_large(chain(beginning, rest), vocabulary, patterns[0])
    return _train_small(beginning, vocabulary, patterns[0])


def _train_small(texts: list[str], vocabulary: int, pattern: str) -> Tokenizer:
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = split_by([pattern])
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return Tokenizer(fast)


def _train_large(texts: Iterator[str], vocabulary: int, pattern: str) -> Tokenizer:
    """More than twice as fast; a text this large never runs out of pairs that occur twice."""
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(texts, vocabulary - len(SPECIAL_TOKENS), pattern=pattern)
    ranks = {bytes(token): rank for token, rank in learner.get_mergeable_ranks()}
    merges, _ = merges_of(ranks)
    # ids as the other trainer gives them: special tokens, bytes by their characters, merges as they came
    tokens = [*SPECIAL_TOKENS, *sorted(BYTE_OF), *(written(left + right) for left, right in merges)]
    ids = {token: index for index, token in enumerate(tokens)}
    text = byte_level_json(
        ids,
        [(written(left), written(right)) for left, right in merges],
        [pattern],
        {token: ids[token] for token in SPECIAL_TOKENS},
    )
    return Tokenizer(open_tokenizer(text, "The vocabulary just learnt"))
