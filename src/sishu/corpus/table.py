"""Documents on disk: Parquet, the same bytes for the same documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from hashlib import sha256
from pathlib import Path

import pyarrow
import pyarrow.parquet

from sishu.console import UserError
from sishu.corpus.document import Document
from sishu.files import whole

DOCUMENT = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("url", pyarrow.string()),
        ("date", pyarrow.string()),
        ("source", pyarrow.string()),
        ("language", pyarrow.string()),
        ("language_score", pyarrow.float32()),
        ("quality_score", pyarrow.float32()),
        ("text", pyarrow.string()),
    ]
)
"""The fields of a document."""
SCHEMA = DOCUMENT.append(pyarrow.field("split", pyarrow.string())).append(
    pyarrow.field("digest", pyarrow.string())
)
"""`split` is "train" or "validation"; `digest` is SHA-256 of the text in UTF-8, hexadecimal."""

SPLITS = ("train", "validation")
ROWS = 1024
"""Rows of a row group."""

assert {field.name for field in fields(Document)} == set(DOCUMENT.names)


def table_of(documents: Sequence[Document], **columns: Sequence[str]) -> pyarrow.Table:
    """The documents as a table, with further columns of text."""
    arrays = [
        pyarrow.array([getattr(document, name) for document in documents], kind)
        for name, kind in zip(DOCUMENT.names, DOCUMENT.types, strict=True)
    ]
    arrays += [pyarrow.array(column, pyarrow.string()) for column in columns.values()]
    return pyarrow.table(arrays, names=[*DOCUMENT.names, *columns])


def documents_of(table: pyarrow.Table) -> list[Document]:
    """The documents of a table of `table_of`."""
    return [Document(**row) for row in table.select(DOCUMENT.names).to_pylist()]


def write_table(path: Path, table: pyarrow.Table) -> None:
    """Writes a table whole or not at all."""
    with whole(path) as unfinished:
        pyarrow.parquet.write_table(table, unfinished, compression="zstd")


class DocumentsWriter:
    """Writes documents.parquet, sorted by id, in memory for a row group; see `SCHEMA`.

    Documents come in pieces; those of one id all in one piece, and ids rise from piece to piece.
    """

    def __init__(self, path: Path) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting: list[pyarrow.Table] = []
        self._rows = 0

    def write(self, splits: dict[str, Sequence[Document]]) -> None:
        """Adds documents of both splits."""
        rows = [
            (document, split, sha256(document.text.encode("utf-8")).hexdigest())
            for split in SPLITS
            for document in splits.get(split, ())
        ]
        rows.sort(key=lambda row: (row[0].id, row[2]))
        further = {"split": [row[1] for row in rows], "digest": [row[2] for row in rows]}
        self._waiting.append(table_of([row[0] for row in rows], **further))
        self._rows += len(rows)
        if self._rows >= ROWS:
            self._flush(self._rows // ROWS * ROWS)

    def _flush(self, count: int) -> None:
        table = pyarrow.concat_tables(self._waiting)
        self._writer.write_table(table.slice(0, count), row_group_size=ROWS)
        self._waiting = [table.slice(count)]
        self._rows -= count

    def __enter__(self) -> DocumentsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._rows:
            self._flush(self._rows)
        self._writer.close()


def write_documents(path: Path, splits: dict[str, Sequence[Document]]) -> None:
    """Writes all documents sorted by id; the file appears complete or not at all."""
    with whole(path) as unfinished, DocumentsWriter(unfinished) as writer:
        writer.write(splits)


def read_split(path: Path, split: str) -> Iterator[Document]:
    """The documents of "train" or "validation" in a documents.parquet, in the order of the file.

    Raises:
        UserError: no such file, or not one that `write_documents` wrote.
        ValueError: another name of a split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    if not path.is_file():
        raise UserError(f"{path} does not exist; run the corpus stage first")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if not set(SCHEMA.names) <= set(file.schema_arrow.names):
            raise pyarrow.ArrowInvalid("columns are missing")
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a table of documents; run the corpus stage again") from error
    return _rows(file, split)


def _rows(file: pyarrow.parquet.ParquetFile, split: str) -> Iterator[Document]:
    with file:
        for batch in file.iter_batches(batch_size=256, columns=[*DOCUMENT.names, "split"]):
            for row in batch.to_pylist():
                if row.pop("split") == split:
                    yield Document(**row)
