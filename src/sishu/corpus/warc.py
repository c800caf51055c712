"""Read web archives (WARC, ISO 28500) that may be cut, damaged or wrong, a record at a time.

A library that reads a `.warc.gz` as one stream loses everything after the first bad byte. A crawl
archive is a row of gzip members or zstandard frames, one per record, so nothing more than the damaged
record need be lost: members are inflated here one by one, and after a damaged one the next that inflates
to a WARC header is looked for. Records inside a member (or a plain `.warc`) are cut apart by their
Content-Length, and where that is wrong by the next record's version line. FastWARC then parses the record
and undoes chunked transfer and content encodings.

Reasons reported: "cut", "damaged gzip member", "damaged zstd frame", "oversized", "no warc header",
"wrong content-length", "no target uri", "no http header", "bad chunked body",
"bad content encoding", "empty file".
"""

from __future__ import annotations

import mmap
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fastwarc.warc import WarcRecord

from sishu.corpus.document import Page

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Report = Callable[[str], None]

MAX_RECORD_BYTES = 20_000_000
"""A larger record, packed or unpacked, is reported and skipped; real pages are below 10 MB."""

_INFLATE_STEP = 16_384
"""Bytes fed to zlib at a time: what is left over after a member is copied, so not many records."""
_PLAIN_STEP = 1 << 20
_MOST_FOR_A_HEAD = 1 << 17
"""Bytes of a member read until something comes out: a block of zstandard has 128 kB at most."""
_MAX_HEADER_BYTES = 65_536
_VERSION = b"WARC/"
_NEXT_RECORD = re.compile(rb"\r?\n\r?\n(?=WARC/[01]\.\d+\r?\n)")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})(?=[ \t]*\r?$)")
_PAGE = re.compile(rb"(?im)^warc-type:[ \t]*(response|conversion)[ \t]*\r?$")
_CHUNK_LINE = re.compile(rb"[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r\n]*)?\r\n")


def read_pages(
    path: Path,
    damaged: Report | None = None,
    *,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> Iterator[Page]:
    """Yield the pages of an archive in file order, in bounded memory.

    Args:
        path: a `.warc`, packed with gzip, zstandard or not at all, which is told by its first bytes. The
            texts that Common Crawl has taken from pages (WET files) are pages of plain text.
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
            splitter = _Splitter(report, max_record_bytes)
            packing = next((one for one in _PACKINGS if data[:4].startswith(one.magic)), None)
            if packing:
                records = _packed_records(data, packing, splitter, report)
            else:
                records = _plain_records(data, splitter)
            for record in records:
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


def _plain_records(data: mmap.mmap, splitter: _Splitter) -> Iterator[bytes]:
    for start in range(0, len(data), _PLAIN_STEP):
        yield from splitter.feed(data[start : start + _PLAIN_STEP])
    yield from splitter.finish(cut=True)


class _Gzip:
    """One gzip member."""

    magic, damaged = b"\x1f\x8b\x08", "damaged gzip member"

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What comes out, piece by piece; raises `Damage`."""
        yield self._inflater.decompress(data)

    def head(self, data: bytes) -> bytes:
        """At most 16 bytes of what comes out; raises `Damage`."""
        return self._inflater.decompress(data, 16)

    def behind(self) -> int | None:
        """How many of the bytes given so far are behind the end; None before it is reached."""
        return len(self._inflater.unused_data) if self._inflater.eof else None


class _Zstd:
    """One zstandard frame, which may pack a gigabyte into the bytes of a step."""

    magic, damaged = b"\x28\xb5\x2f\xfd", "damaged zstd frame"

    def __init__(self) -> None:
        self._inflater = zstd.ZstdDecompressor()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What comes out, piece by piece; raises `Damage`."""
        yield self._inflater.decompress(data, _PLAIN_STEP)
        while not (self._inflater.eof or self._inflater.needs_input):
            yield self._inflater.decompress(b"", _PLAIN_STEP)

    def head(self, data: bytes) -> bytes:
        """At most 16 bytes of what comes out; raises `Damage`."""
        return self._inflater.decompress(data, 16)

    def behind(self) -> int | None:
        """How many of the bytes given so far are behind the end; None before it is reached."""
        return len(self._inflater.unused_data) if self._inflater.eof else None


Damage = (zlib.error, zstd.ZstdError)
Packing = type[_Gzip] | type[_Zstd]
_PACKINGS: tuple[Packing, ...] = (_Gzip, _Zstd)


def _packed_records(
    data: mmap.mmap, packing: Packing, splitter: _Splitter, report: Report
) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        member, at, behind, out = packing(), position, None, 0
        try:
            while behind is None and at < len(data):
                for piece in member.pieces(data[at : at + _INFLATE_STEP]):
                    out += len(piece)
                    yield from splitter.feed(piece)
                at += _INFLATE_STEP
                behind = member.behind()
        except Damage:
            splitter.reset()
            report(packing.damaged)
            position = next_member(data, position + 1, packing)
            continue
        if behind is not None:
            position = min(at, len(data)) - behind
            head = _inflated_head(data, position, packing)
            if not head or head.startswith(_VERSION):  # else the record goes on in the next member
                yield from splitter.finish(cut=False)
        else:
            # Either the file ends here or damage swallowed what follows: look behind it.
            before = next_member(data, position + 1, packing)
            if before == len(data):
                if not out:
                    report("cut")
                yield from splitter.finish(cut=True)
                return
            splitter.reset()
            report(packing.damaged)
            position = before


def next_member(data: mmap.mmap, start: int, packing: Packing = _Gzip) -> int:
    """The first place at or after `start` where a packed member inflates to a WARC header."""
    while (start := data.find(packing.magic, start)) >= 0:
        if _inflated_head(data, start, packing).startswith(_VERSION):
            return start
        start += 1
    return len(data)


def _inflated_head(data: mmap.mmap, start: int, packing: Packing) -> bytes:
    """The first bytes of the member at `start`; empty when there is none that inflates.

    A frame of zstandard may have to be read to the end of its first block before it gives anything.
    """
    member, head = packing(), b""
    try:
        for at in range(start, min(start + _MOST_FOR_A_HEAD, len(data)), 512):
            head = member.head(data[at : at + 512])
            if head or member.behind() is not None:
                break
    except Damage:
        return b""
    return head


def parse_page(record: bytes, report: Report, max_bytes: int = MAX_RECORD_BYTES) -> Page | None:
    """The page in one whole WARC record, or None if it holds none; `report` as in `read_pages`."""
    block = _end_of_header(record)
    kind = _PAGE.search(record, 0, max(0, block))
    if kind is None:
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
    if kind[1].lower() == b"conversion":
        return Page(url, record[block:], "text/plain; charset=utf-8", headers.get("WARC-Date") or "")
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
