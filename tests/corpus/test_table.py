"""The Parquet table: round trip, columns, same bytes."""

from hashlib import sha256
from pathlib import Path

import pyarrow.parquet
import pytest

from sishu.console import UserError
from sishu.corpus.document import Document, document_id
from sishu.corpus.table import SCHEMA, read_split, write_documents

DOCUMENTS = [
    Document(document_id(f"u{i}"), f"u{i}", "2026-01-01", f"text 文本 {i}\n", "en", 0.5) for i in range(30)
]


def test_round_trip_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    write_documents(path, {"train": DOCUMENTS[:20], "validation": DOCUMENTS[20:]})
    assert sorted(read_split(path, "train"), key=lambda d: d.url) == sorted(
        DOCUMENTS[:20], key=lambda d: d.url
    )
    assert {d.url for d in read_split(path, "validation")} == {d.url for d in DOCUMENTS[20:]}
    table = pyarrow.parquet.read_table(path)
    assert table.schema.names == SCHEMA.names
    assert table["id"].to_pylist() == sorted(d.id for d in DOCUMENTS)
    row = table.to_pylist()[0]
    assert row["digest"] == sha256(row["text"].encode()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["documents.parquet"]


def test_order_of_documents_does_not_change_the_bytes(tmp_path: Path) -> None:
    write_documents(tmp_path / "a", {"train": DOCUMENTS})
    write_documents(tmp_path / "b", {"train": DOCUMENTS[::-1]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_split(tmp_path / "none.parquet", "train")
    (tmp_path / "bad.parquet").write_bytes(b"not a table")
    with pytest.raises(UserError, match="not a table"):
        read_split(tmp_path / "bad.parquet", "train")
    with pytest.raises(ValueError, match="split"):
        read_split(tmp_path / "bad.parquet", "test")
