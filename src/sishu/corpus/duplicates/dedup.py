"""The same text once: exact duplicates and near duplicates.

Both keep what comes first, so the result depends on the order given and on nothing else; all
hashes are SHA-2, BLAKE2 or arithmetic on them, never Python's seeded `hash`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from sishu.corpus.hashing import mix
from sishu.corpus.judge.language import is_unsegmented


class MinHash(NamedTuple):
    """How near duplicates are looked for. Two texts of Jaccard similarity s are found with the probability
    1 - (1 - s ** rows) ** bands."""

    bands: int = 14
    rows: int = 8
    """Of a band. FineWeb's choice (Penedo et al. 2024, arXiv:2406.17557, appendix E.1): pages of similarity
    0.75 are found with probability 0.77, of 0.85 with 0.99, of 0.5 with 0.05."""
    shingle: int = 5
    """Words, or characters of scripts without spaces, that are compared as one; FineWeb."""


FINEWEB = MinHash()
_WORD = re.compile(r"\w+")
_CHUNK = 4096


def first_of_each(digests: NDArray[numpy.uint64]) -> NDArray[numpy.int64]:
    """For each row, (texts, 2), the number of the first row that is equal to it, which may be its own."""
    order = numpy.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal rows stay in their order
    begins = numpy.ones(len(order), bool)
    begins[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    first = numpy.empty(len(order), numpy.int64)
    first[order] = order[begins][begins.cumsum() - 1]
    return first


def near_duplicates(texts: Sequence[str], how: MinHash = FINEWEB) -> list[int]:
    """For each text the number of the first text of its cluster; its own if it is to be kept.

    MinHash over shingles (Broder 1997) with locality-sensitive bands; texts that share a band are
    joined, and joined transitively.
    """
    words: dict[str, int] = {}
    keys = [band_keys(text, words, how) for text in texts]
    clusters = Clusters(len(texts))
    for band in range(how.bands):
        clusters.join(numpy.array([one[band] for one in keys], numpy.uint64))
    first: list[int] = clusters.first.tolist()
    return first


class Clusters:
    """Things that are the same because they share a key, or are both the same as a third."""

    def __init__(self, count: int) -> None:
        self.first: NDArray[numpy.int64] = numpy.arange(count, dtype=numpy.int64)
        """(things,) number of the first of each one's cluster."""

    def join(self, keys: NDArray[numpy.uint64]) -> None:
        """Joins all that have the same key, (things,)."""
        order = numpy.argsort(keys, kind="stable")
        same = numpy.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        one, other = order[same], order[same + 1]
        first = self.first
        while True:
            # The lower number of the two goes to both their firsts, until no pair is apart.
            a, b = first[one], first[other]
            apart = a != b
            if not apart.any():
                return
            one, other, a, b = one[apart], other[apart], a[apart], b[apart]
            numpy.minimum.at(first, numpy.maximum(a, b), numpy.minimum(a, b))
            while not numpy.array_equal(further := first[first], first):
                first[:] = further


def band_keys(
    text: str, words: dict[str, int] | None = None, how: MinHash = FINEWEB
) -> NDArray[numpy.uint64]:
    """One number for each band of the text's signature, (bands,); different bands never agree by chance."""
    rows = signature(text, words, how).reshape(how.bands, how.rows).astype(numpy.uint64)
    keys = numpy.arange(1, how.bands + 1, dtype=numpy.uint64)
    for row in rows.T:
        keys = mix(keys + row)
    return keys


def signature(
    text: str, words: dict[str, int] | None = None, how: MinHash = FINEWEB
) -> NDArray[numpy.uint32]:
    """MinHash signature of a text, shape (bands * rows,).

    `words` remembers word hashes between calls; it changes speed only.
    """
    hashes = _shingle_hashes(text, {} if words is None else words, how.shingle)
    multipliers, addends = _functions(how.bands * how.rows)
    smallest = numpy.full(len(multipliers), 0xFFFFFFFF, dtype=numpy.uint32)
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[None, start : start + _CHUNK]
        # Multiply-add-shift (Dietzfelbinger 1996): universal with odd multipliers modulo 2**64.
        mixed = ((chunk * multipliers + addends) >> numpy.uint64(32)).astype(numpy.uint32)
        numpy.minimum(smallest, mixed.min(axis=1), out=smallest)
    return smallest


def _shingle_hashes(text: str, words: dict[str, int], shingle: int) -> NDArray[numpy.uint64]:
    """64-bit hashes of the different shingles of a text; at least one, even without words."""
    found = _WORD.findall(text.lower())
    if is_unsegmented(text):
        units = numpy.frombuffer("".join(found).encode("utf-32-le", "replace"), dtype="<u4")
        units = units.astype(numpy.uint64)
    else:
        words.update((word, _hash_word(word)) for word in set(found).difference(words))
        units = numpy.fromiter(map(words.__getitem__, found), numpy.uint64, len(found))
    if len(units) < shingle:
        units = numpy.concatenate([units, numpy.zeros(shingle - len(units), numpy.uint64)])
    count = len(units) - shingle + 1
    hashes = numpy.zeros(count, numpy.uint64)
    for offset in range(shingle):
        hashes = mix(hashes + units[offset : offset + count] + numpy.uint64(offset + 1))
    hashes.sort()  # numpy.unique does the same with a table, which for millions takes seventy times as long
    different = numpy.ones(count, bool)
    different[1:] = hashes[1:] != hashes[:-1]
    return hashes[different]


def _hash_word(word: str) -> int:
    digest = blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@lru_cache(maxsize=4)
def _functions(count: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
    """Multipliers and addends of so many hash functions, (count, 1) each."""
    names = [_hash_word(f"minhash {number}") for number in range(2 * count)]
    random = numpy.array(names, dtype=numpy.uint64)[:, None]
    return random[:count] | numpy.uint64(1), random[count:]
