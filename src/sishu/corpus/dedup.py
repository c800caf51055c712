"""The same text once: exact duplicates, near duplicates, and passages that travel between pages.

All three keep what comes first, so the result depends on the order given and on nothing else; all
hashes are BLAKE2 or arithmetic on it, never Python's seeded `hash`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256

import numpy
from numpy.typing import NDArray

from sishu.corpus.language import is_unsegmented

BANDS, ROWS = 14, 8
"""FineWeb's choice (Penedo et al. 2024, arXiv:2406.17557, appendix E.1): pages of Jaccard
similarity 0.75 are found with probability 0.77, of 0.85 with 0.99, of 0.5 with 0.05."""
SHINGLE = 5
"""Words, or characters of scripts without spaces, in a shingle; FineWeb."""
PASSAGE_LINES = 3
"""Consecutive lines that must all have occurred before, in a row, to be cut."""
MIN_SITE = 10
"""Pages a site must have for lines they share to count as its template."""

_WORD = re.compile(r"\w+")
_NON_TRIVIAL = re.compile(r"\w\W*\w\W*\w|[\u3040-\u30ff\u3400-\u9fff]")
_CHUNK = 4096


def text_digest(text: str) -> str:
    """SHA-256 in hexadecimal over the text without regard to case and white space."""
    return sha256(" ".join(text.lower().split()).encode("utf-8", "replace")).hexdigest()


def first_with_digest(digests: Iterable[str]) -> list[int]:
    """For each text the index of the first with the same digest, which may be its own."""
    first: dict[str, int] = {}
    return [first.setdefault(digest, index) for index, digest in enumerate(digests)]


def cut_page_edges(texts: Sequence[str], sites: Sequence[str]) -> list[str]:
    """The texts without the first and last lines that most pages of their site share.

    Of the first and last three lines with words, those go that stand there in at least half of the
    site's texts, if it has ten or more: navigation that survived extraction, licences, footers.
    They are too short for `PassageFilter`, and a model would learn to begin everything with them.
    Texts of no site ("") stay as they are: there a common first line may be a form of the data.
    """
    edges = [_edge_lines(text.split("\n")) for text in texts]
    total = Counter(sites)
    shared: Counter[tuple[str, str]] = Counter()
    for text, site, edge in zip(texts, sites, edges, strict=True):
        lines = text.split("\n")
        shared.update({(site, lines[index].strip()) for index in edge})
    result = []
    for text, site, edge in zip(texts, sites, edges, strict=True):
        lines = text.split("\n")
        if site and total[site] >= MIN_SITE:
            common = {i for i in edge if 2 * shared[site, lines[i].strip()] >= total[site]}
            lines = [line for index, line in enumerate(lines) if index not in common]
        result.append("\n".join(lines).strip("\n"))
    return result


def _edge_lines(lines: Sequence[str]) -> list[int]:
    """Indices of the first and last `PASSAGE_LINES` lines with words, each once."""
    first: list[int] = []
    last: list[int] = []
    for found, order in ((first, range(len(lines))), (last, range(len(lines) - 1, -1, -1))):
        for index in order:
            if len(found) == PASSAGE_LINES:
                break
            if _NON_TRIVIAL.search(lines[index]):
                found.append(index)
    return sorted({*first, *last})


class PassageFilter:
    """Cuts passages that occurred in an earlier text, or earlier in the same one.

    A passage is three consecutive lines or more, blank and all but wordless lines not counted.
    Pages of one site repeat their surroundings; API pages also repeat what classes inherit. Such
    text would be learnt by heart and would leak from training to validation.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def cut(self, text: str) -> str:
        """The text without repeated passages; then remembers the passages of the whole text."""
        lines = text.split("\n")
        counted = [index for index, line in enumerate(lines) if _NON_TRIVIAL.search(line)]
        keys = [blake2b(lines[i].strip().encode("utf-8", "replace"), digest_size=8).digest() for i in counted]
        removed = bytearray(len(lines))
        for start in range(len(counted) - PASSAGE_LINES + 1):
            key = b"".join(keys[start : start + PASSAGE_LINES])
            if key in self._seen:
                first, last = counted[start], counted[start + PASSAGE_LINES - 1]
                removed[first : last + 1] = b"\1" * (last + 1 - first)
            else:
                self._seen.add(key)
        if not any(removed):
            return text
        kept = "\n".join(line for line, gone in zip(lines, removed, strict=True) if not gone)
        return re.sub(r"\n{4,}", "\n\n\n", kept).strip("\n")


def near_duplicates(texts: Sequence[str]) -> list[int]:
    """For each text the index of the first text of its cluster; its own index if it is to be kept.

    MinHash over shingles (Broder 1997) with locality-sensitive bands; texts that share a band are
    joined, and joined transitively.
    """
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    buckets: list[dict[bytes, int]] = [{} for _ in range(BANDS)]
    words: dict[str, int] = {}
    for index, text in enumerate(texts):
        bands = signature(text, words).reshape(BANDS, ROWS)
        for bucket, band in zip(buckets, bands, strict=True):
            one, other = root(bucket.setdefault(band.tobytes(), index)), root(index)
            parent[max(one, other)] = min(one, other)
    return [root(index) for index in range(len(texts))]


def signature(text: str, words: dict[str, int] | None = None) -> NDArray[numpy.uint32]:
    """MinHash signature of a text, shape (BANDS * ROWS,).

    `words` remembers word hashes between calls; it changes speed only.
    """
    hashes = _shingle_hashes(text, {} if words is None else words)
    smallest = numpy.full(BANDS * ROWS, 0xFFFFFFFF, dtype=numpy.uint32)
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[None, start : start + _CHUNK]
        # Multiply-add-shift (Dietzfelbinger 1996): universal with odd multipliers modulo 2**64.
        mixed = ((chunk * _MULTIPLIERS[:, None] + _ADDENDS[:, None]) >> numpy.uint64(32)).astype(numpy.uint32)
        numpy.minimum(smallest, mixed.min(axis=1), out=smallest)
    return smallest


def _shingle_hashes(text: str, words: dict[str, int]) -> NDArray[numpy.uint64]:
    """64-bit hashes of the different shingles of a text; at least one, even without words."""
    found = _WORD.findall(text.lower())
    if is_unsegmented(text):
        units = numpy.frombuffer("".join(found).encode("utf-32-le", "replace"), dtype="<u4")
        units = units.astype(numpy.uint64)
    else:
        words.update((word, _hash_word(word)) for word in set(found).difference(words))
        units = numpy.fromiter(map(words.__getitem__, found), numpy.uint64, len(found))
    if len(units) < SHINGLE:
        units = numpy.concatenate([units, numpy.zeros(SHINGLE - len(units), numpy.uint64)])
    count = len(units) - SHINGLE + 1
    hashes = numpy.zeros(count, numpy.uint64)
    for offset in range(SHINGLE):
        hashes = mix(hashes + units[offset : offset + count] + numpy.uint64(offset + 1))
    return numpy.unique(hashes)


def mix(values: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit in reaches every bit out."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


def _hash_word(word: str) -> int:
    digest = blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


_RANDOM = numpy.array(
    [_hash_word(f"minhash {number}") for number in range(2 * BANDS * ROWS)], dtype=numpy.uint64
)
_MULTIPLIERS = _RANDOM[: BANDS * ROWS] | numpy.uint64(1)
_ADDENDS = _RANDOM[BANDS * ROWS :]
