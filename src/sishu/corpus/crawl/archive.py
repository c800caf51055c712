"""The working archive of a crawl: a WARC that grows a record at a time and survives kill -9.

It is the crawl's only memory. Every answer from a server is one gzip member, appended and flushed,
so that whatever stops the crawl, all answers but those in flight are on disk; the next run reads
the file, drops a member that was cut off, and never asks for a stored address again.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import IO

from fastwarc.warc import WarcRecord
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sishu.corpus.read.warc import next_member, parse_page

_STEP = 65_536


@dataclass(slots=True)
class _Place:
    offset: int
    length: int
    """Of the gzip member, in bytes."""
    status: int


@dataclass(slots=True)
class Answer:
    """What a server said: status, headers in order, and the body as it was sent."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name, "" if there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


class WorkingArchive:
    """An append-only WARC with an index from URL to record, rebuilt when it is opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._places: dict[str, _Place] = {}
        self._file: IO[bytes] = path.open("a+b")
        end = self._load()
        self._file.truncate(end)
        self._file.seek(end)
        self.resumed = frozenset(self._places)
        """The addresses that were there when the archive was opened."""

    def __contains__(self, url: str) -> bool:
        return url in self._places

    def append(self, url: str, answer: Answer) -> None:
        """Store an answer under `url`; it survives the death of this process from here on.

        Raises:
            OSError: the disk is full or gone.
        """
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        member = _response_member(url, answer, date)
        offset = self._file.tell()
        self._file.write(member)
        self._file.flush()
        self._places[url] = _Place(offset, len(member), answer.status)

    def read(self, url: str) -> Answer:
        """The stored answer for `url`. Raises KeyError for an unknown address."""
        record = WarcRecord.from_bytes(zlib.decompress(self._member(url), wbits=31))
        record.parse_http(auto_decode="none")
        return Answer(
            self._places[url].status,
            record.http_headers.to_tuples(),
            record.reader.read(),
        )

    def decoded_body(self, url: str) -> bytes:
        """The body of a stored page with its content encoding undone, b"" where that fails."""
        record = zlib.decompress(self._member(url), wbits=31)
        page = parse_page(record, lambda reason: None)
        return page.body if page else b""

    def write_final(self, path: Path, urls: Iterable[str]) -> None:
        """Write the named records, sorted by URL, to a new archive at `path`, all or nothing."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(_info_member())
            for url in sorted(urls):
                file.write(self._member(url))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file: what it held is in the final archive or not worth keeping."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _member(self, url: str) -> bytes:
        place = self._places[url]
        with self._path.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.length)

    def _load(self) -> int:
        """Index the file; returns the length of its undamaged part."""
        if self._path.stat().st_size == 0:
            return 0
        good = 0
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = next_member(data, 0)
            while start < len(data):
                inflated, end = _inflate(data, start)
                if inflated is None:
                    start = next_member(data, start + 1)
                    continue
                self._index(inflated, start, end - start)
                good = start = end
        return good

    def _index(self, inflated: bytes, offset: int, length: int) -> None:
        try:
            record = WarcRecord.from_bytes(inflated)
            record.parse_http(auto_decode="none")
            url, status = (
                record.headers.get("WARC-Target-URI"),
                record.http_headers.status_code,
            )
        except OSError:
            return
        if url and status:
            self._places[url] = _Place(offset, length, status)


def _inflate(data: mmap.mmap, start: int) -> tuple[bytes | None, int]:
    """The content of the gzip member at `start` and where it ends; None if it is cut or broken."""
    inflater, parts, at = zlib.decompressobj(wbits=31), [], start
    try:
        while not inflater.eof and at < len(data):
            parts.append(inflater.decompress(data[at : at + _STEP]))
            at = min(at + _STEP, len(data))
    except zlib.error:
        return None, at
    return (b"".join(parts) if inflater.eof else None), at - len(inflater.unused_data)


def _response_member(url: str, answer: Answer, date: str) -> bytes:
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Unknown"
    # Derived, not random: the same page has the same record whenever and in what order it is stored
    name = f"{url} {hashlib.sha256(answer.body).hexdigest()}"
    buffer = BytesIO()
    writer = WARCWriter(buffer, gzip=True, warc_version="1.1")
    record = writer.create_warc_record(
        url,
        "response",
        payload=BytesIO(answer.body),
        length=len(answer.body),
        http_headers=StatusAndHeaders(f"{answer.status} {reason}", list(answer.headers), protocol="HTTP/1.1"),
        warc_headers_dict={
            "WARC-Date": date,
            "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>",
        },
    )
    writer.write_record(record)
    return buffer.getvalue()


def _info_member() -> bytes:
    content = b"software: sishu\r\nformat: WARC File Format 1.1\r\n"
    buffer = BytesIO()
    writer = WARCWriter(buffer, gzip=True, warc_version="1.1")
    record = writer.create_warc_record(
        "",
        "warcinfo",
        payload=BytesIO(content),
        length=len(content),
        warc_content_type="application/warc-fields",
        warc_headers_dict={
            "WARC-Date": "1970-01-01T00:00:00Z",  # the pages carry the dates of the crawl
            "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content.decode())}>",
        },
    )
    writer.write_record(record)
    return buffer.getvalue()
