"""A vocabulary of characters: every character of a text is one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from sishu.console import UserError
from sishu.tokenizer.byte_level import BYTE_OF, written
from sishu.tokenizer.chat import SPECIAL_TOKENS
from sishu.tokenizer.guard import open_tokenizer
from sishu.tokenizer.patterns import QWEN2
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.vocabularies import byte_level_json

BYTES_AND_SPECIAL = 256 + len(SPECIAL_TOKENS)


def character_tokenizer(texts: Iterable[str], vocabulary: int | None = None) -> Tokenizer:
    """Code points of the texts as tokens, the most frequent ones where more than `vocabulary` tokens would be
    needed; those that are left out, and those never seen, become bytes of their UTF-8 or parts of it.

    It is a byte-level BPE whose merges put the bytes of characters together: ASCII needs none, and a Chinese
    character one for its first two bytes, which its neighbours share, and one for itself. No byte begins one
    character and goes on with another, so no merge reaches beyond a character, and however text is cut
    before, the ids are the same: other software may do it in its own way.

    Raises UserError when `vocabulary` cannot hold the bytes and the special tokens.
    """
    if vocabulary is not None and vocabulary < BYTES_AND_SPECIAL:
        raise UserError(f"tokenizer.vocabulary is {vocabulary}; it must be at least {BYTES_AND_SPECIAL}.")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    room = None if vocabulary is None else vocabulary - BYTES_AND_SPECIAL
    kept: set[bytes] = set()
    for character, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        new = set(_beginnings(character)) - kept
        if room is None or len(kept) + len(new) <= room:
            kept |= new
    made = sorted(kept, key=lambda part: (len(part), part))
    tokens = [*SPECIAL_TOKENS, *sorted(BYTE_OF), *map(written, made)]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = [(written(part[:-1]), written(part[-1:])) for part in made]
    special = {token: ids[token] for token in SPECIAL_TOKENS}
    text = byte_level_json(ids, merges, [QWEN2], special)
    return Tokenizer(open_tokenizer(text, "The vocabulary of characters"))


def _beginnings(character: str) -> Iterator[bytes]:
    """The first two bytes of a character, the first three, and so on to all; of ASCII nothing."""
    data = character.encode()
    return (data[:end] for end in range(2, len(data) + 1))
