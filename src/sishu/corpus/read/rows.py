"""Documents out of rows: JSON lines, Parquet, and the Arrow files of saved Hugging Face datasets."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from sishu.corpus.document import Document, document_id

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Report = Callable[[str], None]

MAX_LINE_BYTES = 20_000_000
"""A longer line of JSON is reported and skipped; the longest books have some millions, and what JSON makes of
a line can take forty times its bytes."""
MAX_VAIN_LINES = 1_000_000
"""Lines without a document, beyond those with one, after which the rest of a file is left: a megabyte can be
unpacked to a thousand million of them."""
BROKEN = (OSError, EOFError, zlib.error, zstd.ZstdError, pyarrow.ArrowException, MemoryError, ValueError)
"""What reading a file may raise because of what is in it."""

_TEXT_FIELDS = ("text", "content")
_FIELDS = (*_TEXT_FIELDS, "url", "date")
_BATCH = 256
_SKIP = 1 << 20


def unpacked(file: BinaryIO) -> BinaryIO:
    """What is packed in the file with gzip or zstandard, told by its first bytes, or the file itself.

    Reading it raises one of `BROKEN` where the file is damaged or cut, after all that comes before.
    """
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F):
        return cast(BinaryIO, zstd.ZstdFile(file))
    return file


def lines_of(stream: BinaryIO, longest: int) -> Iterator[bytes | None]:
    """The lines one by one, None in the place of one with more than `longest` bytes, which is never held."""
    while line := stream.readline(longest + 1):
        if len(line) <= longest or line.endswith(b"\n"):
            yield line
            continue
        line = b""
        while (rest := stream.readline(_SKIP)) and not rest.endswith(b"\n"):
            pass
        yield None


def read_json_lines(
    file: BinaryIO, name: str, report: Report, longest: int | None = None
) -> Iterator[Document]:
    """Documents out of a `.jsonl`, packed or not; raises one of `BROKEN` where it is cut or damaged."""
    number = good = 0
    try:
        for number, line in enumerate(lines_of(unpacked(file), longest or MAX_LINE_BYTES), 1):
            if number - 2 * good > MAX_VAIN_LINES:
                report(f"too many lines without a document: {name}:{number}")
                return
            if line is None:
                report(f"line too long: {name}:{number}")
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError, MemoryError):
                if number == 1 and name.lower().endswith(".json.gz"):
                    report(f"JSON that is not one object a line: {name}")
                    return
                report(f"broken JSON line: {name}:{number}")
                continue
            if not isinstance(row, dict) or (document := _from_row(row, name, number)) is None:
                report(f"line without a text field: {name}:{number}")
                continue
            good += 1
            yield document
    except BROKEN as error:
        raise OSError(f"after {number} lines: {error}") from error


def read_parquet(file: BinaryIO, name: str, report: Report) -> Iterator[Document]:
    """Documents out of a Parquet file; raises one of `BROKEN` where it is damaged."""
    with pyarrow.parquet.ParquetFile(file) as table:
        if columns := _columns(table.schema_arrow.names, name, report):
            yield from _from_batches(table.iter_batches(batch_size=_BATCH, columns=columns), name, report)


def read_arrow(file: BinaryIO, name: str, report: Report) -> Iterator[Document]:
    """Documents out of an Arrow file or stream; raises one of `BROKEN` where it is damaged or cut.

    Streams are what `save_to_disk` of the library `datasets` writes.
    """
    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        with pyarrow.ipc.open_file(file) as table:
            batches = map(table.get_batch, range(table.num_record_batches))
            yield from _from_arrow(table.schema, batches, name, report)
    else:
        with pyarrow.ipc.open_stream(file) as table:
            yield from _from_arrow(table.schema, table, name, report)


def _from_arrow(schema: Any, batches: Iterator[Any], name: str, report: Report) -> Iterator[Document]:
    if columns := _columns(schema.names, name, report):
        yield from _from_batches(_checked(batches, columns), name, report)


def _checked(batches: Iterator[Any], columns: list[str]) -> Iterator[Any]:
    for batch in batches:
        chosen = batch.select(columns)
        chosen.validate(full=True)  # nothing in a stream says that its offsets are within it
        for start in range(0, len(chosen), _BATCH):
            yield chosen.slice(start, _BATCH)


def _columns(names: list[str], name: str, report: Report) -> list[str]:
    columns = [field for field in _FIELDS if names.count(field) == 1]
    if any(field in columns for field in _TEXT_FIELDS):
        return columns
    report(f"file without a text column: {name}")
    return []


def _from_batches(batches: Iterator[Any], name: str, report: Report) -> Iterator[Document]:
    number = 0
    for batch in batches:
        for row in _rows(batch):
            number += 1
            document = _from_row(row, name, number)
            if document is None:
                report(f"row without text: {name}:{number}")
            else:
                yield document


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date beyond the calendar
        for at in range(len(batch)):
            try:
                yield from batch.slice(at, 1).to_pylist()
            except (ValueError, OverflowError):
                yield {}


def _from_row(row: dict[str, Any], name: str, number: int) -> Document | None:
    text = next((row[f] for f in _TEXT_FIELDS if isinstance(row.get(f), str)), "")
    if not text.strip():
        return None
    url = row.get("url")
    url = url if isinstance(url, str) and url else f"{name}#{number}"
    date = row.get("date")
    date = date.encode("utf-8", "replace").decode("utf-8") if isinstance(date, str) else ""
    return Document(id=document_id(url), url=url, date=date, text=text)


def read_bounded(stream: BinaryIO, most: int) -> bytes | None:
    """All of the stream, None if that is more than `most` bytes."""
    parts = io.BytesIO()
    while piece := stream.read(_SKIP):
        if parts.tell() + len(piece) > most:
            return None
        parts.write(piece)
    return parts.getvalue()
