"""Read web archives (WARC, ISO 28500) that may be cut, damaged or wrong, a record at a time.

A library that reads a `.warc.gz` as one stream loses everything after the first bad byte. A crawl
archive is a row of gzip members, one per record, so nothing more than the damaged record need be
lost: members are inflated here one by one, and after a damaged one the next gzip header that
inflates to a WARC header is looked for. Records inside a member (or a plain `.warc`) are cut apart
by their Content-Length, and where that is wrong by the next record's version line. FastWARC then
parses the record and undoes chunked transfer and content encodings.

Reasons reported: "cut", "damaged gzip member", "oversized", "no warc header",
"wrong content-length", "no target uri", "no http header", "bad chunked body",
"bad content encoding", "empty file".
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fastwarc.warc import WarcRecord

from sishu.corpus.document import Page

Report = Callable[[str], None]

MAX_RECORD_BYTES = 20_000_000
"""A larger record, packed or unpacked, is reported and skipped; real pages are below 10 MB."""

_GZIP_MAGIC = b"\x1f\x8b\x08"
_INFLATE_STEP = 16_384
"""Bytes fed to zlib at a time: what is left over after a member is copied, so not many records."""
_PLAIN_STEP = 1 << 20
_MAX_HEADER_BYTES = 65_536
_VERSION = b"WARC/"
_NEXT_RECORD = re.compile(rb"\r?\n\r?\n(?=WARC/[01]\.\d+\r?\n)")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})(?=[ \t]*\r?$)")
_RESPONSE = re.compile(rb"(?im)^warc-type:[ \t]*response[ \t]*\r?$")
_CHUNK_LINE = re.compile(rb"[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r\n]*)?\r\n")


def read_pages(
    path: Path,
    damaged: Report | None = None,
    *,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> Iterator[Page]:
    """Yield the pages of an archive in file order, in bounded memory.

    Args:
        path: a `.warc` or `.warc.gz`; which of the two is told by its first bytes.
        damaged: called with a short reason once for each record that was skipped or mended because
            it is broken. Records that are merely no pages (requests, metadata, redirects and other
            answers outside 2xx) are passed over in silence.
        max_record_bytes: records larger than this, as stored or after undoing their content
            encoding, are skipped as "oversized".

    Raises:
        OSError: the file cannot be opened. Nothing inside the file raises.
    """
    report = damaged or (lambda reason: None)
    with path.open("rb") as file:
        if not file.read(1):
            report("empty file")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            gzipped = data[:3] == _GZIP_MAGIC
            cut_apart = _gzip_records if gzipped else _plain_records
            for record in cut_apart(data, _Splitter(report, max_record_bytes), report):
                page = parse_page(record, report, max_record_bytes)
                if page is not None:
                    yield page


class _Splitter:
    """Cuts a stream of bytes, fed in any pieces, into WARC records.

    A record is given out only when the next one's version line has been seen or the stream is
    said to be complete, so the last record of a gzip member waits for the member's checksum.
    """

    def __init__(self, report: Report, max_bytes: int) -> None:
        self._report = report
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._lost = False
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        yield from self._split(complete=False)

    def finish(self, *, cut: bool) -> Iterator[bytes]:
        """End of the stream; `cut` says that it ended before its time."""
        yield from self._split(complete=True, cut=cut)
        self.reset()

    def reset(self) -> None:
        self._buffer.clear()
        self._lost = False
        self._searched = 0

    def _split(self, complete: bool, cut: bool = False) -> Iterator[bytes]:
        buffer = self._buffer
        while True:
            if self._lost and not self._resynchronise():
                return
            while buffer.startswith((b"\r", b"\n")):
                del buffer[:1]
            if not buffer:
                return
            if not complete and len(buffer) < len(_VERSION):
                return
            body_start = _end_of_header(buffer)
            if not buffer.startswith(_VERSION) or (body_start < 0 and len(buffer) >= _MAX_HEADER_BYTES):
                self._lose("no warc header")
                continue
            if body_start < 0:
                if complete:
                    self._lose("cut" if cut else "no warc header")
                    continue
                return
            length = _LENGTH.search(buffer, 0, body_start)
            size = body_start + (int(length[1]) if length else 0)
            if size > self._max_bytes:
                self._lose("oversized")
                continue
            tail = buffer[size : size + 9].lstrip(b"\r\n")
            if not complete and len(tail) < len(_VERSION) and len(buffer) < size + 9:
                return
            exact = len(buffer) >= size and (tail.startswith(_VERSION) or (complete and not tail))
            if exact and length:
                yield bytes(buffer[:size])
                del buffer[:size]
                self._searched = 0
                continue
            # The length lies: the record ends where the next version line begins.
            following = _NEXT_RECORD.search(buffer, max(self._searched, body_start - 4))
            self._searched = max(0, len(buffer) - 32)
            end = following.start() if following else len(buffer)
            if end > self._max_bytes:
                self._lose("oversized")
            elif following or (complete and not cut):
                self._report("wrong content-length")
                body = bytes(buffer[body_start:end]).removesuffix(b"\r\n\r\n")
                yield _with_length(bytes(buffer[:body_start]), body)
                del buffer[:end]
                self._searched = 0
            elif complete:
                self._lose("cut")
            else:
                return

    def _lose(self, reason: str) -> None:
        self._report(reason)
        self._lost = True
        self._searched = 0
        del self._buffer[:1]

    def _resynchronise(self) -> bool:
        found = _NEXT_RECORD.search(self._buffer)
        del self._buffer[: found.end() if found else max(0, len(self._buffer) - 32)]
        self._lost = found is None
        return not self._lost


def _end_of_header(record: bytes | bytearray) -> int:
    """The place after the blank line that ends the header, -1 if there is none near enough."""
    end = record.find(b"\r\n\r\n", 0, _MAX_HEADER_BYTES)
    if end >= 0 and record.find(b"\n\n", 0, end) < 0 and record.find(b"\n\r\n", 0, end) < 0:
        return end + 4
    found = _HEADER_END.search(record, 0, _MAX_HEADER_BYTES)
    return found.end() if found else -1


def _with_length(header: bytes, body: bytes) -> bytes:
    line = b"Content-Length: %d" % len(body)
    if _LENGTH.search(header):
        header = _LENGTH.sub(line, header, count=1)
    else:
        header = header.rstrip(b"\r\n") + b"\r\n" + line
    return header.rstrip(b"\r\n") + b"\r\n\r\n" + body


def _plain_records(data: mmap.mmap, splitter: _Splitter, report: Report) -> Iterator[bytes]:
    for start in range(0, len(data), _PLAIN_STEP):
        yield from splitter.feed(data[start : start + _PLAIN_STEP])
    yield from splitter.finish(cut=True)


def _gzip_records(data: mmap.mmap, splitter: _Splitter, report: Report) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        inflater = zlib.decompressobj(wbits=31)
        at = position
        try:
            while not inflater.eof and at < len(data):
                yield from splitter.feed(inflater.decompress(data[at : at + _INFLATE_STEP]))
                at += _INFLATE_STEP
        except zlib.error:
            splitter.reset()
            report("damaged gzip member")
            position = next_member(data, position + 1)
            continue
        if inflater.eof:
            position = min(at, len(data)) - len(inflater.unused_data)
            head = _inflated_head(data, position)
            if not head or head.startswith(_VERSION):  # else the record goes on in the next member
                yield from splitter.finish(cut=False)
        else:
            # Either the file ends here or damage made zlib swallow what follows: look behind it.
            before = next_member(data, position + 1)
            if before == len(data):
                yield from splitter.finish(cut=True)
                return
            splitter.reset()
            report("damaged gzip member")
            position = before


def next_member(data: mmap.mmap, start: int) -> int:
    """The first place at or after `start` where a gzip member inflates to a WARC header."""
    while (start := data.find(_GZIP_MAGIC, start)) >= 0:
        if _inflated_head(data, start).startswith(_VERSION):
            return start
        start += 1
    return len(data)


def _inflated_head(data: mmap.mmap, start: int) -> bytes:
    """The first bytes of the gzip member at `start`; empty when there is none that inflates."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data[start : start + 512], 16)
    except zlib.error:
        return b""


def parse_page(record: bytes, report: Report, max_bytes: int = MAX_RECORD_BYTES) -> Page | None:
    """The page in one whole WARC record, or None if it holds none; `report` as in `read_pages`."""
    block = _end_of_header(record)
    if block < 0 or not _RESPONSE.search(record, 0, block):
        return None
    try:
        headers = WarcRecord.from_bytes(record).headers
    except OSError:
        report("no warc header")
        return None
    url = (headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">")
    if not url:
        report("no target uri")
        return None
    # Many archives keep a Transfer-Encoding or Content-Encoding header over a body already undone.
    bare_line_feeds = record.find(b"\r\n\r\n", block, block + _MAX_HEADER_BYTES) < 0
    for undo in ("all", "content", "none"):
        try:
            parsed = WarcRecord.from_bytes(record)
            parsed.parse_http(auto_decode=undo, quirks_mode=bare_line_feeds)
            status = None if parsed.http_headers is None else parsed.http_headers.status_code
            body = parsed.reader.read(max_bytes + 1)
        except OSError:
            continue
        if status is None:
            report("no http header")
            return None
        if not 200 <= status < 300:
            return None
        if len(body) > max_bytes:
            report("oversized")
            return None
        if undo != "all" and _CHUNK_LINE.match(body):
            report("bad chunked body")
            return None
        if undo == "none" and body.startswith(b"\x1f\x8b"):
            report("bad content encoding")
            return None
        content_type = parsed.http_headers.get("Content-Type") or ""
        return Page(url, body, content_type, headers.get("WARC-Date") or "")
    report("no http header")
    return None
