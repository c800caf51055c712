"""Cut a stream of bytes into the records of a web archive, of which any may be cut, damaged or mislabelled.

Records are cut apart by the length in their header, and where that is wrong by where the next record begins.
What a header looks like is said by subclasses: this one knows WARC (ISO 28500).

Reasons reported: "cut", "oversized", "no warc header" or "no arc header", "wrong content-length".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Report = Callable[[str], None]
Record = tuple[bytes, int]
"""A record as it was stored, and where its header ends."""

MAX_HEADER_BYTES = 65_536

_WARC_NEXT = re.compile(rb"\r?\n\r?\n(?=WARC/[01]\.\d+\r?\n)")
_BLANKS = re.compile(rb"[\r\n]*+")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})(?=[ \t]*\r?$)")


class Splitter:
    """Cuts a stream of bytes, fed in any pieces, into WARC records.

    A record is given out only when the beginning of the next one has been seen or the stream is
    said to be complete, so the last record of a gzip member waits for the member's checksum.
    """

    begins: tuple[bytes, ...] = (b"WARC/",)
    """What the header of a record may begin with."""
    no_header = "no warc header"
    separator = b"\r\n\r\n"
    """What stands between two records, and behind the last."""
    next_record = _WARC_NEXT
    longest_line = 32
    """Bytes at the end of what has come in which the beginning of a record may yet be incomplete."""

    def __init__(self, report: Report, max_bytes: int) -> None:
        self._report = report
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._lost = False
        self._searched = 0
        self._ahead = max(map(len, self.begins))

    def end_of_header(self, record: bytes | bytearray) -> int:
        """Where the block begins, -1 if that is not near enough."""
        return end_of_header(record)

    def length(self, record: bytes | bytearray, block: int) -> int | None:
        """The length of the block said in the header that ends at `block`; None when none is said."""
        return _length(record, block)

    def with_length(self, header: bytes, length: int) -> bytes:
        """The header, saying another length."""
        return _with_length(header, length)

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
        size = len(data) - len(self.separator)
        if size > self._max_bytes or not (data.startswith(self.begins) and data.endswith(self.separator)):
            return None
        body_start = self.end_of_header(data)
        exact = body_start > 0 and body_start + (self.length(data, body_start) or 0) == size
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
            if buffer.startswith((b"\r", b"\n")):
                del buffer[: _end_of_blanks(buffer)]
            if not buffer:
                return
            if not complete and len(buffer) < self._ahead:
                return
            body_start = self.end_of_header(buffer)
            if not buffer.startswith(self.begins) or (body_start < 0 and len(buffer) >= MAX_HEADER_BYTES):
                self._lose(self.no_header)
                continue
            if body_start < 0:
                if complete:
                    self._lose("cut" if cut else self.no_header)
                    continue
                return
            length = self.length(buffer, body_start)
            size = body_start + (length or 0)
            if size > self._max_bytes:
                self._lose("oversized")
                continue
            tail = buffer[size : size + 4 + self._ahead].lstrip(b"\r\n")
            if not complete and len(tail) < self._ahead and len(buffer) < size + 4 + self._ahead:
                return
            exact = len(buffer) >= size and (tail.startswith(self.begins) or (complete and not tail))
            if exact and length is not None:
                yield bytes(buffer[:size]), body_start
                del buffer[:size]
                self._searched = 0
                continue
            # The length lies: the record ends where the next one begins.
            following = self.next_record.search(buffer, max(self._searched, body_start - 4))
            self._searched = max(0, len(buffer) - self.longest_line)
            end = following.start() if following else len(buffer)
            if end > self._max_bytes:
                self._lose("oversized")
            elif following or (complete and not cut):
                self._report("wrong content-length")
                body = bytes(buffer[body_start:end]).removesuffix(self.separator)
                header = self.with_length(bytes(buffer[:body_start]), len(body))
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
        found = self.next_record.search(self._buffer)
        del self._buffer[: found.end() if found else max(0, len(self._buffer) - self.longest_line)]
        self._lost = found is None
        return not self._lost


def end_of_header(record: bytes | bytearray) -> int:
    """The place after the blank line that ends a WARC header, -1 if there is none near enough."""
    end = record.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
    if end >= 0 and record.find(b"\n\n", 0, end) < 0 and record.find(b"\n\r\n", 0, end) < 0:
        return end + 4
    found = _HEADER_END.search(record, 0, MAX_HEADER_BYTES)
    return found.end() if found else -1


def _end_of_blanks(record: bytearray) -> int:
    found = _BLANKS.match(record)
    return found.end() if found else 0


def _length(record: bytes | bytearray, block: int) -> int | None:
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
