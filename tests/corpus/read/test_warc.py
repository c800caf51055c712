"""Archives as they are found: cut, flipped, mislabelled, and merely large."""

import gzip
import random
import zlib
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.corpus.document import Page
from sishu.corpus.read import warc
from sishu.corpus.read.warc import read_pages
from tests.corpus.archives import read, zipped
from tests.shared_data import shared_data

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


def record(block: bytes, url: str = "http://a/", kind: str = "response", length: int | None = None) -> bytes:
    head = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        "WARC-Date: 2024-01-02T03:04:05Z",
        f"Content-Length: {len(block) if length is None else length}",
        "Content-Type: application/http; msgtype=response",
    ]
    if url:
        head.insert(2, f"WARC-Target-URI: {url}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def numbered(count: int, size: int = 3000) -> list[bytes]:
    noise = random.Random(0)
    bodies = [noise.randbytes(size // 2).hex().encode() for _ in range(count)]
    return [record(HTML + b"\r\n" + body, f"http://a/{n}") for n, body in enumerate(bodies)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.warc"


def test_zstandard(file: Path) -> None:
    records = numbered(40)
    frames = [pyarrow.compress(one, codec="zstd", asbytes=True) for one in records]
    pages, reasons = read(file, b"".join(frames))
    assert [page.url for page in pages] == [f"http://a/{n}" for n in range(40)] and not reasons
    assert pages == read(file, b"".join(records))[0]
    whole = pyarrow.compress(b"".join(records), codec="zstd", asbytes=True)
    assert read(file, whole)[0] == pages
    flipped = bytearray(b"".join(frames))
    flipped[sum(map(len, frames[:20])) + 30] ^= 0xFF
    some, reasons = read(file, bytes(flipped))
    assert some == pages[:20] + pages[21:] and reasons == {"damaged zstd frame": 1}
    some, reasons = read(file, b"".join(frames)[:-100])
    assert some == pages[:39] and reasons == {"cut": 1}
    bomb = pyarrow.compress(bytes(200_000_000), codec="zstd", asbytes=True)
    some, reasons = read(file, bomb + frames[0] + frames[1])
    assert some == pages[:2] and reasons == {"no warc header": 1}


def test_texts_taken_from_pages(file: Path) -> None:
    text = "私塾 and more.\r\n\r\nA second paragraph.\n"
    wet = [record(b"x", "", "warcinfo"), record(text.encode(), "http://a/1", "conversion")]
    pages, reasons = read(file, zipped(wet))
    assert pages == [Page("http://a/1", text.encode(), "text/plain; charset=utf-8", "2024-01-02T03:04:05Z")]
    assert not reasons


@pytest.mark.parametrize("pack", ["plain", "member each", "one member"])
def test_pages_in_order_with_their_headers(file: Path, pack: str) -> None:
    records = [
        record(b"software: x\r\n", "", "warcinfo"),
        record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
        *numbered(50),
        record(b"HTTP/1.1 404 Not Found\r\n\r\nno"),
        record(b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"),
        record(HTML + b"\r\n", "http://a/empty"),
        record(b"HTTP/1.1 204 No Content\r\n\r\n", "http://a/204"),
    ]
    data = {"plain": b"".join, "member each": zipped, "one member": lambda r: gzip.compress(b"".join(r))}[
        pack
    ](records)
    pages, reasons = read(file, data)
    assert [page.url for page in pages] == [f"http://a/{n}" for n in range(50)] + [
        "http://a/empty",
        "http://a/204",
    ]
    assert pages[0].content_type == "text/html" and pages[0].date == "2024-01-02T03:04:05Z"
    assert len(pages[7].body) == 3000 and pages[50].body == pages[51].body == b""
    assert reasons == {}


@pytest.mark.parametrize("pack", [b"".join, zipped])
def test_a_cut_file_loses_only_its_last_record(file: Path, pack) -> None:
    data = pack(numbered(10))
    pages, reasons = read(file, data[:-700])
    assert len(pages) == 9 and reasons == {"cut": 1}


def test_a_flipped_bit_loses_only_its_record(file: Path) -> None:
    data = bytearray(zipped(numbered(10)))
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"\x1f\x8b\x08\0"]
    data[starts[4] + 500] ^= 0x10
    pages, reasons = read(file, bytes(data))
    assert [page.url for page in pages] == [f"http://a/{n}" for n in range(10) if n != 4]
    assert reasons == {"damaged gzip member": 1}


def test_zeros_written_over_a_stretch(file: Path) -> None:
    data = bytearray(zipped(numbered(12)))
    third = len(data) // 3
    data[third : third + 4000] = bytes(4000)
    pages, reasons = read(file, bytes(data))
    assert 8 <= len(pages) <= 10 and sum(reasons.values()) >= 1
    assert pages[-1].url == "http://a/11"


def test_a_wrong_checksum_loses_the_record_although_it_inflates(file: Path) -> None:
    members = [gzip.compress(one) for one in numbered(3)]
    members[1] = members[1][:-8] + b"\0\0\0\0" + members[1][-4:]
    pages, reasons = read(file, b"".join(members))
    assert [page.url for page in pages] == ["http://a/0", "http://a/2"]
    assert reasons == {"damaged gzip member": 1}


@pytest.mark.parametrize("pack", [b"".join, zipped])
@pytest.mark.parametrize("error", [-40, -1, 7, 900, 6000])
def test_wrong_content_length_is_mended_by_the_next_record(file: Path, pack, error: int) -> None:
    records = numbered(5)
    block = HTML + b"\r\n" + b"z" * 3000
    records[2] = record(block, "http://a/2", length=len(block) + error)
    pages, reasons = read(file, pack(records))
    assert [page.url for page in pages] == [f"http://a/{n}" for n in range(5)]
    assert pages[2].body == b"z" * 3000
    assert reasons == {"wrong content-length": 1}


def test_a_record_spread_over_two_members(file: Path) -> None:
    first, second = numbered(2)
    pages, reasons = read(file, zipped([first[:400], first[400:], second]))
    assert [page.url for page in pages] == ["http://a/0", "http://a/1"] and reasons == {}


@pytest.mark.parametrize("pack", [b"".join, zipped])
def test_a_huge_record_is_skipped(file: Path, pack) -> None:
    records = numbered(4)
    records[1] = record(HTML + b"\r\n" + b"x" * 300_000, "http://a/1")
    pages, reasons = read(file, pack(records), max_record_bytes=100_000)
    assert [page.url for page in pages] == ["http://a/0", "http://a/2", "http://a/3"]
    assert reasons == {"oversized": 1}


def test_a_small_record_that_inflates_to_a_huge_page(file: Path) -> None:
    bomb = HTML + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(50_000_000))
    pages, reasons = read(file, record(bomb))
    assert pages == [] and reasons == {"oversized": 1}


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"Transfer-Encoding: chunked\r\n", b"<p>already undone", b"<p>already undone"),
        (b"Content-Encoding: gzip\r\n", gzip.compress(b"abcde", mtime=0), b"abcde"),
        (b"Content-Encoding: gzip\r\n", b"<p>already undone", b"<p>already undone"),
        (b"Content-Encoding: deflate\r\n", zlib.compress(b"abcde"), b"abcde"),
        (b"", b"a\0b\0", b"a\0b\0"),
        (b"X-Only: line feeds\n\n", b"abc", b"abc"),
    ],
)
def test_encodings_are_undone(file: Path, headers: bytes, body: bytes, expected: bytes) -> None:
    block = HTML + headers + b"\r\n" + body
    if headers.endswith(b"\n\n"):
        block = HTML.replace(b"\r", b"") + headers + body
    pages, reasons = read(file, record(block))
    assert [page.body for page in pages] == [expected] and reasons == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not an archive at all", "no warc header"),
        (record(b"<html>no status line"), "no http header"),
        (record(HTML + b"\r\nx", url=""), "no target uri"),
        (record(HTML + b"Transfer-Encoding: chunked\r\n\r\nffff\r\ntoo short"), "bad chunked body"),
        (record(HTML + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08broken in here"), "bad content encoding"),
    ],
)
def test_what_is_no_page_is_reported_once(file: Path, data: bytes, reason: str) -> None:
    assert read(file, data) == ([], {reason: 1})


def test_what_is_usual_is_read_quickly_and_not_otherwise(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way for exact members and plain responses gives what the careful one does, for heads of every
    kind, and is taken for all but the unusual."""
    plain = HTML + b"\r\nbody"
    usual = [
        *numbered(8, 20),
        record(plain, "http://a/<b>"),
        record(plain, "<http://a/>"),
        record(b"HTTP/1.1 206 Some\r\nCONTENT-TYPE:text/html \r\nX: y\r\n\r\n\r\n\r\nbody"),
        record(b"HTTP/1.0 200\r\nContent-Type: text/html\r\n\r\n"),
        record(b"text", kind="conversion"),
    ]
    unusual = [
        record(HTML + b"Content-Type: text/plain\r\n\r\nbody"),
        record(HTML + b" ; charset=gbk\r\n\r\nbody"),
        record(b"HTTP/1.1 200 OK\r\n\r\nbody"),
        record(HTML + b"X: caf\xc3\xa9\r\n\r\nbody"),
        record(plain.replace(b"\r", b"")),
        record(HTML + b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        record(plain, "http://é/"),
        record(plain, "http://a/\r\n b"),
        record(plain).replace(b"WARC-Date: 2024-01-02T03:04:05Z\r\n", b""),
    ]
    silent = [
        record(plain, kind=kind) for kind in ("request", "metadata", "warcinfo", "revisit", "Request", "x")
    ] + [record(b"HTTP/1.1 404 No\r\nContent-Type: text/html\r\n\r\nbody")]
    lower = [
        one.replace(b"Content-Length", b"content-length", 1)
        .replace(b"WARC-Type", b"warc-type")
        .replace(b"Target", b"target")
        for one in usual
    ]
    data = [*usual, *unusual, *silent, *lower, record(plain, length=3), *numbered(2)]
    slowly: list[bytes] = []
    careful = warc._any_page
    monkeypatch.setattr(warc, "_any_page", lambda r, *rest: slowly.append(r) or careful(r, *rest))
    quick = read(file, zipped(data))
    assert slowly == [one[:-4] for one in [*unusual, silent[-1]]]
    monkeypatch.setattr(warc, "_plain_page", lambda *given: None)
    monkeypatch.setattr(warc._Splitter, "whole", lambda self, given: None)
    slow = read(file, zipped(data))
    assert slow == quick == read(file, b"".join(data))
    assert quick[1] == {"wrong content-length": 1} and len(quick[0]) == 2 * len(usual) + len(unusual) + 3


@settings(max_examples=150, deadline=2000)
@given(data=st.data(), packed=st.booleans())
def test_any_damage_is_survived(tmp_path_factory, data, packed: bool) -> None:
    records = numbered(6, 200)
    raw = bytearray(zipped(records) if packed else b"".join(records))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        junk = data.draw(st.binary(max_size=40))
        raw[at : at + data.draw(st.integers(0, 60))] = junk
    pages, reasons = read(tmp_path_factory.getbasetemp() / "damaged.warc", bytes(raw))
    assert len(pages) + sum(reasons.values()) >= 1
    good = {page.url for page in pages if page.body in b"".join(records)}
    assert len(good) >= 1 or reasons


def test_real_files() -> None:
    def outcome(folder: str, name: str) -> tuple[int, dict[str, int]]:
        reasons: Counter[str] = Counter()
        pages = read_pages(shared_data(folder) / name, lambda reason: reasons.update([reason]))
        return sum(1 for _ in pages), dict(reasons)

    assert outcome("warc-docs/broken", "ok_many.warc.gz") == (42, {})
    assert outcome("warc-docs/broken", "bitflip_middle.warc.gz") == (41, {"damaged gzip member": 1})
    assert outcome("warc-docs/broken", "truncated_tail.warc.gz") == (27, {"cut": 1})
    assert outcome("warc-docs/broken", "huge_page.warc.gz") == (2, {"oversized": 1})
    assert outcome("warc-docs/broken", "no_target_uri.warc") == (41, {"no target uri": 1})
    assert outcome("warc-docs/broken", "null_bytes.warc.gz") == (3, {})
    assert outcome("warc-docs", "docs.warc.gz") == (5532, {})
    assert outcome("warc-warcio", "example-wrong-chunks.warc.gz") == (1, {"wrong content-length": 1})
    for path in sorted(shared_data("warc-warcio").glob("*arc*")):
        outcome("warc-warcio", path.name)
