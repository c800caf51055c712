"""Text that travels between pages: what stands at the edges of a site's pages, and passages said before.

Both are judged over all documents at once, so each comes in two halves: numbers that stand for a document's
lines, small enough to be compared across a whole corpus, and the cut, once it is known which of them recur.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy
from numpy.typing import NDArray

from sishu.corpus.hashing import mix

PASSAGE_LINES = 3
"""Consecutive lines that must all have occurred before, in a row, to be cut."""
LINE_WEIGHT = 40
"""Characters of a line, one of Chinese or Japanese counted as three, from which it is cut even alone, where
that is wanted: about seven words."""
MIN_SITE = 10
"""Pages a site must have for lines they share to count as its template."""

_HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_NON_TRIVIAL = re.compile(r"\w\W*\w\W*\w|[\u3040-\u30ff\u3400-\u9fff]")
_SITE = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)

Hashes = NDArray[numpy.uint64]


def site_of(url: str) -> str:
    """Scheme and host of a URL, empty for a local file."""
    match = _SITE.match(url)
    return match[0].lower() if match else ""


def site_hash(site: str) -> int:
    """A number for a site (or anything else that has a name), 0 for none."""
    return _hash(site) if site else 0


def edge_hashes(text: str, site: str) -> list[int]:
    """Numbers for the first and last three lines with words, each once, together with their site.

    Empty for texts of no site: there a common first line may be a form of the data.
    """
    if not site:
        return []
    lines = text.split("\n")
    return sorted({_edge_hash(site, lines[index]) for index in _edge_lines(lines)})


def shared_edges(sites: Hashes, owners: NDArray[numpy.int64], edges: Hashes) -> Hashes:
    """The edge lines that stand in at least half of their site's texts, if it has ten or more; sorted.

    Args:
        sites: of each text, (texts,), 0 for none.
        owners: the text of each edge line, (lines,).
        edges: as `edge_hashes` gives them, (lines,).
    """
    site, first, pages = numpy.unique(sites, return_inverse=True, return_counts=True)
    line, seen_at, times = numpy.unique(edges, return_index=True, return_counts=True)
    of_site = first[owners[seen_at]]
    common = (pages[of_site] >= MIN_SITE) & (2 * times >= pages[of_site]) & (site[of_site] != 0)
    shared: Hashes = line[common]
    return shared


def without_edges(text: str, site: str, shared: set[int]) -> str:
    """The text without those of its first and last lines that are in `shared`: navigation that survived
    extraction, licences, footers. They are too short for passages, and a model would learn to begin
    everything with them."""
    if site and shared:
        lines = text.split("\n")
        common = {index for index in _edge_lines(lines) if _edge_hash(site, lines[index]) in shared}
        text = "\n".join(line for index, line in enumerate(lines) if index not in common)
    return text.strip("\n")


def passage_hashes(text: str, *, lines: bool = False) -> Hashes:
    """A number for every three consecutive lines, blank and all but wordless lines not counted, and, if
    `lines`, for every long line."""
    rows = text.split("\n")
    keys = numpy.array([_hash(rows[i].strip()) for i in _counted(rows)], numpy.uint64)
    count = max(0, len(keys) - PASSAGE_LINES + 1)
    hashes = numpy.zeros(count, numpy.uint64)
    for offset in range(PASSAGE_LINES):
        hashes = mix(hashes + keys[offset : offset + count] + numpy.uint64(offset + 1))
    if lines:
        alone = [_hash(rows[index].strip()) for index in _long(rows)]
        hashes = numpy.concatenate([hashes, mix(numpy.array(alone, numpy.uint64))])
    return hashes


def without_passages(
    text: str, repeated: Sequence[bool] | NDArray[numpy.bool_], *, lines: bool = False
) -> str:
    """The text without the passages, and lines, marked in `repeated`, in the order of `passage_hashes`.

    Pages of one site repeat their surroundings; API pages also repeat what classes inherit. Such
    text would be learnt by heart and would leak from training to validation.
    """
    if not any(repeated):
        return text
    rows = text.split("\n")
    counted = _counted(rows)
    count = max(0, len(counted) - PASSAGE_LINES + 1)
    removed = bytearray(len(rows))
    for start in numpy.flatnonzero(repeated[:count]):
        first, last = counted[start], counted[start + PASSAGE_LINES - 1]
        removed[first : last + 1] = b"\1" * (last + 1 - first)
    if lines:
        for index, gone in zip(_long(rows), repeated[count:], strict=True):
            removed[index] |= bool(gone)
    kept = "\n".join(row for row, gone in zip(rows, removed, strict=True) if not gone)
    return re.sub(r"\n{4,}", "\n\n\n", kept).strip("\n")


def said_before(hashes: Hashes) -> NDArray[numpy.bool_]:
    """Which numbers occurred earlier in the row."""
    repeated = numpy.ones(len(hashes), bool)
    repeated[numpy.unique(hashes, return_index=True)[1]] = False
    return repeated


def without_own_repeats(text: str) -> str:
    """The text without passages that it has said before itself."""
    return without_passages(text, said_before(passage_hashes(text)))


def _counted(lines: Sequence[str]) -> list[int]:
    return [index for index, line in enumerate(lines) if _NON_TRIVIAL.search(line)]


def _long(lines: Sequence[str]) -> list[int]:
    """Indices of the lines that say enough to be cut alone."""
    return [i for i, line in enumerate(lines) if len(line) + 2 * len(_HAN.findall(line)) >= LINE_WEIGHT]


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


def _edge_hash(site: str, line: str) -> int:
    return _hash(f"{site}\n{line.strip()}")


def _hash(text: str) -> int:
    return int.from_bytes(_digest(text), "little")


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
