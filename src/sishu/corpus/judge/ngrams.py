"""Texts as runs of words and characters that do not depend on how they were typed, hashed without a loop.

A unit is a word, or one character of a script without spaces; letter case, width, accents, punctuation,
white space and invisible characters do not matter. An n-gram is a run of units of a given weight, in which a
word weighs as much as some two characters: so the same rule holds for English, for Chinese, and for the two
in one sentence, and no language has to be known.

Hashes of runs are differences of prefix sums (Karp and Rabin 1987), modulo 2**64, of mixed values; so a run
costs the same however long it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from sishu.corpus.hashing import mix
from sishu.corpus.judge.language import is_unsegmented

Hashes = NDArray[numpy.uint64]
Places = NDArray[numpy.int64]

BLOCK = 1 << 16
"""Characters looked at together: what is computed for them stays in the processor's cache."""

_BASE = 0x9E3779B97F4A7C15
_BREAK, _LETTER, _DIGIT, _SINGLE, _DROPPED = range(5)
_LAST = 0x32000
"""Code points from here on (tags, private use) are taken for breaks."""
_LOOK_BACK = 1000


@dataclass(frozen=True)
class Scale:
    """What n-grams are measured by: `words` words are as long as `characters` characters of a script
    without spaces."""

    words: int
    characters: int

    @property
    def most_units(self) -> int:
        """In an n-gram of full length."""
        return max(self.words, self.characters)


class Units(NamedTuple):
    """Consecutive units of a text; arrays of the same length."""

    hashes: Hashes
    weights: Places
    """`Scale.characters` for a word, `Scale.words` for a character."""
    starts: Places
    """In characters of the text."""
    ends: Places
    is_number: NDArray[numpy.bool_]

    def tail(self, count: int) -> Units:
        """The last `count` units, or all."""
        at = max(0, len(self.hashes) - count)
        return Units(
            self.hashes[at:], self.weights[at:], self.starts[at:], self.ends[at:], self.is_number[at:]
        )

    def followed_by(self, other: Units) -> Units:
        """These units and the others, which come after them in the text."""
        return Units(
            numpy.concatenate((self.hashes, other.hashes)),
            numpy.concatenate((self.weights, other.weights)),
            numpy.concatenate((self.starts, other.starts)),
            numpy.concatenate((self.ends, other.ends)),
            numpy.concatenate((self.is_number, other.is_number)),
        )


class Grams(NamedTuple):
    """N-grams of some units; arrays of the same length."""

    hashes: Hashes
    firsts: Places
    """Index of the first unit."""
    lasts: Places
    """Index of the last unit."""


def units(text: str, scale: Scale) -> Iterator[Units]:
    """The units of a text, a block at a time; each block begins with the last units of the one before, so
    that every n-gram lies in a block. Time and memory for a block do not depend on what is in it."""
    before: Units | None = None
    start = 0
    while start < len(text):
        end = _border(text, start)
        block = _block_units(text[start:end], start, scale)
        if before is not None:
            block = before.followed_by(block)
        yield block
        before = block.tail(scale.most_units - 1)
        start = end


def grams(block: Units, sizes: Sequence[int], scale: Scale) -> Grams:
    """For each size the runs of units that are as many words long, or as long as that in other units: each
    begins at a unit and ends at the first with which it weighs enough."""
    count = len(block.weights)
    all_ends = [numpy.empty(0, numpy.int64)]
    weight = int(block.weights[0]) if count else 1
    if (block.weights == weight).all():
        for size in sizes:
            all_ends.append(numpy.arange(-(-size * scale.characters // weight), count + 1))
    else:
        sums = numpy.concatenate(([0], block.weights.cumsum()))
        for size in sizes:
            needed = size * scale.characters
            limit = sums.searchsorted(sums[-1] - needed, "right")
            all_ends.append(sums.searchsorted(sums[:limit] + needed))
    firsts = numpy.concatenate([numpy.arange(len(ends)) for ends in all_ends])
    ends = numpy.concatenate(all_ends)
    hash_sums, factors = _hash_sums(block.hashes)
    return Grams(mix((hash_sums[ends] - hash_sums[firsts]) * factors[firsts]), firsts, ends - 1)


def _border(text: str, start: int) -> int:
    """Where a block ends: not within a word, unless that is longer than anything sensible."""
    end = start + BLOCK
    if end >= len(text):
        return len(text)
    for at in range(end, end - _LOOK_BACK, -1):
        if text[at].isspace() or is_unsegmented(text[at]):
            return at
    return end


def _block_units(text: str, offset: int, scale: Scale) -> Units:
    values_of, kind_of, length_of, longer = _tables()
    places: Places | None = None
    if text.isascii():
        codes = numpy.frombuffer(text.encode("ascii"), numpy.uint8).astype(numpy.intp)
        kinds = kind_of[codes]
    else:
        codes = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(numpy.intp)
        codes = numpy.minimum(codes, _LAST)
        lengths = length_of[codes]
        if (lengths != 1).any():
            places = numpy.repeat(numpy.arange(len(codes)), lengths)
            codes = numpy.repeat(codes, lengths)
            for code in set(codes[length_of[codes] > 1].tolist()):
                here = codes == code
                codes[here] = numpy.tile(longer[code], int(here.sum()) // len(longer[code]))
        kinds = kind_of[codes]
    single = kinds == _SINGLE
    word = (kinds == _LETTER) | (kinds == _DIGIT)
    inside = word[1:] & word[:-1]
    is_first, is_last = single | word, single | word
    is_first[1:] &= ~inside
    is_last[:-1] &= ~inside
    firsts, lasts = numpy.flatnonzero(is_first), numpy.flatnonzero(is_last)
    sums, factors = _hash_sums(values_of[codes])
    hashes = mix((sums[lasts + 1] - sums[firsts]) * factors[firsts])
    weights = numpy.where(single[firsts], scale.words, scale.characters)
    is_number = kinds[firsts] == _DIGIT
    if places is not None:
        firsts, lasts = places[firsts], places[lasts]
    return Units(hashes, weights, firsts + offset, lasts + (offset + 1), is_number)


def _hash_sums(values: Hashes) -> tuple[Hashes, Hashes]:
    """Sums and factors: a hash of `values[start:end]`, wherever it stands, is
    `mix((sums[end] - sums[start]) * factors[start])`."""
    powers, inverses = _powers(len(values))
    sums = numpy.zeros(len(values) + 1, numpy.uint64)
    numpy.cumsum(values * powers, out=sums[1:])
    return sums, inverses


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of the base and of its inverse from 0 to `count` - 1, modulo 2**64."""
    size = BLOCK + 1024
    while size < count:
        size *= 2
    powers, inverses = _power_table(size)
    return powers[:count], inverses[:count]


@lru_cache(maxsize=4)
def _power_table(size: int) -> tuple[Hashes, Hashes]:
    tables = []
    for base in (_BASE, pow(_BASE, -1, 2**64)):
        table = numpy.full(size, base, numpy.uint64)
        table[0] = 1
        tables.append(table.cumprod(dtype=numpy.uint64))
    return tables[0], tables[1]


@lru_cache(maxsize=1)
def _tables() -> tuple[Hashes, NDArray[numpy.uint8], NDArray[numpy.uint8], dict[int, list[int]]]:
    """For each code point the value to hash, its kind, how many it stands for, and, if more, which."""
    folded = numpy.arange(_LAST + 1, dtype=numpy.uint64)
    kinds = numpy.full(_LAST + 1, _BREAK, numpy.uint8)
    lengths = numpy.ones(_LAST + 1, numpy.uint8)
    longer: dict[int, list[int]] = {}
    # scripts of one kind in great blocks, given at once as a loop over them would take most of the time
    kinds[0xAC00:0xD7A4] = _LETTER
    kinds[0x3400:0x4DC0] = kinds[0x4E00:0xA000] = kinds[0x20000:_LAST] = _SINGLE
    for code in (*range(0x3400), *range(0xA000, 0xAC00), *range(0xD7A4, 0xD800), *range(0xF900, 0x20000)):
        character = chr(code)
        text = _folded(character)
        if len(text) == 1:
            folded[code] = ord(text)
            kinds[code] = _kind(text)
        elif text:
            lengths[code] = len(text)
            longer[code] = [ord(one) for one in text]
        elif unicodedata.category(character) in ("Mn", "Me", "Cf"):
            kinds[code] = _DROPPED
            lengths[code] = 0
    return mix(folded), kinds, lengths, longer


def _folded(character: str) -> str:
    """Without case, width and accents: Ａ, a and á are one, ﬁ is fi, が is か."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(one for one in text if unicodedata.category(one) not in ("Mn", "Me", "Cf"))


def _kind(character: str) -> int:
    if character.isdigit():
        return _DIGIT
    if not character.isalnum() and unicodedata.category(character) != "Mc":
        return _BREAK
    return _SINGLE if is_unsegmented(character) else _LETTER
