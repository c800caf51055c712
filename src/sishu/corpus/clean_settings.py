"""What to keep of the pages: the settings of the cleaning pipeline."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from sishu.config import Section
from sishu.corpus.extract import Tier


class CleanSettings(Section):
    """What to keep of the pages, and how much of it to hold out for validation."""

    languages: list[str] = Field(
        default=[],
        description="Languages to keep, by ISO 639 code, such as en or zh; zh-Hans and zh-Hant are Chinese "
        "in one of its scripts; empty: all.",
    )
    min_language_score: float = Field(
        default=0.0, ge=0, le=1, description="Lowest probability of the identified language."
    )
    extraction: Tier = Field(
        default="quality",
        description="How the text is taken out of HTML. quality: a small trained model tells a page's own "
        "text from what surrounds it; fast: resiliparse's rules, in three fifths of the time, which keep "
        "more of pages that are all lists.",
    )
    min_characters: int = Field(default=100, ge=1, description="Shortest document to keep, in characters.")
    quality: Literal["none", "loose", "fineweb"] = Field(
        default="loose",
        description="Rules on what is fit to learn from. loose: a few of Gopher's, wide enough for "
        "documentation; fineweb: all of Gopher's, C4's and FineWeb's (FineWeb-2's for Chinese), which also "
        "cut lines, for English and Chinese pages from anywhere, other languages being refused; none: keep "
        "everything.",
    )
    near_duplicates: bool = Field(
        default=True, description="Drop pages that say nearly the same as an earlier one."
    )
    repeated_passages: bool = Field(
        default=True, description="Cut runs of three lines or more that occurred before."
    )
    held_out: float = Field(
        default=0.05, gt=0, le=0.5, description="Share of the documents held out for validation."
    )
    held_out_group: str = Field(
        default="",
        description="Regular expression on the URL with one capturing group; documents for which "
        "it captures the same are held out, or not, together. Empty: each document for itself.",
    )
    keep_rejects: int = Field(
        default=20,
        ge=0,
        description="Refused and changed documents to show for each step, in rejects.jsonl and edits.jsonl.",
    )
    document_seconds: float = Field(
        default=10.0, gt=0, description="Processor time after which a document is given up."
    )

    @field_validator("held_out_group")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if pattern and groups != 1:
            raise ValueError(f"needs exactly one capturing group, has {groups}")
        return pattern
