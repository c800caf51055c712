"""A glance at the language of a page before its text is taken out, which takes much longer than the glance.

Most of a crawl is in languages that are not wanted. A page of which pieces from all over are surely in one of
those need not be read; whatever leaves doubt is judged by its text (`language.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sishu.corpus.language import identify, is_one_of

PIECES, PIECE = 6, 300
"""Pieces of markup that are looked at, and their characters."""
SURE = 0.9
"""Probability from which a page is refused."""
LEAST = 200
"""Characters without which nothing is sure."""

_DECLARED = re.compile(r"<html\b[^>]{0,1000}?\blang\s*=\s*[\"']?([a-z]{2,3})(?![a-z])", re.IGNORECASE)
_HEAD = 5000
"""Characters in which a page says what language it is in."""
_UNREAD = re.compile(r"<(script|style)\b", re.IGNORECASE)
_TAG = re.compile(r"^[^<>]{0,400}>|<[^>]*>?|&\w+;")


def is_surely_foreign(html: str, wanted: Sequence[str]) -> bool:
    """Whether a page is in none of the languages wanted, as far as pieces of it tell; never of a page that
    says it is in one of them."""
    declared = _DECLARED.search(html[:_HEAD])
    if declared and any(code.partition("-")[0] == declared[1].lower() for code in wanted):
        return False
    body = _read(html)
    pieces = [body]
    if len(body) > PIECES * PIECE:
        step = (len(body) - PIECE) // (PIECES - 1)
        pieces = [body[start : start + PIECE] for start in range(0, PIECES * step, step)]
    text = " ".join(" ".join(_TAG.sub(" ", piece) for piece in pieces).split())
    if len(text) < LEAST:
        return False
    code, score = identify(text)
    return score > SURE and not is_one_of(code, wanted)


def _read(html: str) -> str:
    """The body without scripts and styles."""
    position = max(0, html.find("<body"))
    pieces = []
    while match := _UNREAD.search(html, position):
        pieces.append(html[position : match.start()])
        end = html.find(f"</{match[1]}", match.end())
        if end < 0:
            return "".join(pieces)
        position = end + len(match[1]) + 3
    pieces.append(html[position:])
    return "".join(pieces)
