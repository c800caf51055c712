"""What travels through the corpus: raw pages as they came, documents as they will be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(slots=True)
class Page:
    """A response as it arrived: undecoded bytes and what the server said about them."""

    url: str
    body: bytes
    content_type: str = ""
    """The raw `Content-Type` header, empty when there was none."""
    date: str = ""
    """When it was fetched, ISO 8601, empty when unknown."""


@dataclass(slots=True)
class Document:
    """Text with its origin; `id` is stable for a URL, so that a document can be named in a report."""

    id: str
    url: str
    date: str
    text: str
    language: str = ""
    """ISO 639 code from language identification, empty before that step."""
    language_score: float = 0.0
    """Probability of `language`, 0 to 1."""
    quality_score: float | None = None
    """What the quality model says, 0 to 1; None without one."""
    source: str = ""
    """The input file it came from."""


@dataclass(slots=True)
class Refused:
    """A document that a step would not let through, and why."""

    document: Document
    """As it came to the step; of a page that was not decoded yet, without text."""
    step: str
    reason: str
    """Of a small fixed set."""
    original: str = ""
    """The id of the document that it repeats."""


def document_id(url: str) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the URL."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
