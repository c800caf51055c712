"""Files on other machines: listed, fetched, taken up again where the connection ended, and explained."""

import gzip
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from sishu.console import UserError
from sishu.corpus.document import Document
from sishu.corpus.read import remote
from sishu.corpus.read.remote import explain, fetched
from sishu.corpus.read.sources import Input, list_inputs, read_documents_or_pages, read_input
from sishu.files import as_url
from tests.corpus.read.file_server import Files, file_server
from tests.corpus.read.test_sources import write_warc

ROWS = b'{"text": "one"}\n{"text": "\xe4\xba\x8c"}\n'


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    with file_server() as server:
        yield server


@pytest.fixture
def big() -> bytes:
    return b"".join(json.dumps({"text": f"line {n}"}).encode() + b"\n" for n in range(20_000))


def texts(data: str) -> tuple[list[str], list[str]]:
    reports: list[str] = []
    items = list(read_documents_or_pages(data, reports.append))
    return [item.text for item in items if isinstance(item, Document)], reports


def test_one_file(files: Files) -> None:
    files.content["/a/x.jsonl"] = ROWS
    assert texts(files.url + "/a/x.jsonl") == (["one", "二"], [])
    assert list_inputs(files.url + "/a/x.jsonl") == [Input("x.jsonl", files.url + "/a/x.jsonl", len(ROWS))]
    assert list_inputs(Path(files.url + "/a/x.jsonl"))[0].location == files.url + "/a/x.jsonl"
    assert list_inputs(files.url + "/a/x.jsonl?key=1")[0].name == "x.jsonl"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("cuts", [0, 1, 2])
def test_a_cut_connection_is_taken_up_again(
    files: Files, big: bytes, ranges: bool, cuts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK_BYTES", 100_000)
    files.content["/x.jsonl"] = big
    source = list_inputs(files.url + "/x.jsonl")[0]
    files.ranges, files.cuts = ranges, cuts
    reports: list[str] = []
    assert sum(1 for _ in read_input(source, reports.append)) == 20_000 and not reports
    if ranges:  # and no byte was asked for twice but in the pieces that were cut
        assert sum(files.asked.values()) == -(-len(big) // 100_000) + cuts


def test_a_server_that_always_cuts_is_given_up(files: Files, big: bytes) -> None:
    files.content["/f/x.jsonl"] = files.content["/f/y.jsonl"] = big
    files.content["/f/"] = b'<a href="x.jsonl">x</a> <a href="y.jsonl">y</a>'
    inputs = list_inputs(files.url + "/f")
    files.cuts = 3
    reports: list[str] = []
    assert list(read_input(inputs[0], reports.append)) == []
    assert len(reports) == 1 and reports[0].startswith("unreadable file: x.jsonl (")
    assert sum(1 for _ in read_input(inputs[1], reports.append)) == 20_000


def test_a_file_of_a_folder_that_is_refused_is_counted(files: Files) -> None:
    files.content["/f/"] = (
        b'<a href="../">up</a><a href="?C=M">sort</a><a href="a.jsonl">a</a><a href="b.jsonl">b</a>'
        b'<a href="sub/">s</a><a href="http://127.0.0.1:1/c.jsonl">c</a><a href="d.png">d</a>'
        b'<a href=".e.jsonl">e</a>'
    )
    files.content["/f/sub/"] = b'<a href="../">up</a><a href="z.jsonl">z</a><a href="/f/sub/">here</a>'
    files.content["/f/b.jsonl"] = files.content["/f/sub/z.jsonl"] = ROWS
    files.status["/f/a.jsonl"] = 403
    assert [one.name for one in list_inputs(files.url + "/f")] == ["a.jsonl", "b.jsonl", "sub/z.jsonl"]
    found, reports = texts(files.url + "/f/")
    assert found == ["one", "二"] * 2
    assert len(reports) == 1 and "unreadable file: a.jsonl (access is refused" in reports[0]
    assert sum(n for (path, _), n in files.asked.items() if path == "/f/a.jsonl") == 1  # 403 is final


def test_a_server_in_trouble_is_asked_again(files: Files) -> None:
    files.content["/x.jsonl"] = ROWS
    source = list_inputs(files.url + "/x.jsonl")[0]
    files.status["/x.jsonl"] = 503
    reports: list[str] = []
    assert list(read_input(source, reports.append)) == []
    assert reports == ["unreadable file: x.jsonl (the server answers 503; try again later)"]
    # each try asks for the size first
    assert sum(files.asked.values()) == 3


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing.jsonl", "no such file"),
        ("/secret.jsonl", "access is refused"),
        ("/nothing/", "no such file"),
    ],
)
def test_what_cannot_be_had_is_said(files: Files, path: str, said: str) -> None:
    files.content["/secret.jsonl"] = ROWS
    files.status["/secret.jsonl"] = 403
    with pytest.raises(UserError, match=said) as error:
        list_inputs(files.url + path)
    assert files.url + path in str(error.value)


def test_nobody_there_and_nothing_known() -> None:
    with pytest.raises(
        UserError, match=r"127\.0\.0\.1:1/x\.jsonl cannot be read: the server cannot be reached"
    ):
        list_inputs("http://127.0.0.1:1/x.jsonl")
    with pytest.raises(UserError, match=r"foo://a/x.jsonl cannot be opened.*Protocol not known: foo"):
        list_inputs("foo://a/x.jsonl")


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from sishu.corpus.read.sources import list_inputs\n"
        "try: list_inputs('s3://bucket/x.jsonl')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("UserError s3://bucket/x.jsonl needs the package s3fs; pip install it (")


def test_archives_are_read_from_afar(files: Files, tmp_path: Path) -> None:
    write_warc(tmp_path / "h.warc.gz")
    files.content["/h.warc.gz"] = (tmp_path / "h.warc.gz").read_bytes()
    items = list(read_documents_or_pages(files.url + "/h.warc.gz", print))
    assert [item.url for item in items] == ["https://a.org/"]


def test_nothing_stays_on_the_disk(
    files: Files, big: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files.content["/x.jsonl"] = big
    open_files = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(RuntimeError), fetched(files.url + "/x.jsonl") as file:
        assert file.read(9) == big[:9]
        assert not list(tmp_path.iterdir())
        raise RuntimeError
    reading = read_input(list_inputs(files.url + "/x.jsonl")[0], print)
    next(reading)
    reading.close()
    held = set(Path("/proc/self/fd").iterdir()) - open_files
    assert not [one for one in held if one.exists() and str(tmp_path) in str(one.readlink())]


def test_a_full_disk_is_said(files: Files, big: bytes) -> None:
    files.content["/x.jsonl"] = big
    source = list_inputs(files.url + "/x.jsonl")[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"the disk is full: no room in .* set TMPDIR"):
            list(read_input(source, print))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_fills_no_memory(files: Files) -> None:
    """300 MB pass through a process that does not grow by 100."""
    files.content["/x.txt"] = b"small"
    files.content["/y.txt"] = bytes(300_000_000)
    code = (
        "import sys, resource, fsspec.implementations.http, sishu.corpus.read.remote as r\n"
        "with r.fetched(sys.argv[1] + '/x.txt') as f: f.read(1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with r.fetched(sys.argv[1] + '/y.txt') as f: assert f.seek(0, 2) == 300_000_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, files.url], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 100_000


def test_a_store_in_memory() -> None:
    store = fsspec.filesystem("memory")
    for name in ("b.jsonl", "sub/a.jsonl", ".hidden.jsonl", "c.png"):
        store.pipe(f"/sishu-test/{name}", ROWS)
    try:
        inputs = list_inputs("memory://sishu-test")
        assert [(one.name, one.size) for one in inputs] == [
            ("b.jsonl", len(ROWS)),
            ("sub/a.jsonl", len(ROWS)),
        ]
        assert texts("memory://sishu-test") == (["one", "二"] * 2, [])
        assert [one.name for one in list_inputs("memory://sishu-test/*.jsonl")] == ["b.jsonl"]
        with pytest.raises(UserError, match=r"holds nothing that can be read|no such file"):
            list_inputs("memory://sishu-test/none")
    finally:
        store.rm("/sishu-test", recursive=True)


def test_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    server_module = pytest.importorskip("moto.server", reason="needs moto[s3,server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        monkeypatch.setattr(remote, "CHUNK_BYTES", 6_000_000)
        store = fsspec.filesystem("s3")
        store.mkdir("school")
        store.pipe("school/data/a.jsonl", ROWS)
        store.pipe("school/data/sub/b.txt.gz", gzip.compress("私塾".encode() * 4_000_000, 0))
        inputs = list_inputs("s3://school/data")
        assert [(one.name, one.location) for one in inputs] == [
            ("a.jsonl", "s3://school/data/a.jsonl"),
            ("sub/b.txt.gz", "s3://school/data/sub/b.txt.gz"),
        ]
        assert inputs[0].size == len(ROWS)
        assert texts("s3://school/data") == (["one", "二", "私塾" * 4_000_000], [])
        with pytest.raises(UserError, match="no such file"):
            list_inputs("s3://school/data/none.jsonl")
        with pytest.raises(UserError, match="s3://nobody"):
            list_inputs("s3://nobody/x")
    finally:
        server.stop()


def test_a_data_set_of_hugging_face(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(path: str) -> bytes | None:
        entries = [
            {"type": "file", "path": name, "size": len(ROWS), "oid": "0" * 40}
            for name in ("README.md", ".gitattributes", "data/train.jsonl")
        ]
        folder = {"type": "directory", "path": "data", "oid": "1" * 40}
        if path.startswith("/api/datasets/school/books/tree/"):
            deep = "recursive=true" in path.lower()
            return json.dumps([*entries, folder] if deep else [*entries[:2], folder]).encode()
        if path.startswith("/api/datasets/school/books/paths-info/"):
            return json.dumps([]).encode()
        if path.startswith("/api/datasets/school/books"):
            return json.dumps({"id": "school/books", "sha": "0" * 40, "siblings": []}).encode()
        return ROWS if path.startswith("/datasets/school/books/resolve/") else None

    pytest.importorskip("huggingface_hub")
    files.answer = answer
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": files.url, "token": False})
    inputs = list_inputs("hf://datasets/school/books")
    assert [(one.name, one.size) for one in inputs] == [("data/train.jsonl", len(ROWS))]
    assert inputs[0].location.startswith("hf://datasets/school/books")
    assert texts("hf://datasets/school/books") == (["one", "二"], [])
    with pytest.raises(UserError, match="hf://datasets/school/none"):
        list_inputs("hf://datasets/school/none")


@pytest.mark.parametrize(
    ("data", "url"),
    [
        ("https://a.org/x", "https://a.org/x"),
        (Path("https://a.org/x"), "https://a.org/x"),
        (Path("hf://datasets/a/b"), "hf://datasets/a/b"),
        ("HTTP://a.org/x", "http://a.org/x"),
        ("memory:///x", "memory:///x"),
        ("folder/x", ""),
        ("/folder/http:/x", ""),
        ("c:/x", ""),
        (Path("c:/x"), ""),
        ("note:/x", ""),
    ],
)
def test_addresses_are_told_from_paths(data: str | Path, url: str) -> None:
    assert as_url(data) == url


def test_causes_are_explained() -> None:
    assert explain(PermissionError("AccessDenied")).startswith("access is refused")
    assert explain(ConnectionError("Cannot connect to host")).startswith("the server cannot be reached")
    assert explain(RuntimeError("a\nb")) == "a b" and explain(RuntimeError()) == "RuntimeError"
