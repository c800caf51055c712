"""The corpus as other people's software reads it, as it is: datatrove, datasets, DuckDB, Polars."""

from pathlib import Path
from typing import Any

import pytest

from sishu.corpus.document import Document, document_id
from sishu.corpus.pipeline.clean import clean
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.table import SCHEMA, read_split
from tests.corpus.prose import sentences

POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    items = [Document(document_id(f"e{i}"), f"e{i}", "2026-01-01T00:00:00Z", sentences(i)) for i in range(40)]
    items += [Document(document_id("诗"), "诗", "", POEM * 6 + "私塾🎋\u2028")]
    clean(items, folder, CleanSettings(quality="none", repeated_passages=False))
    return folder / "documents.parquet"


@pytest.fixture(scope="module")
def texts(corpus: Path) -> dict[str, str]:
    found = {d.id: d.text for split in ("train", "validation") for d in read_split(corpus, split)}
    assert len(found) == 41 and any("🎋" in text for text in found.values())
    return found


def test_datatrove(corpus: Path, texts: dict[str, str]) -> None:
    from datatrove.pipeline.readers import ParquetReader

    documents = list(ParquetReader(str(corpus.parent), glob_pattern=corpus.name).run())
    assert {document.id: document.text for document in documents} == texts
    assert {"url", "date", "language", "language_score", "source", "digest"} <= set(documents[0].metadata)


def test_datasets(corpus: Path, texts: dict[str, str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(corpus), split="train", cache_dir=str(tmp_path))
    assert dict(zip(rows["id"], rows["text"], strict=True)) == texts
    assert rows.column_names == SCHEMA.names


def test_duckdb(corpus: Path, texts: dict[str, str]) -> None:
    import duckdb

    rows = duckdb.sql(f"select id, text, digest = sha256(text) from '{corpus}'").fetchall()
    assert {identity: text for identity, text, _ in rows} == texts
    assert all(same for _, _, same in rows)


def test_polars(corpus: Path, texts: dict[str, str]) -> None:
    import polars

    table = polars.scan_parquet(corpus).filter(polars.col("language") == "en").collect()
    assert set(table["id"]) < set(texts)
    assert dict(polars.read_parquet(corpus).select("id", "text").iter_rows()) == texts
