"""Records of ARC archives, version 1 (Internet Archive 1996 to 2008, Common Crawl 2008 to 2012), as WARC's.

A record is one line `URL IP-address date content-type length`, then what the server sent, then a line feed
(https://archive.org/web/researcher/ArcFileFormat.php). Spaces in the address, which the format forbids, are
found in real archives. Each record is rewritten as the WARC record that says the same, so that all that comes
after is one road.
"""

from __future__ import annotations

import re
from datetime import datetime

from sishu.corpus.read.records import Record, Splitter

_MAX_LINE_BYTES = 8_192
_BEGINS = (
    *(b"filedesc://", b"http://", b"https://", b"dns:", b"ftp://", b"whois:", b"gopher://", b"mailto:"),
    *(b"news:", b"nntp:", b"mms:", b"rtsp:"),
)
_LINE = (
    rb"((?:filedesc|https?|dns|ftp|whois|gopher|mailto|news|nntp|mms|rtsp):[^\r\n]{1,7900}?)"
    rb" ([0-9a-fA-F.:]{1,45}|-) (\d{12,20}) ([^\r\n]{0,80}?) ([^ \r\n]{1,20}) ?\r?\n"
)
_HEADER = re.compile(_LINE)
_WARC_HEADER = (
    b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    b"WARC-Target-URI: %s\r\n"
)
_NEXT_RECORD = re.compile(rb"\n(?=" + _LINE + rb")")


class ArcSplitter(Splitter):
    """Cuts a stream of bytes into ARC records."""

    begins = _BEGINS
    no_header = "no arc header"
    separator = b"\n"
    next_record = _NEXT_RECORD
    longest_line = _MAX_LINE_BYTES

    def end_of_header(self, record: bytes | bytearray) -> int:
        found = _HEADER.match(record)
        return found.end() if found else -1

    def length(self, record: bytes | bytearray, block: int) -> int | None:
        digits = bytes(record[:block]).split()[-1]
        return int(digits) if digits.isdigit() and len(digits) <= 18 else None

    def with_length(self, header: bytes, length: int) -> bytes:
        return b"%s %d\n" % (header.rstrip().rpartition(b" ")[0], length)


def as_warc(record: Record) -> Record | None:
    """The WARC record that says the same; None for what is no answer over HTTP (the file's own description,
    look-ups of names)."""
    data, block = record
    found = _HEADER.match(data)
    if found is None or not found[1].startswith((b"http:", b"https:")):
        return None
    header = _WARC_HEADER % found[1]
    if date := _iso_date(found[3].decode()):
        header += b"WARC-Date: %s\r\n" % date.encode()
    header += b"Content-Length: %d\r\n\r\n" % (len(data) - block)
    return header + data[block:], len(header)


def _iso_date(digits: str) -> str:
    """`20140216050221` in ISO 8601, empty for what is no date."""
    try:
        date = datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return ""
    return date.strftime("%Y-%m-%dT%H:%M:%SZ") if date.year >= 1990 else ""
