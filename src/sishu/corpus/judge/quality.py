"""Which texts are fit to learn from: a few published rules, each a pure function giving one value.

Sources: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1), C4 (Raffel et al. 2020,
arXiv:1910.10683, section 2.2), FineWeb-2's thresholds for Chinese (Penedo et al. 2025,
arXiv:2506.20920, configs/cmn_Hani.yml). Texts in scripts without spaces are judged by characters.
Where technical documentation needs it a threshold is looser than its source, and says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from sishu.corpus.judge.language import is_unsegmented

MOST = 1_000_000
"""Characters of a longer text that are judged: those at its beginning, in its middle and at its end."""

_WORD = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]")
_BULLET = re.compile(r"\s*(?:[-*•‣▪◦●○■□–—]|\d{1,3}[.)])\s")


class Thresholds(BaseModel):
    """Limits of the rules; a value on the limit passes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_mean_word: float = 2.0
    """Characters per word; Gopher 3, here 2 for tables of numbers and short flags."""
    max_mean_word: float = 14.0
    """Characters per word; Gopher 10, here 14 for dotted names and agglutinating languages."""
    min_alphabetic_words: float = 0.5
    """Share of words with a letter; Gopher 0.8, here 0.5 for code, operators and tables."""
    max_symbol_words: float = 0.1
    """Hash signs and ellipses per word; Gopher."""
    max_bullet_lines: float = 0.9
    """Share of lines that begin as a list item; Gopher."""
    max_ellipsis_lines: float = 0.3
    """Share of lines that end in an ellipsis; Gopher."""
    max_duplicate_lines: float = 0.3
    """Share of lines that occurred before; Gopher (FineWeb-2 for Chinese: 0.287)."""
    max_top_words: tuple[float, ...] = (0.20, 0.18, 0.16)
    """Share of characters in the commonest run of 2, 3, 4 words; Gopher."""
    min_letters: float = 0.5
    """Unsegmented scripts: share of letters among characters that are not white space."""
    max_top_characters: tuple[float, ...] = (0.256, 0.201, 0.171)
    """Unsegmented scripts: share of the commonest run of 4, 6, 8 characters. FineWeb-2's limits for
    2, 3, 4 Chinese words, at two characters a word."""
    min_distinct_words: float = 0.05
    """Different words per word among the first 1,000, or characters for unsegmented scripts; own
    rule, against generated repetition of more than four words."""


DEFAULT_THRESHOLDS = Thresholds()


def judge(text: str, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> str | None:
    """Why the text is unfit, in a few words that are always the same, or None if it is fit."""
    text = _shortened(text)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "empty"
    if "lorem ipsum" in text.lower():
        return "lorem ipsum"
    if bullet_lines(lines) > thresholds.max_bullet_lines:
        return "bullet lines"
    if ellipsis_lines(lines) > thresholds.max_ellipsis_lines:
        return "ellipsis lines"
    if duplicate_lines(lines) > thresholds.max_duplicate_lines:
        return "duplicate lines"
    if is_unsegmented(text):
        return _judge_characters(text, thresholds)
    return _judge_words(text, thresholds)


def _shortened(text: str) -> str:
    if len(text) <= MOST:
        return text
    size, middle = MOST // 3, len(text) // 2
    return "\n".join((text[:size], text[middle - size // 2 : middle + size // 2], text[-size:]))


def _judge_words(text: str, thresholds: Thresholds) -> str | None:
    words = text.split()
    mean = mean_length(words)
    if not thresholds.min_mean_word <= mean <= thresholds.max_mean_word:
        return "word length"
    if alphabetic_words(words) < thresholds.min_alphabetic_words:
        return "few alphabetic words"
    if symbol_words(text, len(words)) > thresholds.max_symbol_words:
        return "symbols"
    lowered = _WORD.findall(text.lower())
    for size, limit in enumerate(thresholds.max_top_words, 2):
        if top_run(lowered, size) > limit:
            return "repeated words"
    if distinct(lowered) < thresholds.min_distinct_words:
        return "few distinct words"
    return None


def _judge_characters(text: str, thresholds: Thresholds) -> str | None:
    if letters(text) < thresholds.min_letters:
        return "few letters"
    characters = "".join(_WORD.findall(text.lower()))
    for size, limit in enumerate(thresholds.max_top_characters, 2):
        if top_run(characters, 2 * size) > limit:
            return "repeated characters"
    if distinct(characters) < thresholds.min_distinct_words:
        return "few distinct characters"
    return None


def mean_length(words: Sequence[str]) -> float:
    """Mean characters per word, 0 without words."""
    return sum(map(len, words)) / max(1, len(words))


def alphabetic_words(words: Sequence[str]) -> float:
    """Share of words that hold a letter, 0 to 1."""
    return sum(1 for word in words if _LETTERS.search(word)) / max(1, len(words))


def symbol_words(text: str, words: int) -> float:
    """Hash signs and ellipses per word."""
    return (text.count("#") + text.count("...") + text.count("…")) / max(1, words)


def bullet_lines(lines: Sequence[str]) -> float:
    """Share of lines that begin with a bullet or an item number, 0 to 1."""
    return sum(1 for line in lines if _BULLET.match(line)) / max(1, len(lines))


def ellipsis_lines(lines: Sequence[str]) -> float:
    """Share of lines that end in an ellipsis, 0 to 1."""
    return sum(1 for line in lines if line.rstrip().endswith(("...", "…"))) / max(1, len(lines))


def duplicate_lines(lines: Sequence[str]) -> float:
    """Share of lines equal to an earlier one apart from outer white space, 0 to 1."""
    return 1 - len({line.strip() for line in lines}) / max(1, len(lines))


def letters(text: str) -> float:
    """Share of letters of any script among characters that are not white space, 0 to 1."""
    return len(_LETTERS.findall(text)) / max(1, sum(map(len, text.split())))


def distinct(units: Sequence[str]) -> float:
    """Share of different ones among the first 1,000 words or characters, 0 to 1."""
    head = units[:1000]
    return len(set(head)) / max(1, len(head))


def _characters(run: str) -> int:
    return len(run) - run.count(" ")


def top_run(units: Sequence[str], size: int) -> float:
    """Share of characters that lie in the commonest run of `size` words (or characters), 0 to 1.

    Runs may overlap themselves, so the value is an upper bound; 0 if no run occurs twice.
    """
    if isinstance(units, str):
        runs = Counter(units[i : i + size] for i in range(len(units) - size + 1))
    else:
        runs = Counter(" ".join(run) for run in zip(*(units[i:] for i in range(size)), strict=False))
    if not runs:
        return 0.0
    run, times = max(runs.items(), key=lambda item: item[1] * _characters(item[0]))
    total = sum(map(len, units))
    return min(1.0, times * _characters(run) / max(1, total)) if times > 1 else 0.0
