"""Which text is held out for validation: decided by hashes, so it never moves between runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from sishu.corpus.document import Document, document_id

TAIL = "#validation"
"""What the URL of a document's held-out end has behind the document's own."""
MIN_VALIDATION = 200
"""Characters below which a validation loss would say nothing."""


class Split(NamedTuple):
    """Who is held out, and where the text of one document is cut."""

    held_out: NDArray[numpy.bool_]
    """(documents,) whether a document is for validation."""
    tail: int
    """Of the document before the first held out one, characters at its end that are held out too; 0: none."""


def split_documents(
    documents: Sequence[Document], held_out: float, group: str = ""
) -> tuple[list[Document], list[Document]]:
    """The documents for training and those for validation, both in the order given; see `split`."""
    pattern = re.compile(group) if group else None
    ranks = numpy.array([group_rank(document.url, pattern) for document in documents], numpy.uint64)
    lengths = numpy.array([len(document.text) for document in documents], numpy.int64)
    chosen = split(ranks, lengths, held_out, grouped=bool(group))
    train = [d for d, held in zip(documents, chosen.held_out, strict=True) if not held]
    validation = [d for d, held in zip(documents, chosen.held_out, strict=True) if held]
    if chosen.tail:
        last, end = cut_tail(train.pop(), chosen.tail)
        train.append(last)
        validation.insert(0, end)
    return train, validation


def split(
    ranks: NDArray[numpy.uint64], lengths: NDArray[numpy.int64], held_out: float, *, grouped: bool
) -> Split:
    """Chooses the documents for validation.

    A group is held out when its rank, read as a number from 0 to 1, is below `held_out`; no seed is
    involved, so a page keeps its side when the corpus grows. Where that leaves a side (nearly) empty, the
    groups of the lowest ranks are held out. Without groups, and with fewer documents than 1 / `held_out`,
    whole documents would be too coarse: then the end of the last texts is held out.

    Args:
        ranks: of the documents' groups, by `group_rank`, in a reproducible order; (documents,).
        lengths: characters of each; together some 1,000 at least; (documents,).
        held_out: share for validation, above 0 and at most 0.5.
        grouped: whether a group is more than a document.
    """
    groups, group = numpy.unique(ranks, return_inverse=True)
    if len(groups) < (2 if grouped else 1 / held_out):
        return _tail(lengths, held_out)
    upto = numpy.bincount(group, weights=lengths).cumsum()
    count = max(1, min(int((groups / 2.0**64 < held_out).sum()), len(groups) - 1))
    while upto[count - 1] < MIN_VALIDATION and count < len(groups) - 1:
        count += 1
    if min(upto[count - 1], upto[-1] - upto[count - 1]) < MIN_VALIDATION:
        return _tail(lengths, held_out)
    return Split(group < count, 0)


def group_rank(url: str, pattern: re.Pattern[str] | None) -> int:
    """The first 8 bytes of SHA-256 of what `pattern` captures in a URL, or of the URL."""
    match = pattern.search(url) if pattern else None
    return _rank((match[1] if match else None) or url)


def is_held_out(group: str, held_out: float) -> bool:
    """Whether a group falls on the validation side by its hash alone (see `split`)."""
    return _rank(group) / 2**64 < held_out


def cut_tail(document: Document, tail: int) -> tuple[Document, Document]:
    """The document without about so many characters at its end, and these as another; cut at the end of a
    line if there is one near."""
    border = _border(document.text, len(document.text) - tail)
    url = document.url + TAIL
    end = replace(document, id=document_id(url), url=url, text=document.text[border:].lstrip("\n"))
    return replace(document, text=document.text[:border].rstrip("\n")), end


def _rank(key: str) -> int:
    return int.from_bytes(sha256(key.encode("utf-8", "replace")).digest()[:8], "big")


def _tail(lengths: NDArray[numpy.int64], held_out: float) -> Split:
    """The last texts and the end of the one that straddles the border."""
    wanted = max(MIN_VALIDATION, round(held_out * int(lengths.sum())))
    held = numpy.zeros(len(lengths), bool)
    for index in range(len(lengths) - 1, -1, -1):
        if lengths[index] > wanted:
            return Split(held, wanted)
        held[index] = True
        wanted -= int(lengths[index])
        if wanted <= 0:
            break
    return Split(held, 0)


def _border(text: str, position: int) -> int:
    """The last line break, or else space, not far before `position`; or else `position` itself."""
    lowest = position - max(1, position // 4)
    for mark in ("\n", " "):
        found = text.rfind(mark, lowest, position)
        if found > 0:
            return found + 1
    return position
