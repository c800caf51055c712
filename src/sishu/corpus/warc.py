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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from fastwarc.warc import WarcRecord
from zlib_ng import zlib_ng

from sishu.corpus.document import Page

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Report = Callable[[str], None]
Record = tuple[bytes, int]
"""A record as it was stored, and where its header ends."""

MAX_RECORD_BYTES = 20_000_000
"""A larger record, packed or unpacked, is reported and skipped; real pages are below 10 MB."""

_INFLATE_STEP = 16_384
"""Bytes fed to the inflater at a time: what is left over after a member is copied, so not many records."""
_PLAIN_STEP = 1 << 20
_MOST_FOR_A_HEAD = 1 << 17
"""Bytes of a member read until something comes out: a block of zstandard has 128 kB at most."""
_MAX_HEADER_BYTES = 65_536
_VERSION = b"WARC/"
_NEXT_RECORD = re.compile(rb"\r?\n\r?\n(?=WARC/[01]\.\d+\r?\n)")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_MEMBER_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})(?=[ \t]*\r?$)")
_PAGE = re.compile(rb"(?im)^warc-type:[ \t]*(response|conversion)[ \t]*\r?$")
_TARGET = re.compile(rb"(?im)^warc-target-uri:[ \t]*([^\r\n]*?)[ \t]*\r?$")
_DATE = re.compile(rb"(?im)^warc-date:[ \t]*([^\r\n]*?)[ \t]*\r?$")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})(?: [^\r\n]*)?\r\n")
_CONTENT_TYPE = re.compile(rb"(?im)^content-type:[ \t]*([^\r\n]*?)[ \t]*\r$")
_UNUSUAL = re.compile(rb"(?im)^(?:[ \t]|transfer-encoding|content-encoding)|[^\r]\n|\r(?!\n)")
"""In the head of a response: a folded line, an encoding to undo, a bare line feed."""
_NAMES = re.compile(rb"(?m)^[A-Za-z-]+(?=:)")
_NO_PAGES = (b"request\r", b"metadata\r", b"warcinfo\r", b"revisit\r", b"resource\r")
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
            for record, block in records:
                page = _page(record, block, report, max_record_bytes)
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

    def feed(self, data: bytes) -> Iterator[Record]:
        self._buffer += data
        yield from self._split(complete=False)

    def finish(self, *, cut: bool) -> Iterator[Record]:
        """End of the stream; `cut` says that it ended before its time."""
        yield from self._split(complete=True, cut=cut)
        self.reset()

    @property
    def empty(self) -> bool:
        """No record has been begun, and none is being looked for."""
        return not (self._buffer or self._lost)

    def whole(self, data: bytes) -> Record | None:
        """The record that fills `data`, which must be the whole of a gzip member, and nothing else; None if
        it is not so, which to find out why is the work of `feed`."""
        size = len(data) - len(_MEMBER_END)
        if size > self._max_bytes or not (data.startswith(_VERSION) and data.endswith(_MEMBER_END)):
            return None
        body_start = _end_of_header(data)
        exact = body_start > 0 and body_start + (_length(data, body_start) or 0) == size
        return (data[:size], body_start) if exact else None

    def reset(self) -> None:
        self._buffer.clear()
        self._lost = False
        self._searched = 0

    def _split(self, complete: bool, cut: bool = False) -> Iterator[Record]:
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
            length = _length(buffer, body_start)
            size = body_start + (length or 0)
            if size > self._max_bytes:
                self._lose("oversized")
                continue
            tail = buffer[size : size + 9].lstrip(b"\r\n")
            if not complete and len(tail) < len(_VERSION) and len(buffer) < size + 9:
                return
            exact = len(buffer) >= size and (tail.startswith(_VERSION) or (complete and not tail))
            if exact and length is not None:
                yield bytes(buffer[:size]), body_start
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
                header = _with_length(bytes(buffer[:body_start]), len(body))
                yield header + body, len(header)
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


def _length(record: bytes | bytearray, block: int) -> int | None:
    """The Content-Length in the header that ends at `block`; None when there is none."""
    start = record.find(b"\nContent-Length: ", 0, block) + 17
    digits = bytes(record[start : record.find(b"\r", start, block)]) if start >= 17 else b""
    if digits.isdigit() and len(digits) <= 18:
        return int(digits)
    found = _LENGTH.search(record, 0, block)
    return int(found[1]) if found else None


def _with_length(header: bytes, length: int) -> bytes:
    line = b"Content-Length: %d" % length
    if _LENGTH.search(header):
        header = _LENGTH.sub(line, header, count=1)
    else:
        header = header.rstrip(b"\r\n") + b"\r\n" + line
    return header.rstrip(b"\r\n") + b"\r\n\r\n"


def _plain_records(data: mmap.mmap, splitter: _Splitter) -> Iterator[Record]:
    for start in range(0, len(data), _PLAIN_STEP):
        yield from splitter.feed(data[start : start + _PLAIN_STEP])
    yield from splitter.finish(cut=True)


class _Gzip:
    """One gzip member."""

    magic, damaged = b"\x1f\x8b\x08", "damaged gzip member"

    def __init__(self) -> None:
        self._inflater = zlib_ng.decompressobj(31)

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


Damage = (cast(type[Exception], zlib_ng.error), zstd.ZstdError)  # which is typed as if it were an instance
Packing = type[_Gzip] | type[_Zstd]
_PACKINGS: tuple[Packing, ...] = (_Gzip, _Zstd)


def _packed_records(
    data: mmap.mmap, packing: Packing, splitter: _Splitter, report: Report
) -> Iterator[Record]:
    position = 0
    while position < len(data):
        member, at, behind, out = packing(), position, None, 0
        record = None
        try:
            while behind is None and at < len(data):
                for piece in member.pieces(data[at : at + _INFLATE_STEP]):
                    if not out and splitter.empty and member.behind() is not None:
                        record = splitter.whole(piece)
                    if record is None:
                        yield from splitter.feed(piece)
                    out += len(piece)
                at += _INFLATE_STEP
                behind = member.behind()
        except Damage:
            splitter.reset()
            report(packing.damaged)
            position = next_member(data, position + 1, packing)
            continue
        if behind is not None:
            position = min(at, len(data)) - behind
            if record is not None:
                yield record
                continue
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


def parse_page(record: bytes, report: Report) -> Page | None:
    """The page in one whole WARC record, or None if it holds none; `report` as in `read_pages`."""
    return _page(record, max(0, _end_of_header(record)), report, MAX_RECORD_BYTES)


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
    head = record.find(b"\r\n\r\n", block, block + _MAX_HEADER_BYTES) + 2 if response else block
    if target is None or date is None or head < block or not record[:head].isascii():
        return None
    url = target[1].decode().removeprefix("<").removesuffix(">")
    if not url or len(record) - head > max_bytes or record.find(b"\n ", 0, block) >= 0:
        return None
    if not response:
        return Page(url, record[block:], "text/plain; charset=utf-8", date[1].decode())
    status = _STATUS.match(record, block, head)
    kinds = _CONTENT_TYPE.findall(record, block, head)
    if (
        not status
        or not status[1].startswith(b"2")
        or len(kinds) != 1
        or _UNUSUAL.search(record, block, head)
    ):
        return None
    return Page(url, record[head + 2 :], kinds[0].decode(), date[1].decode())


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
