"""Rows out of files of every make, whole and cut, and lines that nobody should hold in memory."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.corpus.document import Document
from sishu.corpus.read import rows
from sishu.corpus.read.rows import lines_of, read_bounded
from sishu.corpus.read.sources import read_documents_or_pages

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LINES = [
    json.dumps({"text": f"学而时习之 {n} " + "and more " * (n % 7)}, ensure_ascii=False) for n in range(5000)
]
DATA = "\n".join(LINES).encode()


def read(path: Path) -> tuple[list[str], list[str]]:
    reports: list[str] = []
    items = list(read_documents_or_pages(path, reports.append))
    return [item.text for item in items if isinstance(item, Document)], reports


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", DATA),
        ("x.jsonl.gz", gzip.compress(DATA)),
        ("x.jsonl.gz", gzip.compress(DATA[:999]) + gzip.compress(DATA[999:])),
        ("x.jsonl.gz", DATA),
        ("x.jsonl.zst", zstd.compress(DATA)),
        (
            "x.jsonl.zst",
            b"\x50\x2a\x4d\x18\x02\0\0\0hi" + zstd.compress(DATA[:999]) + zstd.compress(DATA[999:]),
        ),
        ("x.json.gz", gzip.compress(DATA)),
    ],
)
def test_json_lines_in_every_packing(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    texts, reports = read(tmp_path / name)
    assert texts == [json.loads(line)["text"] for line in LINES] and not reports


@pytest.mark.parametrize("packed", [gzip.compress, zstd.compress])
def test_a_cut_file_keeps_the_rows_before_the_cut(tmp_path: Path, packed) -> None:
    name = "x.jsonl.gz" if packed is gzip.compress else "x.jsonl.zst"
    half = packed(DATA[: len(DATA) // 2]) + packed(DATA[len(DATA) // 2 :])
    (tmp_path / name).write_bytes(half[:-500])
    texts, reports = read(tmp_path / name)
    assert 2400 < len(texts) < 5000 and texts == [json.loads(line)["text"] for line in LINES[: len(texts)]]
    assert len(reports) == 1 and reports[0].startswith(f"unreadable file: {name} (after {len(texts)} lines: ")


def test_json_that_is_no_lines_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps([{"text": "x"}] * 99, indent=1).encode()))
    (tmp_path / "b.jsonl").write_bytes(DATA)
    assert read(tmp_path)[1] == ["JSON that is not one object a line: a.json.gz"]


def test_a_line_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 1000)
    long = json.dumps({"text": "x" * 3_000_000})
    (tmp_path / "x.jsonl").write_text("\n".join([LINES[0], long, LINES[1], long]), encoding="utf-8")
    texts, reports = read(tmp_path / "x.jsonl")
    assert texts == [json.loads(line)["text"] for line in LINES[:2]]
    assert reports == ["line too long: x.jsonl:2", "line too long: x.jsonl:4"]


def test_a_line_of_two_gigabytes_is_never_held(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(500):
            file.write(bytes(4_000_000))
        file.write(b'\n{"text": "after"}\n')
    code = (
        "import sys, resource, pathlib\n"
        "from sishu.corpus.read.sources import read_documents_or_pages as read\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print([item.text for item in read(pathlib.Path(sys.argv[1]), print)])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.jsonl.gz")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[:2] == ["line too long: x.jsonl.gz:1", "['after']"]
    assert int(out[2]) < 400_000  # the longest line that is read, twice, and change


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_lines_are_those_of_the_file_but_for_the_long(parts: list[bytes], longest: int) -> None:
    data = b"\n".join(parts)
    expected = [one if len(one.removesuffix(b"\n")) <= longest else None for one in io.BytesIO(data)]
    assert list(lines_of(io.BytesIO(data), longest)) == expected


def test_bounded_reading() -> None:
    assert read_bounded(io.BytesIO(b"abc"), 3) == b"abc"
    assert read_bounded(io.BytesIO(b"abcd"), 3) is None
    assert read_bounded(io.BytesIO(b""), 3) == b""


TABLE = pyarrow.table(
    {
        "text": ["one", None, " ", "二"] * 300,
        "url": [f"https://a.org/{n}" if n % 2 else None for n in range(1200)],
        "extra": [[{"a": 1}]] * 1200,
    }
)


def write_arrow(path: Path, stream: bool, table: pyarrow.Table = TABLE, rows_each: int = 700) -> None:
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with path.open("wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_each)


@pytest.mark.parametrize("stream", [True, False])
def test_saved_data_sets(tmp_path: Path, stream: bool) -> None:
    """The layout of `save_to_disk` of the library `datasets`, and the rows that Parquet gives."""
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    write_arrow(folder / "data-00000-of-00001.arrow", stream)
    for name in ("state.json", "dataset_info.json"):
        (folder / name).write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    pyarrow.parquet.write_table(TABLE, tmp_path / "t.parquet")
    reports: list[str] = []
    items = list(read_documents_or_pages(tmp_path / "saved", reports.append))
    assert len(items) == 600 and items[0].url == "train/data-00000-of-00001.arrow#1"
    assert items[1].url == "https://a.org/3" and isinstance(items[1], Document) and items[1].text == "二"
    same_reports: list[str] = []
    same = list(read_documents_or_pages(tmp_path / "t.parquet", same_reports.append))
    assert [item.text for item in same if isinstance(item, Document)] == ["one", "二"] * 300
    assert len(reports) == len(same_reports) == 600


def test_a_cut_stream_keeps_its_first_batches(tmp_path: Path) -> None:
    write_arrow(tmp_path / "x.arrow", stream=True)
    data = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "x.arrow").write_bytes(data[:-2000])
    texts, reports = read(tmp_path / "x.arrow")
    assert texts == ["one", "二"] * 175 and reports[-1].startswith("unreadable file: x.arrow (")


def test_columns_of_another_kind(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow", True, pyarrow.table({"tokens": [1]}))
    write_arrow(
        tmp_path / "b.arrow", True, pyarrow.table({"text": [1], "content": ["real"], "date": ["2020"]})
    )
    texts, reports = read(tmp_path)
    assert texts == ["real"] and reports == ["file without a text column: a.arrow"]


def test_text_that_is_not_unicode(tmp_path: Path) -> None:
    bad = pyarrow.array([b"good", b"\xff\xfe", b"end"]).view(pyarrow.utf8())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "a.parquet")
    write_arrow(tmp_path / "b.arrow", True, pyarrow.table({"text": bad}))
    texts, reports = read(tmp_path)
    assert texts == ["good", "end"]
    assert reports[0] == "row without text: a.parquet:2" and "unreadable file: b.arrow" in reports[1]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), stream=st.booleans())
def test_any_damage_to_a_stream_is_survived(tmp_path_factory, data, stream: bool) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged-arrow"
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("sound")
    write_arrow(folder / "x.arrow", stream, TABLE.slice(0, 20))
    raw = bytearray((folder / "x.arrow").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "x.arrow").write_bytes(raw)
    texts, _ = read(folder)
    assert texts[0] == "sound"
