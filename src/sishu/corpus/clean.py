"""From pages to documents fit to learn from: the cleaning pipeline and its settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from pydantic import Field, field_validator

from sishu.config import Section
from sishu.console import UserError, counted
from sishu.corpus import charset, dedup, heuristics, language, quality
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.extract import Tier, html_to_text
from sishu.corpus.funnel import EXCERPT, Funnel, Rejected
from sishu.corpus.scrub import scrub
from sishu.corpus.split import split_documents
from sishu.corpus.table import write_documents

MIN_TOTAL = 1000
"""Characters of clean text below which there is nothing to learn."""

_HTML_TYPES = frozenset(("text/html", "application/xhtml+xml"))
_HTML_START = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)


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
        default=20, ge=0, description="Refused documents to show for each step, in rejects.jsonl."
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


def clean(
    items: Iterable[Page | Document],
    out: Path,
    settings: CleanSettings,
    *,
    damaged: Sequence[str] = (),
    on_document: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Cleans a stream of pages and documents into the folder `out`.

    Steps: decode, html to text, scrub, language, quality for each document as it comes; then, over
    all of them sorted by id, exact duplicates, repeated passages, near duplicates; then the split.
    Writes documents.parquet (the same bytes for the same items in any order), funnel.json and
    rejects.jsonl.

    Args:
        items: consumed once, one at a time; what is left of each stays in memory.
        out: made if need be.
        damaged: the list to which the reader of `items` adds a line `reason: place` for each record
            it skipped; read when `items` has ended.
        on_document: called with the number of items done so far.

    Returns:
        Figures: documents and characters, in all, for train and for validation; refusals, damaged
        records and scrubbed addresses by reason; documents by language.

    Raises:
        UserError: less than 1,000 characters of clean text.
    """
    funnel = Funnel(settings.keep_rejects)
    scrubbed: Counter[str] = Counter()
    documents = []
    for count, item in enumerate(items, 1):
        if document := _clean_one(item, settings, funnel, scrubbed):
            documents.append(document)
        if on_document:
            on_document(count)
    documents.sort(key=lambda d: (d.id, d.url, d.date, d.text))
    documents = _drop_duplicates(
        "exact duplicates",
        documents,
        lambda: dedup.first_with_digest(dedup.text_digest(d.text) for d in documents),
        funnel,
    )
    if settings.repeated_passages:
        documents = _cut_passages(documents, settings.min_characters, funnel)
    if settings.near_duplicates:
        documents = _drop_duplicates(
            "near duplicates",
            documents,
            lambda: dedup.near_duplicates([d.text for d in documents]),
            funnel,
        )
    out.mkdir(parents=True, exist_ok=True)
    skipped = dict(sorted(Counter(line.partition(": ")[0] for line in damaged).items()))
    funnel.write(out, skipped)
    characters = sum(len(d.text) for d in documents)
    if characters < MIN_TOTAL:
        raise UserError(_too_little(characters, funnel))
    train, validation = split_documents(documents, settings.held_out, settings.held_out_group)
    write_documents(out / "documents.parquet", {"train": train, "validation": validation})
    return {
        "documents": len(documents),
        "characters": characters,
        "train": _sizes(train),
        "validation": _sizes(validation),
        "rejected": funnel.reasons(),
        "damaged": skipped,
        "scrubbed": dict(sorted(scrubbed.items())),
        "languages": dict(sorted(Counter(d.language for d in documents).items())),
    }


def _clean_one(
    item: Page | Document, settings: CleanSettings, funnel: Funnel, scrubbed: Counter[str]
) -> Document | None:
    """The steps that need no other document; None if one of them refused."""
    size = len(item.body) if isinstance(item, Page) else len(item.text)
    start = "" if isinstance(item, Page) else item.text[:EXCERPT]
    origin = (document_id(item.url), item.url, start)
    decoded = funnel.apply("decode", origin, size, lambda: _decode(item))
    if decoded is None:
        return None
    document, is_html = decoded
    funnel.passed("decode", len(document.text))

    def extract(document: Document) -> Document:
        text = html_to_text(document.text, settings.extraction) if is_html else document.text.strip("\n")
        if not text.strip():
            raise Rejected("no text")
        return replace(document, text=text)

    def scrub_text(document: Document) -> Document:
        text, counts = scrub(document.text)
        scrubbed.update(counts)
        return replace(document, text=text)

    def identify(document: Document) -> Document:
        code, score = language.identify(document.text)
        if settings.languages and not language.is_one_of(code, settings.languages):
            raise Rejected("other language")
        if score < settings.min_language_score:
            raise Rejected("language uncertain")
        return replace(document, language=code, language_score=score)

    def judge(document: Document) -> Document:
        if len(document.text) < settings.min_characters:
            raise Rejected("too short")
        text = document.text
        if settings.quality == "fineweb":
            selected = heuristics.select(text, document.language)
            if selected.reason:
                raise Rejected(selected.reason)
            return replace(document, text=selected.text)
        if settings.repeated_passages:
            # What a later step will cut anyway must not condemn the page: API pages repeat a lot.
            text = dedup.PassageFilter().cut(text)
        if settings.quality == "loose" and (reason := quality.judge(text)):
            raise Rejected(reason)
        return document

    steps = {"html to text": extract, "scrub": scrub_text, "language": identify, "quality": judge}
    for name, step in steps.items():
        origin = (document.id, document.url, document.text[:EXCERPT])
        after = funnel.apply(name, origin, len(document.text), partial(step, document))
        if after is None:
            return None
        funnel.passed(name, len(after.text))
        document = after
    return document


def _decode(item: Page | Document) -> tuple[Document, bool]:
    """The document with its text undecorated or still in HTML, and whether it is HTML."""
    if isinstance(item, Document):
        return replace(item, url=_valid(item.url), text=_valid(item.text)), False
    kind = item.content_type.partition(";")[0].strip().lower()
    if kind and kind not in _HTML_TYPES and not kind.startswith("text/"):
        raise Rejected("not a text page")
    text = _valid(charset.decode(item.body, item.content_type)[0])
    is_html = kind in _HTML_TYPES or bool(_HTML_START.match(text[:2000]))
    url = _valid(item.url)
    return Document(id=document_id(item.url), url=url, date=item.date, text=text), is_html


def _valid(text: str) -> str:
    """The text as UTF-8 can hold it (no lone surrogates), without NUL, with plain line ends."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _drop_duplicates(
    name: str, documents: list[Document], find: Callable[[], list[int]], funnel: Funnel
) -> list[Document]:
    """Keeps the documents whose index `find` returns for themselves."""
    step = funnel.step(name)
    started = perf_counter()
    kept = []
    for index, (document, first) in enumerate(zip(documents, find(), strict=True)):
        step.documents_in += 1
        step.characters_in += len(document.text)
        if first == index:
            kept.append(document)
            funnel.passed(name, len(document.text))
        else:
            funnel.refuse(name, (document.id, document.url, document.text), "said before")
    step.seconds = perf_counter() - started
    return kept


def _cut_passages(documents: list[Document], shortest: int, funnel: Funnel) -> list[Document]:
    name = "repeated passages"
    step = funnel.step(name)
    started = perf_counter()
    sites = [_site(document.url) for document in documents]
    texts = dedup.cut_page_edges([document.text for document in documents], sites)
    seen = dedup.PassageFilter()
    kept = []
    for document, edged in zip(documents, texts, strict=True):
        step.documents_in += 1
        step.characters_in += len(document.text)
        text = seen.cut(edged)
        if len(text) < min(shortest, len(document.text)):
            funnel.refuse(name, (document.id, document.url, document.text), "nothing new")
        else:
            funnel.passed(name, len(text))
            kept.append(replace(document, text=text))
    step.seconds = perf_counter() - started
    return kept


def _site(url: str) -> str:
    """Scheme and host of a URL, empty for a local file."""
    match = re.match(r"[a-z][a-z0-9+.-]*://[^/?#]*", url, re.IGNORECASE)
    return match[0].lower() if match else ""


def _too_little(characters: int, funnel: Funnel) -> str:
    reasons = sorted(funnel.reasons().items(), key=lambda entry: (-entry[1], entry[0]))
    why = f"; most were refused for “{reasons[0][0]}” ({reasons[0][1]})" if reasons else ""
    documents = funnel.step("decode").documents_in
    return (
        f"only {counted(characters, 'character')} of clean text came out of "
        f"{counted(documents, 'document')}{why}; "
        f"give at least {MIN_TOTAL:,} characters"
    )


def _sizes(documents: Sequence[Document]) -> dict[str, int]:
    return {"documents": len(documents), "characters": sum(len(d.text) for d in documents)}
