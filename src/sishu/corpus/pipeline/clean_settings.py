"""What to keep of the pages: the settings of the cleaning pipeline."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from sishu.config import Section
from sishu.corpus.extract.html_to_text import Tier
from sishu.corpus.judge.limits import limits_with


class BlockSettings(Section):
    """Pages that are refused by their address alone."""

    domains: list[str] = []
    """Lists of domains, one a line, packed or not, or a category of the UT1 blacklists as it is downloaded;
    what lies below a domain is refused too."""
    urls: list[str] = []
    """Lists of addresses, one a line."""
    words: list[str] = []
    """Lists of words in addresses, under the headings [hard], [soft] (two are needed) and [part]."""
    allow: list[str] = []
    """Domains that are let through whatever the lists say."""
    default_words: bool = True
    """Whether the words that come with sishu count, of pornography, gambling and the like."""


class MinHashSettings(Section):
    """How near duplicates are looked for: texts of Jaccard similarity s are found with the probability
    1 - (1 - s ** rows) ** bands."""

    bands: int = Field(default=14, ge=1, le=1000)
    rows: int = Field(default=8, ge=1, le=100)
    """Of a band."""
    shingle: int = Field(default=5, ge=1, le=100)
    """Words, or characters of scripts without spaces, that are compared as one."""


class CleanSettings(Section):
    """What to keep of the pages, and how much of it to hold out for validation."""

    languages: list[str] = Field(
        default=[],
        description="Languages to keep, by ISO 639 code, such as en or zh; zh-Hans and zh-Hant are Chinese "
        "in one of its scripts; empty: all.",
    )
    min_language_score: float = Field(
        default=0.65, ge=0, le=1, description="Lowest probability of the identified language."
    )
    extraction: Tier = Field(
        default="quality",
        description="How the text is taken out of HTML. quality: a small trained model tells a page's own "
        "text from what surrounds it; fast: resiliparse's rules, in less than half of the time, which keep "
        "more of pages that are all lists.",
    )
    foreign_paragraphs: Literal["keep", "cut"] = Field(
        default="keep",
        description="What to do with paragraphs that are clearly in another language than their document and "
        "those wanted.",
    )
    block: BlockSettings = BlockSettings()
    min_characters: int = Field(default=100, ge=1, description="Shortest document to keep, in characters.")
    quality: Literal["none", "loose", "fineweb"] = Field(
        default="loose",
        description="Rules on what is fit to learn from. loose: a few of Gopher's, wide enough for "
        "documentation; fineweb: all of Gopher's, C4's and FineWeb's (FineWeb-2's for Chinese), which also "
        "cut lines, for English and Chinese pages from anywhere, other languages being refused unless there "
        "are limits for them; none: keep everything.",
    )
    limits: dict[str, dict[str, Any]] = Field(
        default={},
        description="With fineweb, other limits than the published ones, and those of further languages with "
        "words between spaces: {en: {min_words: 30}, de: {stop_words: [der, und], min_stop_words: 2}}.",
    )
    quality_model: str | None = Field(
        default=None,
        description="The folder of a trained model of good and bad text, or a fastText classifier (.bin, "
        ".ftz), which gives each document its quality_score.",
    )
    quality_label: str = Field(default="good", description="fastText's label of good texts.")
    min_quality: float = Field(default=0.5, ge=0, le=1, description="Lowest quality_score.")
    bad_words: bool = Field(
        default=True,
        description="Refuse texts with many and different words of pornography, gambling spam and abuse, in "
        "English and Chinese; single words do not condemn a text.",
    )
    bad_word_lists: list[str] = Field(default=[], description="Further lists of such words.")
    evaluations: list[str] = Field(
        default=[],
        description="Files of evaluations (.jsonl, .parquet, .txt) whose questions must not be learnt from.",
    )
    contaminated: Literal["drop", "cut"] = Field(
        default="drop",
        description="What to do with a text that holds 13 words, or 18 Chinese characters, in a row of an "
        "evaluation: leave it out, or cut the place out with 200 characters on either side.",
    )
    same_address: Literal["all", "newest"] = Field(
        default="all",
        description="Which to keep of pages with the same address, as crawls of several months hold them.",
    )
    near_duplicates: bool = Field(
        default=True, description="Drop pages that say nearly the same as an earlier one."
    )
    minhash: MinHashSettings = MinHashSettings()
    per_crawl: bool = Field(
        default=False,
        description="Look for near duplicates among the pages of one crawl only (CC-MAIN-… in the file's "
        "name, or else its first folder), as FineWeb does.",
    )
    repeated_passages: bool = Field(
        default=True, description="Cut runs of three lines or more that occurred before."
    )
    repeated_lines: bool = Field(
        default=False,
        description="With repeated_passages, cut every single line that occurred before as well, if it has "
        "some seven words or more.",
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
    count_tokens: str | None = Field(
        default=None, description="A tokenizer.json, or its folder, to count the tokens of every step with."
    )
    document_seconds: float = Field(
        default=10.0, gt=0, description="Processor time after which a document is given up."
    )

    @field_validator("limits")
    @classmethod
    def _limits_exist(cls, limits: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        limits_with(limits)
        return limits

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
