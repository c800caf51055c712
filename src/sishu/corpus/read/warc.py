"""Read web archives (WARC, ISO 28500) that may be cut, damaged or wrong, a record at a time.

A library that reads a `.warc.gz` as one stream loses everything after the first bad byte. Here the archive
is taken apart member by member (`members`) and record by record (`records`), so that nothing more than the
damaged record is lost. What is usual in a record is read with a few regular expressions; of the rest FastWARC
parses the headers and undoes chunked transfer.

Reasons reported, beside those of `members` and `records`: "no target uri", "no http header",
"bad chunked body", "bad content encoding", "cut content encoding" (of which what can be read is kept),
"empty file", "too many damaged records".
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import WarcRecord

from sishu.corpus.document import Page
from sishu.corpus.read import encodings, members
from sishu.corpus.read.arc import ArcSplitter, as_warc
from sishu.corpus.read.records import MAX_HEADER_BYTES, Report, end_of_header
from sishu.corpus.read.records import Splitter as _Splitter

MAX_RECORD_BYTES = 20_000_000
"""A larger record, packed or unpacked, is reported and skipped; real pages are below 10 MB."""

MAX_DAMAGED = 1_000_000
"""Damaged records after which the rest of an archive is left: a megabyte may unpack to tens of millions."""

_SEARCHED = 1 << 20
"""Bytes looked through for a record of an ARC archive when the file begins with nothing known."""
_PAGE = re.compile(rb"(?im)^warc-type:[ \t]*(response|conversion)[ \t]*\r?$")
_TARGET = re.compile(rb"(?im)^warc-target-uri:([^\r\n]*+)\r?$")
_DATE = re.compile(rb"(?im)^warc-date:([^\r\n]*+)\r?$")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})(?: [^\r\n]*)?\r\n")
_CONTENT_TYPE = re.compile(rb"(?im)^content-type:([^\r\n]*+)\r$")
_UNUSUAL = re.compile(rb"(?im)^(?:[ \t]|transfer-encoding|content-encoding)|[^\r]\n|\r(?!\n)")
"""In the head of a response: a folded line, an encoding to undo, a bare line feed."""
_BLANKS = " \t"
_NAMES = re.compile(rb"(?m)^[A-Za-z-]+(?=:)")
_NO_PAGES = (b"request\r", b"metadata\r", b"warcinfo\r", b"revisit\r", b"resource\r")
_CHUNK_LINE = re.compile(rb"-?[0-9a-fA-F]++[ \t]*+(?:;[^\r\n]*+)?\r?\n")


def read_pages(
    source: Path | BinaryIO,
    damaged: Report | None = None,
    *,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> Iterator[Page]:
    """Yield the pages of an archive in file order, in bounded memory.

    Args:
        source: a `.warc` or, of the time before, an `.arc`, as a path or an open file on disk, packed with
            gzip, zstandard or not at all; which of these is told by its first bytes. The texts that Common
            Crawl has taken from pages (WET files) are pages of plain text.
        damaged: called with a short reason once for each record that was skipped or mended because
            it is broken. Records that are merely no pages (requests, metadata, redirects and other
            answers outside 2xx) are passed over in silence.
        max_record_bytes: records larger than this, as stored or after undoing their content
            encoding, are skipped as "oversized".

    Raises:
        OSError: the file cannot be opened. Nothing inside the file raises.
    """
    left = MAX_DAMAGED

    def report(reason: str) -> None:
        nonlocal left
        if left == 0:
            raise _TooManyDamaged
        left -= 1
        if damaged:
            damaged(reason)

    try:
        yield from _read(source, report, max_record_bytes)
    except _TooManyDamaged:
        if damaged:
            damaged("too many damaged records")


class _TooManyDamaged(Exception):
    pass


def _read(source: Path | BinaryIO, report: Report, max_record_bytes: int) -> Iterator[Page]:
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        if not file.read(1):
            report("empty file")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            arc = _is_arc(data)
            splitter = (ArcSplitter if arc else _Splitter)(report, max_record_bytes)
            for found in members.records_of(data, splitter, report):
                record = as_warc(found) if arc else found
                page = _page(*record, report, max_record_bytes) if record else None
                if page is not None:
                    yield page


def _is_arc(data: mmap.mmap) -> bool:
    first = members.first_bytes(data, _Splitter.begins + ArcSplitter.begins)
    if not first or first.startswith(_Splitter.begins):
        return False
    # Or its first line is damaged
    return (
        first.startswith(ArcSplitter.begins) or ArcSplitter.next_record.search(data, 0, _SEARCHED) is not None
    )


def next_member(data: mmap.mmap, start: int) -> int:
    """The first place at or after `start` where a gzip member inflates to a WARC header."""
    return members.Search().next_member(data, start, members.GZIP, _Splitter.begins)


def parse_page(record: bytes, report: Report, max_bytes: int = MAX_RECORD_BYTES) -> Page | None:
    """The page in one whole WARC record, or None if it holds none; the rest as in `read_pages`."""
    return _page(record, max(0, end_of_header(record)), report, max_bytes)


def _page(record: bytes, block: int, report: Report, max_bytes: int) -> Page | None:
    kind = record.find(b"\nWARC-Type: ", 0, block)
    if kind >= 0 and record.startswith(_NO_PAGES, kind + 12):
        return None
    found = _PAGE.search(record, 0, block)
    if found is None:
        return None
    response = found[1].lower() == b"response"
    page = _plain_page(record, block, response, max_bytes)
    return page or _any_page(record, block, response, report, max_bytes)


def _plain_page(record: bytes, block: int, response: bool, max_bytes: int) -> Page | None:
    """The page of a record in which nothing is unusual, which are nearly all; None is no verdict."""
    target, date = _TARGET.search(record, 0, block), _DATE.search(record, 0, block)
    head = record.find(b"\r\n\r\n", block, block + MAX_HEADER_BYTES) + 2 if response else block
    if target is None or date is None or head < block or not record[:head].isascii():
        return None
    url = target[1].decode().strip(_BLANKS).removeprefix("<").removesuffix(">")
    if not url or len(record) - head > max_bytes or record.find(b"\n ", 0, block) >= 0:
        return None
    if not response:
        return Page(url, record[block:], "text/plain; charset=utf-8", date[1].decode().strip(_BLANKS))
    status = _STATUS.match(record, block, head)
    kinds = _CONTENT_TYPE.findall(record, block, head)
    if (
        not status
        or not status[1].startswith(b"2")
        or len(kinds) != 1
        or _UNUSUAL.search(record, block, head)
    ):
        return None
    kind = kinds[0].decode().strip(_BLANKS)
    return Page(url, record[head + 2 :], kind, date[1].decode().strip(_BLANKS))


def _capitals(word: bytes) -> bytes:
    return word.upper() if word.lower() in (b"warc", b"uri", b"id") else word.capitalize()


def _any_page(record: bytes, block: int, response: bool, report: Report, max_bytes: int) -> Page | None:
    # names of headers may be written in any case, which FastWARC does not know
    header = _NAMES.sub(lambda name: b"-".join(map(_capitals, name[0].split(b"-"))), record[:block])
    record = header + record[block:]
    try:
        headers = WarcRecord.from_bytes(record).headers
    except OSError:
        report("no warc header")
        return None
    url = (headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">")
    if not url:
        report("no target uri")
        return None
    if not response:
        return Page(url, record[block:], "text/plain; charset=utf-8", headers.get("WARC-Date") or "")
    # Many archives keep a Transfer-Encoding or Content-Encoding header over a body already undone.
    bare_line_feeds = record.find(b"\r\n\r\n", block, block + MAX_HEADER_BYTES) < 0
    for undo in ("transfer", "none"):
        try:
            parsed = WarcRecord.from_bytes(record)
            parsed.parse_http(auto_decode=undo, quirks_mode=bare_line_feeds)
            http = parsed.http_headers
            if http is None or http.status_code is None:
                break
            if not 200 <= http.status_code < 300:
                return None
            body = parsed.reader.read(max_bytes + 1)
        except OSError:
            continue
        if len(body) > max_bytes:
            report("oversized")
            return None
        if _CHUNK_LINE.match(body) and "chunked" in (http.get("Transfer-Encoding") or "").lower():
            report("bad chunked body")
            return None
        content = _content(body, http.get("Content-Encoding") or "", report, max_bytes)
        if content is None:
            return None
        return Page(url, content, http.get("Content-Type") or "", headers.get("WARC-Date") or "")
    report("no http header")
    return None


def _content(body: bytes, said: str, report: Report, max_bytes: int) -> bytes | None:
    if not said:
        return body
    try:
        content, whole = encodings.undo(body, said, max_bytes)
    except encodings.TooLarge:
        report("oversized")
        return None
    except encodings.BadEncoding:
        report("bad content encoding")
        return None
    if not whole:
        report("cut content encoding")
    return content
