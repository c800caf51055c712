"""The published rules on what is fit to learn from, every value measured in one reading of the text.

Gopher's repetition and quality rules (Rae et al. 2021, arXiv:2112.11446, table A1 and section A.1.1), C4's
(Raffel et al. 2020, arXiv:1910.10683, section 2.2) and FineWeb's (Penedo et al. 2024, arXiv:2406.17557,
section 3.6), with the readings of them that FineWeb's own pipeline settled on, so that decisions can be
compared. Where a rule leaves open which of several equally common n-grams is the top one, it is the first.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
import regex
import rjieba
from numpy.typing import NDArray

from sishu.corpus.hashing import mix
from sishu.corpus.judge.limits import BY_LANGUAGE, ENGLISH, Limits

TOP, DUPLICATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)
"""Lengths in words of the n-grams of which the commonest counts, and of which every repetition counts."""

MOST = 3_000_000
"""Characters beyond which a text has too many words without being measured: a hundred thousand of at most ten
characters, with all that stands between them."""

_WORD = re.compile(r"\w(?:\S*\w)?|[^\w\s]")
_TERMINAL = regex.compile(r"\p{Sentence_Terminal}")
_SENTENCE = re.compile(r"[^.!?…]+(?:[.!?…]+[\"')\]]*|$)")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SPOKEN, _ALPHABETIC = 1, 2


def words(text: str, chinese: bool = False) -> list[str]:
    """Words and punctuation marks, of Chinese as jieba cuts it, else by spaces."""
    return [word for word in rjieba.cut(text) if not word.isspace()] if chinese else _WORD.findall(text)


def sentences(line: str) -> list[str]:
    """What ends in sentence marks, perhaps with quotation marks after them, or at the end of the line."""
    return _SENTENCE.findall(line)


class Values(NamedTuple):
    """What the rules measure; see `limits.py` for the meaning of each."""

    duplicate_paragraphs: float
    duplicate_paragraph_characters: float
    duplicate_lines: float
    duplicate_line_characters: float
    top_ngram: tuple[float, ...]
    duplicated_ngram: tuple[float, ...]
    words: int
    mean_word: float
    hashes: float
    ellipses: float
    bullet_lines: float
    ellipsis_lines: float
    alphabetic_words: float
    ended_lines: float
    short_lines: float
    repeated_characters: float
    newlines: float
    stop_words: int


def measure(text: str, tokens: Sequence[str], limits: Limits = ENGLISH) -> Values:
    """Every value of the rules for one text that is not empty, with the tokens it is made of."""
    forms = _Forms(tokens)
    return _with_ngrams(_with_words(_of_lines(text, limits), text, forms, limits), text, forms)


def _of_lines(text: str, limits: Limits) -> Values:
    """What can be known without cutting words; the other values are such as break no rule."""
    size = len(text)
    paragraphs, paragraph_characters = _repeated(
        [part for p in text.strip().split("\n\n") if (part := p.lstrip("\n"))]
    )
    lines, line_characters = _repeated(_parts(text))
    real = [line.strip() for line in text.splitlines()]
    ended, short, repeated = _ends_of_lines(text, limits)
    return Values(
        duplicate_paragraphs=paragraphs,
        duplicate_paragraph_characters=paragraph_characters / size,
        duplicate_lines=lines,
        duplicate_line_characters=line_characters / size,
        top_ngram=(0.0,) * len(TOP),
        duplicated_ngram=(0.0,) * len(DUPLICATED),
        words=limits.min_words,
        mean_word=limits.min_mean_word,
        hashes=0.0,
        ellipses=0.0,
        bullet_lines=sum(line.startswith(("•", "-")) for line in real) / len(real),
        ellipsis_lines=sum(line.endswith(("...", "…")) for line in real) / len(real),
        alphabetic_words=1.0,
        ended_lines=ended,
        short_lines=short,
        repeated_characters=repeated,
        newlines=0.0,
        stop_words=limits.min_stop_words,
    )


def _ends_of_lines(text: str, limits: Limits) -> tuple[float, float, float]:
    """Shares of lines with an end, of short lines, and of characters in repeated lines."""
    filled = [line for line in text.split("\n") if line.strip()]
    count = max(1, len(filled))
    return (
        sum([_is_terminal(line[-1]) for line in filled]) / count,
        sum([len(line) <= limits.short_line for line in filled]) / count,
        _repeated(filled)[1] / max(1, len(text) - text.count("\n")),
    )


def _with_words(values: Values, text: str, forms: _Forms, limits: Limits) -> Values:
    total = max(1, forms.count)
    return values._replace(
        words=forms.spoken,
        mean_word=forms.mean_length,
        hashes=text.count("#") / total,
        ellipses=(text.count("...") + text.count("…")) / total,
        alphabetic_words=forms.alphabetic / total,
        newlines=text.count("\n") / total,
        stop_words=sum(word in forms.ids for word in limits.stop_words),
    )


def _with_ngrams(values: Values, text: str, forms: _Forms) -> Values:
    top, duplicated = (tuple(value / len(text) for value in found) for found in forms.ngrams())
    return values._replace(top_ngram=top, duplicated_ngram=duplicated)


def gopher(values: Values, limits: Limits = ENGLISH) -> str | None:
    """Which of Gopher's rules a text breaks first, in words that are always the same; None if none."""
    v = values
    return _first(
        ("duplicate paragraphs", v.duplicate_paragraphs > limits.max_duplicate_paragraphs),
        (
            "duplicate paragraphs",
            v.duplicate_paragraph_characters > limits.max_duplicate_paragraph_characters,
        ),
        ("duplicate lines", v.duplicate_lines > limits.max_duplicate_lines),
        ("duplicate lines", v.duplicate_line_characters > limits.max_duplicate_line_characters),
        ("repeated words", _any_above(v.top_ngram, limits.max_top_ngram)),
        ("repeated passages", _any_above(v.duplicated_ngram, limits.max_duplicated_ngram)),
        ("few words", v.words < limits.min_words),
        ("many words", v.words > limits.max_words),
        ("word length", not limits.min_mean_word <= v.mean_word <= limits.max_mean_word),
        ("symbols", v.hashes > limits.max_hashes or v.ellipses > limits.max_ellipses),
        ("bullet lines", v.bullet_lines > limits.max_bullet_lines),
        ("ellipsis lines", v.ellipsis_lines > limits.max_ellipsis_lines),
        ("few alphabetic words", v.alphabetic_words < limits.min_alphabetic_words),
        ("few stop words", v.stop_words < limits.min_stop_words),
    )


def fineweb(values: Values, limits: Limits = ENGLISH) -> str | None:
    """Which of FineWeb's own rules a text breaks first, in words that are always the same; None if none."""
    return _first(
        ("lines without an end", values.ended_lines < limits.min_ended_lines),
        ("short lines", values.short_lines > limits.max_short_lines),
        ("repeated characters", values.repeated_characters > limits.max_repeated_characters),
        ("a list", values.newlines > limits.max_newlines),
    )


def c4_lines(text: str, limits: Limits = ENGLISH) -> tuple[str, str | None]:
    """The text without the lines that C4 leaves out, and why C4 would refuse what is left, or None.

    Left out: lines of fewer than three words, with a word of more than a thousand characters, on JavaScript,
    cookies or terms of use; citation marks go from the others. That a line should end in a sentence mark is
    left to FineWeb's rules, as in FineWeb.
    """
    kept, count = [], 0
    for line in text.splitlines():
        split = line.split()
        if len(split) < 3 or max(map(len, split)) > 1000:
            continue
        line = _CITATION.sub("", line.strip()) if "[" in line else line.strip()
        lowered = line.lower()
        if "lorem ipsum" in lowered:
            return text, "lorem ipsum"
        if "javascript" in lowered:
            continue
        if "{" in line:
            return text, "curly bracket"
        if any(phrase in lowered for phrase in _POLICY):
            continue
        count += len(sentences(line))
        kept.append(line)
    few = count < limits.min_sentences
    return "\n".join(kept).strip(), "few sentences" if few else None


class Selected(NamedTuple):
    """A text after all the rules, with the first one it broke."""

    text: str
    reason: str | None


def select(text: str, language: str, by_language: Mapping[str, Limits] = BY_LANGUAGE) -> Selected:
    """FineWeb's rules on a text that is not empty: Gopher's, C4's, its own.

    Chinese is judged on words as jieba cuts them, without C4's rules, which are for scripts with spaces. What
    is in a language without limits is refused.
    """
    code = language.partition("-")[0]
    chinese = code == "zh"
    limits = by_language.get(code)
    if limits is None:
        return Selected(text, "no limits for this language")
    if len(text) > MOST:
        return Selected(text, "many words")
    # What takes least comes first: lines, then words, then n-grams.
    values = _of_lines(text, limits)
    reason = gopher(values, limits)
    if not reason and not chinese:
        kept, reason = c4_lines(text, limits)
    else:
        kept = text
    if reason := reason or fineweb(_with_breaks(values, kept, chinese, limits), limits):
        return Selected(text, reason)
    forms = _Forms(words(text, chinese))
    values = _with_words(values, text, forms, limits)
    reason = gopher(values, limits) or gopher(_with_ngrams(values, text, forms), limits)
    return Selected(text if reason else kept, reason)


def _with_breaks(values: Values, text: str, chinese: bool, limits: Limits) -> Values:
    """What FineWeb's own rules want to know, of a text from which lines may be gone."""
    breaks = text.count("\n")
    # A piece between spaces is a token at least, so words are cut only where the rule on them may be broken.
    share = breaks / max(1, len(text.split()))
    if share > limits.max_newlines:
        share = breaks / max(1, len(words(text, chinese)))
    ended, short, repeated = _ends_of_lines(text, limits)
    return values._replace(ended_lines=ended, short_lines=short, repeated_characters=repeated, newlines=share)


def _first(*rules: tuple[str, bool]) -> str | None:
    return next((reason for reason, broken in rules if broken), None)


class _Forms:
    """The tokens of a text as numbers, and what can be said of them without the text."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.ids: defaultdict[str, int] = defaultdict(count().__next__)
        self.count = len(tokens)
        self.tokens = np.fromiter(map(self.ids.__getitem__, tokens), np.int64, self.count)
        times = np.bincount(self.tokens, minlength=len(self.ids))
        lengths = np.fromiter(map(len, self.ids), np.int64, len(self.ids))
        kinds = np.fromiter(map(_kind, self.ids), np.uint8, len(self.ids))
        spoken = kinds & _SPOKEN > 0
        self.spoken = int(times[spoken].sum())
        self.mean_length = float((times * lengths)[spoken].sum() / max(1, self.spoken))
        self.alphabetic = int(times[kinds & _ALPHABETIC > 0].sum())
        self.lengths = lengths[self.tokens]

    def ngrams(self) -> tuple[list[int], list[int]]:
        """For each n of `TOP` the characters in the commonest n-gram, spaces between its words counted; for
        each of `DUPLICATED` the characters in n-grams that occurred before, but for those that begin inside
        one already counted.

        An n-gram that occurs twice begins with a shorter one that does, so the places to look at grow few.
        """
        top = [int(self.lengths[:n].sum()) + n - 1 if self.count >= n else 0 for n in TOP]
        duplicated = [0] * len(DUPLICATED)
        ends = np.concatenate(([0], self.lengths.cumsum()))
        mixed = mix((self.tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER)
        places, hashes = np.arange(self.count), mixed
        for n in range(2, DUPLICATED[-1] + 1):
            inside = places + n <= self.count
            places = places[inside]
            # 64 bits, so that two different n-grams are never taken for the same
            hashes = hashes[inside] * _MULTIPLIER + mixed[places + n - 1]
            ordered = np.sort(hashes)
            repeated = ordered[1:][ordered[1:] == ordered[:-1]]
            if not len(repeated):
                break
            found = repeated[np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)] == hashes
            places, hashes = places[found], hashes[found]
            if n in TOP:
                _, firsts, times = np.unique(hashes, return_index=True, return_counts=True)
                first = int(places[firsts[times == times.max()].min()])
                size = int(ends[first + n] - ends[first]) + n - 1
                top[TOP.index(n)] = int(times.max()) * size
            if n in DUPLICATED:
                duplicated[DUPLICATED.index(n)] = self._said_again(places, hashes, n, ends)
        return top, duplicated

    @staticmethod
    def _said_again(
        places: NDArray[np.int64], hashes: NDArray[np.uint64], n: int, ends: NDArray[np.int64]
    ) -> int:
        characters = free = 0
        seen: set[int] = set()
        for at, key in zip(places.tolist(), hashes.tolist(), strict=True):
            if at < free:
                continue
            if key in seen:
                characters += int(ends[at + n] - ends[at])
                free = at + n
            else:
                seen.add(key)
        return characters


def _parts(text: str) -> list[str]:
    """The text between runs of line breaks: `re.split(r"\n+", text)`, in half the time."""
    inner = [line for line in text.split("\n") if line]
    return [""] * text.startswith("\n") + inner + [""] * text.endswith("\n")


def _repeated(parts: Sequence[str]) -> tuple[float, int]:
    """The share of parts that occurred before, and the characters in them."""
    seen: set[str] = set()
    characters = 0
    for part in parts:
        if part in seen:
            characters += len(part)
        seen.add(part)
    return 1 - len(seen) / max(1, len(parts)), characters


def _any_above(values: Sequence[float], limits: Sequence[float]) -> bool:
    return any(value > limit for value, limit in zip(values, limits, strict=True))


@lru_cache(maxsize=65_536)
def _kind(token: str) -> int:
    """Whether there is more to a token than punctuation, symbols and control characters, and a letter."""
    spoken = any(unicodedata.category(character)[0] not in "PSC" for character in token)
    return _SPOKEN * spoken + _ALPHABETIC * any(map(str.isalpha, token))


@lru_cache(maxsize=4096)
def _is_terminal(character: str) -> bool:
    return _TERMINAL.match(character) is not None
