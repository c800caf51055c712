"""Which text is held out for validation: decided by hashes, so it never moves between runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from sishu.corpus.document import Document, document_id

MIN_VALIDATION = 200
"""Characters below which a validation loss would say nothing."""


def split_documents(
    documents: Sequence[Document], held_out: float, group: str = ""
) -> tuple[list[Document], list[Document]]:
    """The documents for training and those for validation, both in the order given.

    A document's group is what `group` captures in its URL, or its URL. A group is held out when
    SHA-256 of its name, read as a number from 0 to 1, is below `held_out`; no seed is involved, so
    a page keeps its side when the corpus grows. Where that leaves a side (nearly) empty, the groups
    with the lowest hashes are held out. Without `group`, and with fewer documents than
    1 / `held_out`, whole documents would be too coarse: then the end of the last texts is held out,
    cut at the end of a line if there is one near.

    Args:
        documents: in a reproducible order; together some 1,000 characters at least.
        held_out: share for validation, above 0 and at most 0.5.
        group: regular expression with one capturing group, or "".
    """
    pattern = re.compile(group) if group else None
    groups: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        groups.setdefault(_key(document.url, pattern), []).append(index)
    if len(groups) < (2 if group else 1 / held_out):
        return _cut_tail(documents, held_out)
    ranked = sorted(groups, key=_rank)
    chosen = [key for key in ranked if _rank(key) < held_out]
    characters = [sum(len(documents[i].text) for i in groups[key]) for key in ranked]
    count = max(1, min(len(chosen), len(ranked) - 1))
    while sum(characters[:count]) < MIN_VALIDATION and count < len(ranked) - 1:
        count += 1
    if min(sum(characters[:count]), sum(characters[count:])) < MIN_VALIDATION:
        return _cut_tail(documents, held_out)
    held = {index for key in ranked[:count] for index in groups[key]}
    return (
        [document for index, document in enumerate(documents) if index not in held],
        [document for index, document in enumerate(documents) if index in held],
    )


def is_held_out(group: str, held_out: float) -> bool:
    """Whether a group falls on the validation side by its hash alone (see `split_documents`)."""
    return _rank(group) < held_out


def _key(url: str, pattern: re.Pattern[str] | None) -> str:
    match = pattern.search(url) if pattern else None
    return (match[1] if match else None) or url


def _rank(key: str) -> float:
    digest = sha256(key.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _cut_tail(documents: Sequence[Document], held_out: float) -> tuple[list[Document], list[Document]]:
    """Holds out the last texts and the end of the one that straddles the border."""
    wanted = max(MIN_VALIDATION, round(held_out * sum(len(d.text) for d in documents)))
    train = list(documents)
    validation: list[Document] = []
    while train and wanted > 0:
        last = train.pop()
        if len(last.text) > wanted:
            border = _border(last.text, len(last.text) - wanted)
            url = f"{last.url}#validation"
            end = replace(last, id=document_id(url), url=url, text=last.text[border:].lstrip("\n"))
            train.append(replace(last, text=last.text[:border].rstrip("\n")))
            validation.append(end)
            break
        validation.append(last)
        wanted -= len(last.text)
    return train, validation[::-1]


def _border(text: str, position: int) -> int:
    """The last line break, or else space, not far before `position`; or else `position` itself."""
    lowest = position - max(1, position // 4)
    for mark in ("\n", " "):
        found = text.rfind(mark, lowest, position)
        if found > 0:
            return found + 1
    return position
