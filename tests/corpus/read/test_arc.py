"""Archives from before WARC: the same pages, whatever is damaged."""

import gzip
import io
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from sishu.corpus.read.warc import read_pages
from tests.corpus.archives import read, zipped
from tests.shared_data import shared_data

HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
SPEC = b"1 0 School\nURL IP-address Archive-date Content-type Archive-length\n"
HEAD = b"filedesc://x.arc 0.0.0.0 20080102030405 text/plain %d\n%s\n" % (len(SPEC), SPEC)


def record(
    block: bytes,
    url: bytes = b"http://a/",
    date: bytes = b"20080102030405",
    length: int | None = None,
    kind: bytes = b"text/html",
) -> bytes:
    size = len(block) if length is None else length
    return b"%s 1.2.3.4 %s %s %d\n%s\n" % (url, date, kind, size, block)


def numbered(count: int, size: int = 3000) -> list[bytes]:
    noise = random.Random(0)
    bodies = [noise.randbytes(size // 2).hex().encode() + "私塾".encode() for _ in range(count)]
    return [record(HTTP + b"\r\n" + body, b"http://a/%d" % n) for n, body in enumerate(bodies)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.arc"


def by_warcio(data: bytes) -> list[tuple[str, bytes, str]]:
    return [
        (
            one.rec_headers.get_header("uri"),
            one.content_stream().read(),
            one.http_headers.get_header("content-type"),
        )
        for one in ArchiveIterator(io.BytesIO(data))
        if one.http_headers and one.http_headers.get_statuscode() == "200"
    ]


UNUSUAL = [
    record(HTTP + b"\r\nbody", b"http://a/with spaces in it?x=1 2"),
    record(HTTP + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"http://a/chunked"),
    record(HTTP + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"abc", mtime=0), b"https://a/gzip"),
    record(HTTP + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"abc"), b"http://a/deflate"),
    record(HTTP + b"\r\n", b"http://a/empty"),
    record(HTTP + b"\r\nends with lines\n\n\n", b"http://a/lines"),
    record(HTTP + "\r\n学而时习之".encode(), "http://a/学".encode()),
]


@pytest.mark.parametrize("pack", ["plain", "member each", "one member"])
def test_the_pages_that_warcio_reads(file: Path, pack: str) -> None:
    records = [HEAD, record(b"93.1.1.1\n", b"dns:a", kind=b"text/dns"), *numbered(50), *UNUSUAL]
    records += [record(b"HTTP/1.1 404 No\r\n\r\nno"), record(b"HTTP/1.0 302 Moved\r\nLocation: /\r\n\r\n")]
    data = {"plain": b"".join, "member each": zipped, "one member": lambda r: gzip.compress(b"".join(r))}[
        pack
    ](records)
    pages, reasons = read(file, data)
    assert not reasons and len(pages) == 57
    assert [(page.url, page.body, page.content_type) for page in pages] == by_warcio(b"".join(records))
    assert {page.date for page in pages} == {"2008-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("date", "iso"),
    [
        (b"20120229235959", "2012-02-29T23:59:59Z"),
        (b"201201020304", "2012-01-02T03:04:00Z"),
        (b"201201020304050000", "2012-01-02T03:04:05Z"),
        (b"20121301000000", ""),
        (b"00000000000000", ""),
    ],
)
def test_dates(file: Path, date: bytes, iso: str) -> None:
    pages, reasons = read(file, HEAD + record(HTTP + b"\r\nx", date=date))
    assert [page.date for page in pages] == [iso] and not reasons


@pytest.mark.parametrize("pack", [b"".join, zipped])
@pytest.mark.parametrize("error", [-3040, -40, -1, 7, 900, 6000])
def test_a_wrong_length_is_mended_by_the_next_record(file: Path, pack, error: int) -> None:
    records = [HEAD, *numbered(5)]
    block = HTTP + b"\r\n" + b"z" * 3000
    records[3] = record(block, b"http://a/2", length=max(0, len(block) + error))
    pages, reasons = read(file, pack(records))
    assert [page.url for page in pages] == [f"http://a/{n}" for n in range(5)]
    assert pages[2].body == b"z" * 3000 and reasons == {"wrong content-length": 1}


@pytest.mark.parametrize("pack", [b"".join, zipped])
def test_a_cut_file_loses_only_its_last_record(file: Path, pack) -> None:
    pages, reasons = read(file, pack([HEAD, *numbered(10)])[:-700])
    assert len(pages) == 9 and reasons == {"cut": 1}


def test_a_flipped_bit_loses_only_its_record(file: Path) -> None:
    members = [gzip.compress(one, mtime=0) for one in [HEAD, *numbered(10)]]
    for broken in (0, 5):
        some = [bytearray(one) for one in members]
        some[broken][len(some[broken]) // 2] ^= 0x10
        pages, reasons = read(file, b"".join(some))
        assert [page.url for page in pages] == [f"http://a/{n}" for n in range(10) if n != broken - 1]
        assert reasons == {"damaged gzip member": 1}


def test_a_damaged_line_loses_only_its_record(file: Path) -> None:
    records = [HEAD, *numbered(1000)]
    records[0] = b"\0\0" + records[0][2:]
    records[500] = records[500].replace(b"http://a/", b"http:/\xff/\n", 1)
    pages, reasons = read(file, b"".join(records))
    assert len(pages) == 999 and reasons == {"no arc header": 1, "wrong content-length": 1}


@pytest.mark.parametrize("pack", [b"".join, zipped])
def test_a_huge_record_is_skipped(file: Path, pack) -> None:
    records = [HEAD, *numbered(4)]
    records[2] = record(HTTP + b"\r\n" + b"x" * 3_000_000, b"http://a/1")
    pages, reasons = read(file, pack(records), max_record_bytes=100_000)
    assert [page.url for page in pages] == ["http://a/0", "http://a/2", "http://a/3"]
    assert reasons == {"oversized": 1}


@settings(max_examples=100, deadline=4000)
@given(data=st.data(), packed=st.booleans())
def test_any_damage_is_survived(tmp_path_factory, data, packed: bool) -> None:
    records = [HEAD, *numbered(6, 200)]
    raw = bytearray(zipped(records) if packed else b"".join(records))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        junk = data.draw(st.binary(max_size=40))
        raw[at : at + data.draw(st.integers(0, 60))] = junk
    pages, reasons = read(tmp_path_factory.getbasetemp() / "damaged.arc", bytes(raw))
    good = {page.url for page in pages if page.body in b"".join(records)}
    assert len(good) >= 1 or reasons


def test_a_line_made_to_be_slow(file: Path) -> None:
    """What the search for the next record could be held up with costs no more than reading it."""
    end = b" " + b"x" * 30
    slow = b"\nhttp://" + b" 1 20080102030405" * 400 + end + b"\nhttp://" + b"1 " * 3900 + end
    pages, reasons = read(file, HEAD + record(HTTP + b"\r\n" + slow * 100, length=5) + numbered(1)[0])
    assert [page.url for page in pages] == ["http://a/", "http://a/0"] and reasons == {
        "wrong content-length": 1
    }


@pytest.mark.parametrize("name", ["example.arc", "example.arc.gz"])
def test_real_files(name: str) -> None:
    path = shared_data("warc-warcio") / name
    reasons: list[str] = []
    pages = list(read_pages(path, reasons.append))
    plain = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    assert [(page.url, page.body, page.content_type) for page in pages] == by_warcio(plain)
    assert pages[0].date == "2014-02-16T05:02:21Z" and not reasons


def test_real_files_that_are_broken() -> None:
    reasons: Counter[str] = Counter()
    for name in ("bad.arc", "example-space-in-url.arc"):  # the second ends before its length
        path = shared_data("warc-warcio") / name
        assert list(read_pages(path, lambda reason: reasons.update([reason]))) == []
    assert reasons == {"wrong content-length": 2, "no http header": 2, "cut": 2}
