"""A glance at the language of a page before its text is taken out, which takes much longer than the glance.

Most of a crawl is in languages that are not wanted. A page of which pieces from all over are surely in one of
those need not be read; whatever leaves doubt is judged by its text (`language.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from resiliparse.parse.lang import detect_fast

from sishu.corpus.judge.language import cut_pieces, identify, is_one_of

PIECES, PIECE = 8, 400
"""Pieces of markup that are looked at, and their characters; twice as many where little of them is text."""
MOST = 800
"""Characters of their text that are looked at closely, if the letters alone do not tell."""
SURE = 0.9
"""Probability from which a page is refused."""
LEAST = 200
"""Characters without which nothing is sure."""
NEAR, AHEAD = 500, 50
"""How far a text may be from a language, and how much further it must be from all others, for its commonest
letters alone to tell. With these no page of 5,532 was lost that any of 13 languages would have had."""
FEW, MANY = 0.01, 0.5
"""Share of characters of other scripts than Latin between which a text is taken for a mixed one."""

_DECLARED = re.compile(r"<html\b[^>]{0,1000}?\blang\s*=\s*[\"']?([a-z]{2,3})(?![a-z])", re.IGNORECASE)
_HEAD = 5000
"""Characters in which a page says what language it is in."""
_UNREAD = re.compile(r"<(script|style)\b", re.IGNORECASE)
_BEYOND_LATIN = re.compile("[^\\x00-\u036f\u1e00-\u1eff\u2000-\u206f]")
_NO_CUTOFF = 1_000_000
_TAG = re.compile(r"^[^<>]{0,400}>|<[^>]*>?|&\w+;")


def is_surely_foreign(html: str, wanted: Sequence[str]) -> bool:
    """Whether a page is in none of the languages wanted, as far as pieces of it tell; never of a page that
    says it is in one of them."""
    declared = _DECLARED.search(html[:_HEAD])
    if declared and any(code.partition("-")[0] == declared[1].lower() for code in wanted):
        return False
    body = _read(html)
    text = _text(body, PIECE)
    if len(text) < 2 * LEAST:
        text = _text(body, 2 * PIECE)
    if len(text) < LEAST:
        return False
    at_once = _at_once(text, tuple(code.partition("-")[0] for code in wanted))
    if at_once is not None:
        return at_once
    code, score = identify(cut_pieces(text, MOST, PIECES))
    return score > SURE and not is_one_of(code, wanted)


def _text(body: str, size: int) -> str:
    """What is no tag in pieces from all over the body."""
    pieces = [body]
    if len(body) > PIECES * size:
        step = (len(body) - size) // (PIECES - 1)
        pieces = [body[start : start + size] for start in range(0, PIECES * step, step)]
    return " ".join(" ".join(_TAG.sub(" ", piece) for piece in pieces).split())


def _at_once(text: str, wanted: tuple[str, ...]) -> bool | None:
    """Whether a text is foreign by resiliparse's profiles of languages, which takes a twentieth of the time;
    None where these leave doubt."""
    if not _have_profiles(wanted):
        return None
    (best, rank), (_, second) = _ranked(text, 2)
    if best in wanted:
        return False if second - rank > AHEAD else None
    # English words, of code and menus, are on pages in any language.
    if best == "en" or rank >= NEAR or _is_mixed(text):
        return None
    [(_, nearest)] = _ranked(text, 1, wanted)
    return True if nearest - rank > AHEAD else None


def _ranked(text: str, number: int, codes: Sequence[str] | None = None) -> list[tuple[str, int]]:
    """The nearest languages, all or of these, and how far each is from the text."""
    found = detect_fast(text, cutoff=_NO_CUTOFF, n_results=number, langs=codes)
    return found if isinstance(found, list) else [found]


@lru_cache(maxsize=8)
def _have_profiles(codes: tuple[str, ...]) -> bool:
    return all(_ranked("text", 1, [code])[0][0] == code for code in codes)


def _is_mixed(text: str) -> bool:
    if text.isascii():
        return False
    return FEW < len(_BEYOND_LATIN.findall(text)) / len(text) < MANY


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
