"""Every kind of file becomes pages or documents; broken ones are reported, not fatal."""

import gzip
import io
import json
import pickle
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sishu.console import UserError
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.read import sources
from sishu.corpus.read.sources import Input, list_inputs, read_documents_or_pages, read_input

ARC = (
    b"filedesc://x.arc 0.0.0.0 20080102030405 text/plain 9\n1 0 S\nURL\n\n"
    b"http://a.org/ 1.2.3.4 20080102030405 text/html 46\n"
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nhi\n"
)


def read(path: Path) -> tuple[list[Page | Document], list[str]]:
    reports: list[str] = []
    return list(read_documents_or_pages(path, reports.append)), reports


def write_warc(path: Path) -> None:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
        writer.write_record(
            writer.create_warc_record(
                "https://a.org/", "response", payload=io.BytesIO(b"<p>hi</p>"), http_headers=head
            )
        )


def test_a_folder_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_bytes("中文文本，用的是国标编码。".encode("gb18030"))
    (tmp_path / "a.md").write_text("# Title\n", encoding="utf-8")
    (tmp_path / "c.html").write_bytes(b"<p>page</p>")
    (tmp_path / "d.HTM").write_bytes(b"<p>page</p>")
    rows = [{"text": "one", "url": "https://x.org/1", "date": "2026"}, {"content": "two"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "e.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["three", None]}), tmp_path / "g.parquet")
    write_warc(tmp_path / "h.warc.gz")
    for hidden in (".hidden.txt", ".git/x.txt", "sub/.cache/y.txt", "image.png"):
        file = tmp_path / hidden
        file.parent.mkdir(exist_ok=True)
        file.write_text("not to be read")
    items, reports = read(tmp_path)
    assert [item.url for item in items] == [
        "a.md", "c.html", "d.HTM", "https://x.org/1", "e.jsonl#2", "https://x.org/1",
        "f.jsonl.gz#2", "g.parquet#1", "https://a.org/", "sub/b.txt",
    ]  # fmt: skip
    last = items[-1]
    assert isinstance(last, Document)
    assert last.text == "中文文本，用的是国标编码。"
    assert last.id == document_id("sub/b.txt")
    assert isinstance(items[1], Page) and items[1].body == b"<p>page</p>"
    assert items[3] == Document(document_id("https://x.org/1"), "https://x.org/1", "2026", "one")
    assert reports == ["row without text: g.parquet:2"]


def test_a_single_file_is_named_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Call me Ishmael.\n" * 1000)
    items, _ = read(tmp_path / "book.txt")
    assert [item.url for item in items] == ["book.txt"]


def test_broken_lines_are_reported_and_skipped(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(
        b'{"text": "good"}\n{broken\n\n[1]\n{"text": 5}\n\xff\xfe\n' + b"[" * 90_000 + b'\n{"text": "end"}'
    )
    items, reports = read(file)
    assert [item.text for item in items if isinstance(item, Document)] == ["good", "end"]
    assert reports == [
        "broken JSON line: x.jsonl:2",
        "line without a text field: x.jsonl:4",
        "line without a text field: x.jsonl:5",
        "broken JSON line: x.jsonl:6",
        "broken JSON line: x.jsonl:7",
    ]


def test_damaged_files_do_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 9999)[:60])
    (tmp_path / "c.warc.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    (tmp_path / "d.txt").write_text("fine")
    items, reports = read(tmp_path)
    assert items[-1].url == "d.txt"
    assert any("a.parquet" in line for line in reports)
    assert any("b.jsonl.gz" in line for line in reports)


@pytest.mark.parametrize("make", ["missing", "empty folder", "other kind", "blank"])
def test_nothing_to_read_names_the_path_and_the_kinds(tmp_path: Path, make: str) -> None:
    path = tmp_path / "in"
    if make == "other kind":
        path.write_bytes(b"\x89PNG")
    elif make != "missing":
        path.mkdir()
    if make == "blank":
        (path / "a.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"\.jsonl") as error:
        read(path)
    assert str(path) in str(error.value)


def test_inputs_are_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "elsewhere" / "b"):
        (folder / "sub").mkdir(parents=True)
        for name in ("sub/a.txt", "b.txt", "sub.txt", ".no.txt", "sub/x.bin"):
            (folder / name).write_text("text")
        found.append(list_inputs(folder))
    assert [[one.name for one in inputs] for inputs in found] == [["b.txt", "sub.txt", "sub/a.txt"]] * 2
    assert found[0][2] == Input("sub/a.txt", str(tmp_path / "a" / "sub" / "a.txt"), 4)
    assert list_inputs(str(tmp_path / "a")) == found[0] == list_inputs((tmp_path / "a").as_uri())
    assert pickle.loads(pickle.dumps(found[0])) == found[0]
    reports: list[str] = []
    items = [item for one in found[1] for item in read_input(one, reports.append)]
    assert items == list(read_documents_or_pages(tmp_path / "a", reports.append)) and not reports
    Path(found[0][0].location).unlink()
    assert list(read_input(found[0][0], reports.append)) == []
    assert len(reports) == 1 and reports[0].startswith("unreadable file: b.txt (")


def test_more_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.markdown").write_text("# 私塾", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("学而时习之".encode("gb18030") * 9))
    (tmp_path / "c.arc.gz").write_bytes(gzip.compress(ARC))
    (tmp_path / "d.warc").write_bytes(ARC)
    items, reports = read(tmp_path)
    assert [item.url for item in items] == ["a.markdown", "b.txt.gz", "http://a.org/", "http://a.org/"]
    assert isinstance(items[1], Document) and items[1].text == "学而时习之" * 9 and not reports
    assert all(
        kind in sources.KINDS.split() for kind in (".arc.gz", ".pdf", ".arrow", ".paths.gz", ".jsonl.zst")
    )


def test_files_too_large_to_hold_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_TEXT_BYTES", 1000)
    monkeypatch.setattr(sources, "MAX_RECORD_BYTES", 1000)
    (tmp_path / "a.txt").write_text("x" * 1001)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"x" * 3_000_000))
    (tmp_path / "c.html").write_text("x" * 1001)
    (tmp_path / "d.txt").write_text("x" * 1000)
    items, reports = read(tmp_path)
    assert [item.url for item in items] == ["d.txt"]
    assert reports == ["text file too large: a.txt", "text file too large: b.txt.gz", "oversized: c.html"]
