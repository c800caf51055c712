"""The clean corpus on disk: one Parquet file, the same bytes for the same documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pyarrow
import pyarrow.parquet

from sishu.console import UserError
from sishu.corpus.document import Document

SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("url", pyarrow.string()),
        ("date", pyarrow.string()),
        ("language", pyarrow.string()),
        ("language_score", pyarrow.float32()),
        ("text", pyarrow.string()),
        ("split", pyarrow.string()),
        ("digest", pyarrow.string()),
    ]
)
"""`split` is "train" or "validation"; `digest` is SHA-256 of the text in UTF-8, hexadecimal."""

SPLITS = ("train", "validation")


def write_documents(path: Path, splits: dict[str, Sequence[Document]]) -> None:
    """Writes all documents sorted by id; the file appears complete or not at all."""
    rows = [
        (document, split, sha256(document.text.encode("utf-8")).hexdigest())
        for split in SPLITS
        for document in splits.get(split, ())
    ]
    rows.sort(key=lambda row: (row[0].id, row[2]))
    columns = {
        name: [getattr(document, name) for document, _, _ in rows]
        for name in ("id", "url", "date", "language", "language_score", "text")
    }
    columns["split"] = [split for _, split, _ in rows]
    columns["digest"] = [digest for _, _, digest in rows]
    table = pyarrow.table(columns, schema=SCHEMA)
    unfinished = path.with_name(path.name + ".unfinished")
    pyarrow.parquet.write_table(table, unfinished, compression="zstd", row_group_size=1024)
    unfinished.replace(path)


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
    names = ["id", "url", "date", "text", "language", "language_score", "split"]
    with file:
        for batch in file.iter_batches(batch_size=256, columns=names):
            for row in batch.to_pylist():
                if row.pop("split") == split:
                    yield Document(**row)
