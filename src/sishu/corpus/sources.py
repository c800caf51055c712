"""The user's material, whatever its kind, as one stream of pages and documents."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sishu.console import UserError
from sishu.corpus import charset
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.warc import read_pages

KINDS = ".txt .md .html .htm .jsonl .jsonl.gz .parquet .warc .warc.gz .warc.zst .wet .wet.gz"
"""The file kinds that can be read, told apart by how the name ends."""

_TEXT_FIELDS = ("text", "content")


def read_documents_or_pages(path: Path, report: Callable[[str], None]) -> Iterator[Page | Document]:
    """Everything readable in a file or, recursively and sorted by path, in a folder.

    Hidden files and folders are skipped, and in a folder so are files of other kinds. Text files
    and rows give documents; HTML files and WARC records give pages. The URL of a file is its path
    relative to `path` (its name if `path` is the file), that of a row without a `url` field the
    file's with the row's number after `#`: the same wherever the folder lies.

    Args:
        path: a file of one of `KINDS`, or a folder of them.
        report: called with one line, `reason: place`, for each record or file skipped as broken.

    Raises:
        UserError: nothing there, nothing of these kinds, or nothing in them that can be read. The
            last is known, and raised, only at the end of the iteration.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or a folder of {KINDS}")
    files = [path] if path.is_file() else _visible_files(path)
    files = [file for file in files if _kind(file)]
    if not files:
        raise UserError(f"{path} holds nothing that can be read; files may be {KINDS}")
    return _read_all(path, files, report)


def _read_all(path: Path, files: list[Path], report: Callable[[str], None]) -> Iterator[Page | Document]:
    found = False
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        try:
            for item in _READERS[_kind(file)](file, name, report):
                found = True
                yield item
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            report(f"unreadable file: {name} ({error})")
    if not found:
        raise UserError(f"{path} holds no text that can be read; files may be {KINDS}")


def _visible_files(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.is_file())
    visible = (
        file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    return sorted(visible, key=lambda file: file.relative_to(folder).as_posix())


def _kind(file: Path) -> str:
    """The ending that decides the reader, empty for a file of another kind."""
    name = file.name.lower()
    return next((ending for ending in _READERS if name.endswith(ending)), "")


def _read_text(file: Path, name: str, report: Callable[[str], None]) -> Iterator[Document]:
    text, _ = charset.decode(file.read_bytes(), "text/plain")
    if text.strip():
        yield Document(id=document_id(name), url=name, date="", text=text)
    else:
        report(f"empty file: {name}")


def _read_html(file: Path, name: str, report: Callable[[str], None]) -> Iterator[Page]:
    yield Page(url=name, body=file.read_bytes(), content_type="text/html")


def _read_warc(file: Path, name: str, report: Callable[[str], None]) -> Iterator[Page]:
    yield from read_pages(file, damaged=lambda reason: report(f"{reason}: {name}"))


def _read_jsonl(file: Path, name: str, report: Callable[[str], None]) -> Iterator[Document]:

    with gzip.open(file) if name.lower().endswith(".gz") else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                report(f"broken JSON line: {name}:{number}")
                continue
            if not isinstance(row, dict) or (document := _from_row(row, name, number)) is None:
                report(f"line without a text field: {name}:{number}")
                continue
            yield document


def _read_parquet(file: Path, name: str, report: Callable[[str], None]) -> Iterator[Document]:
    with pyarrow.parquet.ParquetFile(file) as table:
        columns = [c for c in (*_TEXT_FIELDS, "url", "date") if c in table.schema_arrow.names]
        if not any(field in columns for field in _TEXT_FIELDS):
            report(f"file without a text column: {name}")
            return
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                document = _from_row(row, name, number)
                if document is None:
                    report(f"row without text: {name}:{number}")
                else:
                    yield document


def _from_row(row: dict[str, Any], name: str, number: int) -> Document | None:
    text = next((row[f] for f in _TEXT_FIELDS if isinstance(row.get(f), str)), "")
    if not text.strip():
        return None
    url = row.get("url")
    url = url if isinstance(url, str) and url else f"{name}#{number}"
    date = row.get("date")
    return Document(id=document_id(url), url=url, date=date if isinstance(date, str) else "", text=text)


_READERS: dict[str, Callable[..., Iterator[Page | Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".html": _read_html,
    ".htm": _read_html,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
    ".warc": _read_warc,
    ".warc.gz": _read_warc,
    ".warc.zst": _read_warc,
    ".wet": _read_warc,
    ".wet.gz": _read_warc,
}
