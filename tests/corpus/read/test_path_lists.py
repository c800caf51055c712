"""Lists of paths: what Common Crawl publishes, and what somebody else may have put into one."""

import gzip
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.read.sources import Input, list_inputs, read_documents_or_pages
from tests.corpus.read.file_server import file_server
from tests.corpus.read.test_sources import write_warc

NAMES = [f"crawl-data/CC-MAIN-2024-10/segments/1/warc/CC-MAIN-{n:05}.warc.gz" for n in range(3)]


def listed(path: Path, lines: list[str], **options: str) -> tuple[list[Input], list[str]]:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    reports: list[str] = []
    return list_inputs(path, reports.append, **options), reports


@pytest.mark.parametrize("name", ["warc.paths", "warc.paths.gz"])
def test_each_line_is_an_input(tmp_path: Path, name: str) -> None:
    lines = ["# a crawl", "", NAMES[1], NAMES[0], " \r", NAMES[1], "https://b.org/x.arc.gz", "s3://c/d.warc"]
    inputs, reports = listed(tmp_path / name, lines)
    assert [(one.name, one.location) for one in inputs] == [
        (NAMES[0], "https://data.commoncrawl.org/" + NAMES[0]),
        (NAMES[1], "https://data.commoncrawl.org/" + NAMES[1]),
        ("https://b.org/x.arc.gz", "https://b.org/x.arc.gz"),
        ("s3://c/d.warc", "s3://c/d.warc"),
    ]
    assert not reports and pickle.loads(pickle.dumps(inputs)) == inputs
    inputs, _ = listed(tmp_path / name, NAMES, base="s3://commoncrawl")
    assert inputs[0].location == "s3://commoncrawl/" + NAMES[0]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("../x.warc.gz", "leaves the archive"),
        ("a/../../x.warc.gz", "leaves the archive"),
        ("/etc/x.warc.gz", "leaves the archive"),
        ("//b.org/x.warc.gz", "leaves the archive"),
        ("https://b.org/../x.warc.gz", "leaves the archive"),
        ("file:///etc/x.warc.gz", "not on a public store"),
        ("file:/etc/x.warc.gz", "not on a public store"),
        ("memory://x.warc.gz", "not on a public store"),
        ("https:///x.warc.gz", "not on a public store"),
        ("zip://a.warc.gz::https://b.org/x.warc.gz", "characters that have no place in a path"),
        ("a\x00.warc.gz", "characters that have no place in a path"),
        ("a\x1b[2J.warc.gz", "characters that have no place in a path"),
        ("a\\..\\x.warc.gz", "characters that have no place in a path"),
        ("a b.warc.gz", "characters that have no place in a path"),
        ("a.exe", "of a kind that cannot be read"),
        ("warc.paths.gz", "of a kind that cannot be read"),
        ("a" * 5000 + ".warc.gz", "too long"),
    ],
)
def test_a_hostile_line_is_refused(tmp_path: Path, line: str, cause: str) -> None:
    inputs, reports = listed(tmp_path / "x.paths", [NAMES[0], line, NAMES[1]])
    assert [one.name for one in inputs] == NAMES[:2]
    assert reports == [f"refused path: x.paths:2 ({cause})"]


@given(st.text(max_size=60))
def test_nothing_on_this_machine_is_ever_named(tmp_path_factory, line: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.paths"
    path.write_bytes((NAMES[0] + "\n" + line + ".warc.gz").encode("utf-8", "surrogatepass"))
    for one in list_inputs(path):
        assert one.location.lower().startswith(("https://", "http://", "s3://", "gs://", "hf://"))
        assert "/../" not in one.location


def test_a_list_that_is_cut_gives_what_comes_before(tmp_path: Path) -> None:
    data = gzip.compress("\n".join(NAMES * 5000).encode())
    (tmp_path / "x.paths.gz").write_bytes(data[:-20])
    reports: list[str] = []
    assert len(list_inputs(tmp_path, reports.append)) == 3
    assert len(reports) == 1 and reports[0].startswith("unreadable file: x.paths.gz (")
    (tmp_path / "x.paths.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match="holds nothing that can be read"):
        list_inputs(tmp_path)


def test_a_list_from_afar_and_what_it_names(tmp_path: Path) -> None:
    write_warc(tmp_path / "h.warc.gz")
    with file_server() as files:
        files.content["/crawl-data/a.warc.gz"] = (tmp_path / "h.warc.gz").read_bytes()
        lines = f"crawl-data/missing.warc.gz\n{files.url}/crawl-data/a.warc.gz\n"
        files.content["/warc.paths.gz"] = gzip.compress(lines.encode())
        inputs = list_inputs(files.url + "/warc.paths.gz", base=files.url)
        assert [one.name for one in inputs] == [
            "crawl-data/missing.warc.gz",
            files.url + "/crawl-data/a.warc.gz",
        ]
        (tmp_path / "x.paths").write_text(
            f"{files.url}/crawl-data/no.warc.gz\n{files.url}/crawl-data/a.warc.gz"
        )
        reports: list[str] = []
        items = list(read_documents_or_pages(tmp_path / "x.paths", reports.append))
    assert [item.url for item in items] == ["https://a.org/"]
    assert len(reports) == 1 and "crawl-data/no.warc.gz (there is no such file" in reports[0]
