"""The limits of the published rules on what is fit to learn from, by language, with who set them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

_CODE = re.compile("[a-z]{2,3}")
_Six = tuple[float, float, float, float, float, float]


class Limits(BaseModel):
    """Of the values that `heuristics.measure` gives, by the same names; a value on its limit passes. The
    defaults are the published ones for English; see `CHINESE` for the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_duplicate_paragraphs: float = 0.30
    """Share of paragraphs that occurred before; Gopher."""
    max_duplicate_paragraph_characters: float = 0.20
    """Share of the text in such paragraphs; Gopher."""
    max_duplicate_lines: float = 0.30
    """Share of lines that occurred before; Gopher."""
    max_duplicate_line_characters: float = 0.20
    """Share of the text in such lines; Gopher."""
    max_top_ngram: tuple[float, float, float] = (0.20, 0.18, 0.16)
    """Share of the text in the commonest 2-, 3- and 4-gram; Gopher."""
    max_duplicated_ngram: _Six = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of the text in repeated 5- to 10-grams; Gopher."""
    min_words: int = 50
    max_words: int = 100_000
    """Words that are not punctuation; Gopher."""
    min_mean_word: float = 3
    max_mean_word: float = 10
    """Their mean length in characters; Gopher."""
    max_hashes: float = 0.1
    max_ellipses: float = 0.1
    """Per word; Gopher."""
    max_bullet_lines: float = 0.9
    """Share of lines that begin with a bullet; Gopher."""
    max_ellipsis_lines: float = 0.3
    """Share of lines that end in an ellipsis; Gopher."""
    min_alphabetic_words: float = 0.8
    """Share of words with a letter; Gopher."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    min_stop_words: int = 2
    """Different ones that must occur; Gopher."""
    min_sentences: int = 5
    """On the lines that `c4_lines` keeps; C4."""
    min_ended_lines: float = 0.12
    """Share of lines that end in a sentence mark; FineWeb."""
    max_short_lines: float = 0.67
    """Share of lines of `short_line` characters or fewer; FineWeb."""
    short_line: int = 30
    max_repeated_characters: float = 0.01
    """Share of the characters in lines that occurred before; FineWeb."""
    max_newlines: float = 0.3
    """Line breaks per word; FineWeb."""


ENGLISH = Limits()
CHINESE = Limits(
    max_duplicate_paragraphs=1,
    max_duplicate_paragraph_characters=1,
    max_duplicate_lines=0.287,
    max_duplicate_line_characters=1,
    max_top_ngram=(0.256, 0.201, 0.171),
    max_duplicated_ngram=(0.198, 0.182, 0.167, 0.154, 0.14, 0.127),
    min_mean_word=1,
    max_mean_word=5,
    min_alphabetic_words=0.65,
    stop_words=(*"的年在月是和日了於為有被人中为他與後也而由", "·"),
    min_ended_lines=0.106,
    max_short_lines=1,
    max_repeated_characters=0.1,
    max_newlines=0.178,
)
"""FineWeb-2's limits for `cmn_Hani` (Penedo et al. 2025, arXiv:2506.20920, derived from the distribution of
each value over Chinese text), for words as a Chinese segmenter cuts them. FineWeb-2 has no C4 rules, and none
on duplicate paragraphs and short lines. One limit is lower than its .735: that on words with a letter, which
four of sixty pages of Chinese news do not reach, being full of figures and dates."""

BY_LANGUAGE: Mapping[str, Limits] = MappingProxyType({"en": ENGLISH, "zh": CHINESE})
"""The published limits, by ISO 639 code."""
_OTHER = ENGLISH.model_copy(update={"stop_words": (), "min_stop_words": 0})


def limits_with(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Limits]:
    """The published limits with some of them changed, and those of further languages.

    What is not given is as for the language itself, or, of a language that has none, as for English but for
    the stop words, of which there are none then.

    Args:
        changes: by ISO 639 code, values of `Limits` by name.

    Raises:
        ValueError: no such limit or language, or a value of another kind.
    """
    found = dict(BY_LANGUAGE)
    for code, values in changes.items():
        if not _CODE.fullmatch(code):
            raise ValueError(f"{code!r} is no code of a language, such as en or zh, without its script")
        for name in values:
            if name not in Limits.model_fields:
                near = difflib.get_close_matches(name, Limits.model_fields, 1)
                raise ValueError(
                    f"there is no limit {name!r}" + "".join(f"; did you mean {n!r}?" for n in near)
                )
        start = found.get(code, _OTHER)
        found[code] = Limits.model_validate({**start.model_dump(), **values})
    return found
