"""Paragraphs in another language than their document: found, counted and, where it is not wanted, cut.

Identification of a whole page misses the Chinese notice under an English article, and the article in two
languages. Scripts of one language decide by themselves; otherwise `language.identify` is asked, of a few
words first, and of the paragraph only if these do not sound like the document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sishu.corpus.judge.language import chinese_script, identify, is_one_of

MIN_LETTERS = 45
"""A paragraph shorter than that goes with its neighbours; a character of `_DENSE` counts as three letters."""
MIN_SCORE = 0.7
"""Probability from which another language is believed."""
SAMPLE = 60
"""Characters that are asked about first."""
MOST_CHARACTERS = 1000
"""Of a line that are looked at; about as many of a paragraph."""

_SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": ((0x41, 0x24F), (0x1E00, 0x1EFF)),
    "Cyrillic": ((0x400, 0x52F),),
    "Arabic": ((0x600, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFEFF)),
    "Devanagari": ((0x900, 0x97F),),
    "Hebrew": ((0x590, 0x5FF),),
    "Han": ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFF)),
    "ja": ((0x3040, 0x30FF),),
    "ko": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "el": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "hy": ((0x530, 0x58F),),
    "ka": ((0x10A0, 0x10FF),),
    "pa": ((0xA00, 0xA7F),),
    "gu": ((0xA80, 0xAFF),),
    "or": ((0xB00, 0xB7F),),
    "ta": ((0xB80, 0xBFF),),
    "te": ((0xC00, 0xC7F),),
    "kn": ((0xC80, 0xCFF),),
    "ml": ((0xD00, 0xD7F),),
    "si": ((0xD80, 0xDFF),),
    "th": ((0xE00, 0xE7F),),
    "lo": ((0xE80, 0xEFF),),
    "my": ((0x1000, 0x109F),),
    "km": ((0x1780, 0x17FF),),
}
"""Scripts of many languages by their names, those of nearly one by its code."""
_NAMES = ("", "other", *_SCRIPTS)
_DENSE = ("Han", "ja", "ko", "th", "lo", "my", "km")
_WEIGHTS = np.array([3 if name in _DENSE else name != "" for name in _NAMES])
_HAN, _KANA = _NAMES.index("Han"), _NAMES.index("ja")
_NEAR = [
    frozenset(codes.split())
    for codes in (
        *("bs hr sh sr", "da nn no", "id ms", "cs sk", "an ast es gl", "gl pt", "az tr", "bg mk", "be uk"),
        *("wuu yue zh zh-Hans", "wuu yue zh zh-Hant"),
    )
]
"""Languages near enough to each other that a paragraph may be taken for one of the other."""

_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_FENCE = "```"
_CHINESE_MARK = re.compile("[，。；,;]")
_SYMBOL = re.compile(r"[{}()\[\];=<>/\\|_$#*&^%@+~`\t]")
_WORD = re.compile(r"[^\W\d_]+")
_ENDED = re.compile(r"[.!?:;。！？：；…]['\"”’»)）」』]*$")


class Kept(NamedTuple):
    """A text without the paragraphs that are not wanted."""

    text: str
    language: str
    """Of the document."""
    shares: dict[str, float]
    """Of the text as it was, the share of its characters in paragraphs of each language, greatest first."""
    cut: dict[str, int]
    """Characters cut, by language."""


@dataclass(slots=True)
class _Paragraph:
    first: int
    """Its first line."""
    last: int
    """Its last line."""
    size: int
    """In characters."""
    text: str
    """Its beginning."""
    letters: int = 0
    """Of `text`; 0 in fenced code."""
    script: str = ""
    """The commonest one; "ja" if it has kana, however few."""
    language: str = ""
    """Empty if it is not known by itself."""
    cut: bool = False


def keep_languages(text: str, wanted: Sequence[str], language: str = "") -> Kept:
    """Cuts paragraphs that are clearly in another language than their document's and those wanted.

    Code, tables, lists of names and paragraphs without many letters are left alone; short ones are cut where
    those around them are, or where one beside them is and they are in its language. Words of another
    language within a paragraph do not matter.

    Args:
        text: of a document.
        wanted: codes as of `identify`; `zh` means Chinese in any script. Empty: all, nothing is cut.
        language: of the document; its paragraphs stay, wanted or not. If it is not given, it is the one
            with most letters: of a whole text in two languages, `identify` may say either.

    Raises:
        UserError: the model file is missing from the installation.
    """
    lines = text.split("\n")
    paragraphs = list(_paragraphs(lines))
    if not language:
        language = _commonest(paragraphs, identify(text)[0])
    if not language:
        return Kept(text, "", {}, {})
    for one in paragraphs:
        one.language = _language(one, language)
        foreign = one.language not in ("", language) and not _are_near(one.language, language)
        if foreign and _is_no_prose(one):
            one.language, foreign = "", False
        one.cut = foreign and bool(wanted) and not is_one_of(one.language, wanted)
    if any(one.cut for one in paragraphs):
        _follow_neighbours(paragraphs, language)
    known = language
    sizes, cut = Counter[str](), Counter[str]()
    for one in paragraphs:
        known = one.language = one.language or known
        sizes[known] += one.size
        if one.cut:
            cut[known] += one.size
    total = sum(sizes.values())
    shares = {code: sizes[code] / total for code in sorted(sizes, key=lambda code: (-sizes[code], code))}
    return Kept(_without(lines, paragraphs) if cut else text, language, shares, dict(sorted(cut.items())))


def _without(lines: list[str], paragraphs: list[_Paragraph]) -> str:
    """The lines but for those cut, and but for blank ones before and after these."""
    gone = {number for one in paragraphs if one.cut for number in range(one.first, one.last + 1)}
    kept: list[str] = []
    after_cut = False
    for number, line in enumerate(lines):
        if number in gone:
            after_cut = True
        elif not (after_cut and not line.strip() and not (kept and kept[-1].strip())):
            kept.append(line)
            after_cut = after_cut and not line.strip()
    return "\n".join(kept).strip("\n")


def _follow_neighbours(paragraphs: list[_Paragraph], document: str) -> None:
    """Cuts paragraphs that are not known by themselves, as those around them are."""
    scripts = {one.script for one in paragraphs if one.language == document}
    before: list[_Paragraph | None] = []
    seen: _Paragraph | None = None
    for one in paragraphs:
        before.append(seen)
        seen = one if one.language else seen
    seen = None
    for one, above in zip(reversed(paragraphs), reversed(before), strict=True):
        if one.language:
            seen = one
            continue
        beside = [other for other in (above, seen) if other and other.cut]
        if beside and one.letters and not _is_no_prose(one):
            other = beside[0].language
            if len(beside) == 2 or other == _likeliest(one, document, scripts):
                one.language, one.cut = other, True


def _language(one: _Paragraph, document: str) -> str:
    """The language a paragraph is in without doubt, else ""."""
    if one.letters < MIN_LETTERS:
        return ""
    if one.script == "Han":
        return _chinese(one.text, document)
    if len(one.script) == 2:
        return one.script
    if identify(one.text[:SAMPLE])[0] == document:
        return document
    code, score = identify(one.text)
    return code if score >= MIN_SCORE or code == document else ""


def _commonest(paragraphs: list[_Paragraph], language: str) -> str:
    """The language with most letters in paragraphs that are long enough; `language` where there are none."""
    letters = Counter[str]()
    for one in paragraphs:
        letters[_language(one, language)] += one.letters
    del letters[""]
    return min(letters, key=lambda code: (-letters[code], code), default=language)


def _chinese(text: str, document: str) -> str:
    """The Chinese that a paragraph of Han characters is in. In a Chinese document it is of the other script
    if both its halves are; in a Japanese one, a line without kana may be an address or a list of names."""
    if document == "ja" and not _CHINESE_MARK.search(text):
        return ""
    if chinese_script(text[:SAMPLE]) == document:
        return document
    half = len(text) // 2
    code, other = chinese_script(text[:half]), chinese_script(text[half:])
    return document if document.startswith("zh") and (code != other or code == "zh") else chinese_script(text)


def _likeliest(one: _Paragraph, document: str, scripts: set[str]) -> str:
    """The language of a short paragraph beside one that is cut, "" for what may be the document's."""
    if one.script == "Han":
        return chinese_script(one.text) if document != "ja" else ""
    if len(one.script) == 2:
        return one.script
    return identify(one.text)[0] if one.script not in scripts or 2 * one.letters >= MIN_LETTERS else ""


def _are_near(one: str, other: str) -> bool:
    return any(one in codes and other in codes for codes in _NEAR)


def _paragraphs(lines: list[str]) -> Iterator[_Paragraph]:
    """Lines with text, those together that were broken to fit a width."""
    fences = [number for number, line in enumerate(lines) if line.lstrip().startswith(_FENCE)]
    code: set[int] = set()
    for first, last in zip(fences[::2], fences[1::2], strict=False):
        code.update(range(first, last + 1))
    open_one: _Paragraph | None = None
    for number, line in enumerate(lines):
        if not line.strip():
            if open_one:
                yield open_one
            open_one = None
            continue
        one = _Paragraph(number, number, len(line), line[:MOST_CHARACTERS])
        if number not in code:
            one.script, one.letters = _script(one.text)
        if open_one and _goes_on(open_one, lines[number - 1], one):
            open_one.last = number
            open_one.size += one.size
            if len(open_one.text) < MOST_CHARACTERS:
                open_one.text = f"{open_one.text} {one.text.strip()}"
                open_one.letters += one.letters
            continue
        if open_one:
            yield open_one
        open_one = one
    if open_one:
        yield open_one


def _goes_on(above: _Paragraph, line: str, one: _Paragraph) -> bool:
    """Whether a line may be the next one of a paragraph broken at some 50 to 100 columns."""
    return (
        above.script == one.script
        and min(above.letters, one.letters) > 0
        and 50 <= len(line) <= 100
        and one.size <= len(line) + 15
        and not _ENDED.search(line)
    )


def _is_no_prose(one: _Paragraph) -> bool:
    """Whether a paragraph is code, a row of a table, figures or a list of names."""
    text = one.text.strip()
    size = len(text) - text.count(" ")
    if text.count("\t") > 1 or 12 * len(_SYMBOL.findall(text)) > size:
        return True
    if one.script in _DENSE:
        return 8 * text.count("、") > size or 4 * one.letters < 3 * size
    words = _WORD.findall(text)
    capital = sum(word[0].isupper() for word in words)
    return 2 * one.letters < size or (len(words) > 3 and 3 * capital > 2 * len(words))


def _script(line: str) -> tuple[str, int]:
    """The commonest script and how many letters there are, the dense ones counted as three."""
    if line.isascii():
        letters = len(line.encode().translate(None, _NO_LETTERS))
        return "Latin" if letters else "", letters
    codes = np.frombuffer(line.encode("utf-32-le", "surrogatepass"), "<u4")
    table = _table()
    weights = np.bincount(table[np.minimum(codes, len(table) - 1)], minlength=len(_NAMES)) * _WEIGHTS
    total, kana = int(weights.sum()), int(weights[_KANA])
    weights[_HAN] += kana
    name = _NAMES[int(weights.argmax())] if total else ""
    return "ja" if name in ("Han", "ja") and 10 * kana > weights[_HAN] else name, total


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    """The number of the script of each character, 0 for what is no letter."""
    table = np.zeros(0x30001, np.uint8)
    for number, ranges in enumerate(_SCRIPTS.values(), 2):
        for first, last in ranges:
            table[first : last + 1] = number
    for code in range(len(table) - 1):
        if not chr(code).isalpha():
            table[code] = 0
        elif not table[code]:
            table[code] = 1
    return table
