"""Input made to do harm: bombs, floods, lies, and text on which a careless pattern never comes back."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.corpus.document import Document, Page
from sishu.corpus.duplicates.dedup import signature
from sishu.corpus.judge import language, quality
from sishu.corpus.judge.heuristics import select
from sishu.corpus.judge.quality import judge
from sishu.corpus.personal.personal_numbers import MOST_CHECKED
from sishu.corpus.personal.scrub import scrub
from sishu.corpus.pipeline.clean import clean_inputs
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.engines import Processes
from sishu.corpus.read import encodings, members, rows, warc
from sishu.corpus.read.charset import decode
from sishu.corpus.read.encodings import BadEncoding, TooLarge, undo
from sishu.corpus.read.sources import Input, list_inputs, read_input
from tests.corpus.read.test_warc import HTML, numbered, record, zipped
from tests.shared_data import shared_data

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def packed(data: bytes, compresslevel: int = 9) -> bytes:
    """Gzipped without the time, so that tests have the same names in every process."""
    return gzip.compress(data, compresslevel, mtime=0)


GOOD = numbered(3, 200)
TEXT = b"<p>Read me, " + "私塾".encode() + b"</p>\n" + b"more of it " * 30


def read(path: Path, data: bytes) -> tuple[list[Page | Document], dict[str, int]]:
    path.write_bytes(data)
    reasons: Counter[str] = Counter()
    source = Input(path.name, str(path), len(data))
    items = list(read_input(source, lambda line: reasons.update([line.partition(": ")[0]])))
    return items, dict(reasons)


def between(
    path: Path, one: bytes, pack: Callable[[bytes], bytes] = gzip.compress
) -> tuple[bytes | None, str]:
    """The body of the page and the reasons, of a record between three good ones, which must come out."""
    pages, reasons = read(path, b"".join(pack(each) for each in (GOOD[0], one, *GOOD[1:])))
    bodies = {page.url: page.body for page in pages if isinstance(page, Page)}
    assert {"http://a/0", "http://a/1", "http://a/2"} <= set(bodies)
    return bodies.get("http://bad/"), ", ".join(f"{reason} {count}" for reason, count in reasons.items())


def bomb(size: int, unit: bytes = bytes(1 << 20), front: bytes = b"", wrap: int = 31) -> bytes:
    """`front` and then `size` bytes of `unit`, packed with gzip, made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wrap)
    pieces = [packer.compress(front), *(packer.compress(unit) for _ in range(size // len(unit)))]
    return b"".join(pieces) + packer.flush()


ZEROS = bomb(1 << 30)
NOISE = random.Random(0).randbytes(4000).hex().encode()


@pytest.mark.parametrize(
    ("said", "body", "expected", "reason"),
    [
        (b"gzip", packed(TEXT), TEXT, ""),
        (b"x-gzip", packed(TEXT), TEXT, ""),
        (b"GZIP ", packed(TEXT), TEXT, ""),
        (b"gzip, gzip", packed(packed(TEXT)), TEXT, ""),
        (b"gzip", packed(packed(TEXT)), TEXT, ""),
        (b"gzip", packed(TEXT[:40]) + packed(TEXT[40:]), TEXT, ""),
        (b"gzip", packed(TEXT) + b"garbage", TEXT, ""),
        (b"gzip", TEXT, TEXT, ""),
        (b"deflate", zlib.compress(TEXT), TEXT, ""),
        (b"deflate", zlib.compress(TEXT, wbits=-15), TEXT, ""),
        (b"deflate", TEXT, TEXT, ""),
        (b"br", brotli.compress(TEXT), TEXT, ""),
        (b"br", TEXT, TEXT, ""),
        (b"zstd", zstd.compress(TEXT), TEXT, ""),
        (b"deflate, br", brotli.compress(zlib.compress(TEXT)), TEXT, ""),
        (b"utf-8", TEXT, TEXT, ""),
        (b"gzip", ZEROS, None, "oversized 1"),
        (b"gzip, gzip", packed(ZEROS), None, "oversized 1"),
        (b"deflate", bomb(1 << 28, wrap=15), None, "oversized 1"),
        (b"br", brotli.compress(bytes(1 << 28), quality=1), None, "oversized 1"),
        (b"zstd", zstd.compress(bytes(1 << 28)), None, "oversized 1"),
        (b"gzip", b"\x1f\x8b\x08 and nothing of the kind", None, "bad content encoding 1"),
        (b"deflate", b"\x78\x9c and nothing of the kind", None, "bad content encoding 1"),
        (b"br", b"\x8b\x03 and nothing of the kind \xff", None, "bad content encoding 1"),
        (b"zstd", b"\x28\xb5\x2f\xfd and nothing of the kind", None, "bad content encoding 1"),
        (b"sdch", b"\x01\x02 and nothing of the kind", None, "bad content encoding 1"),
        (b", ".join([b"gzip"] * 9), packed(TEXT), None, "bad content encoding 1"),
    ],
)
def test_content_encodings(
    tmp_path: Path, said: bytes, body: bytes, expected: bytes | None, reason: str
) -> None:
    bad = record(HTML + b"Content-Encoding: " + said + b"\r\n\r\n" + body, "http://bad/")
    assert between(tmp_path / "x.warc.gz", bad) == (expected, reason)
    if expected is None or b"," in said:
        return
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = HTML + b"Transfer-Encoding: chunked\r\nContent-Encoding: " + said + b"\r\n\r\n"
    assert between(tmp_path / "x.warc.gz", record(head + chunks, "http://bad/")) == (expected, reason)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, brotli.compress, zstd.compress])
def test_what_comes_before_a_cut_is_kept(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    said = {"brotli": "br", "zstd": "zstd", "gzip": "gzip"}.get(pack.__module__.split(".")[-1], "deflate")
    said = "zstd" if pack is zstd.compress else "br" if pack is brotli.compress else said
    body = pack(NOISE)[:-100]
    bad = record(HTML + f"Content-Encoding: {said}\r\n\r\n".encode() + body, "http://bad/")
    found, reason = between(tmp_path / "x.warc.gz", bad)
    assert found is None or NOISE.startswith(found)
    assert (found and reason == "cut content encoding 1") or reason == "bad content encoding 1"
    assert found or said == "zstd"  # of which nothing is given out before a block is whole


@given(st.binary(max_size=400), st.sampled_from(["gzip", "deflate", "br", "zstd", "x, gzip", "gzip,br"]))
def test_no_body_raises_anything_else(body: bytes, said: str) -> None:
    for data in (body, zlib.compress(body)[:-2] + body, brotli.compress(body)[:-1] + body):
        try:
            content, _ = undo(data, said, 1000)
        except (BadEncoding, TooLarge):
            continue
        assert len(content) <= 1000 or content == data


def test_encodings_are_undone_within_bounds() -> None:
    assert undo(packed(b"a" * 100), "gzip", 100) == (b"a" * 100, True)
    with pytest.raises(TooLarge):
        undo(packed(b"a" * 101), "gzip", 100)
    many = packed(TEXT)
    for _ in range(encodings.DEEPEST):
        many = packed(many)
    assert undo(many, "gzip", 10_000) == (TEXT, True)


@pytest.mark.parametrize(
    ("body", "expected", "reason"),
    [
        (b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n", None, "bad chunked body 1"),
        (b"7fffffff\r\nabc\r\n0\r\n\r\n", None, "bad chunked body 1"),
        (b"-5\r\nabcde\r\n0\r\n\r\n", None, "bad chunked body 1"),
        (b"f" * 1_000_000 + b"\r\nabc\r\n0\r\n\r\n", None, "bad chunked body 1"),
        (b"5\r\nhello\r\nzz\r\nworld\r\n0\r\n\r\n", None, "bad chunked body 1"),
        (b"5\nhello\n0\n\n", None, "bad chunked body 1"),
        (b"5;" + b"x" * 1_000_000 + b"\r\nhello\r\n0\r\n\r\n", None, "bad chunked body 1"),
        (b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", b"hello", ""),
        (b"5\r\nhello\r\n" * 3, b"hello" * 3, ""),
        (b"1\r\na\r\n" * 1_000_000 + b"0\r\n\r\n", b"a" * 1_000_000, ""),
    ],
)
def test_chunks(tmp_path: Path, body: bytes, expected: bytes | None, reason: str) -> None:
    bad = record(HTML + b"Transfer-Encoding: chunked\r\n\r\n" + body, "http://bad/")
    assert between(tmp_path / "x.warc.gz", bad) == (expected, reason)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"".join(b"X-%d: y\r\n" % n for n in range(1_000_000)), "no http header 1"),
        (b"X: " + b"y" * 15_000_000 + b"\r\n", "no http header 1"),
        (b"X: " + b"y" * 50_000_000 + b"\r\n", "oversized 1"),
        (b" folded\r\n" * 1_000_000, "no http header 1"),
        (b"Content-Type: text/html" + b" " * 60_000 + b";x\r\n", ""),
        (b"Content-Type: text/html; charset=" + b" " * 60_000 + b"x\r\n", ""),
    ],
)
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_heads_of_answers(tmp_path: Path, head: bytes, reason: str, pack: Callable[[bytes], bytes]) -> None:
    bad = record(HTML.split(b"\r\n")[0] + b"\r\n" + head + b"\r\nbody", "http://bad/")
    name = "x.warc" if pack is bytes else "x.warc.gz"
    assert between(tmp_path / name, bad, pack) == (None if reason else b"body", reason)


@pytest.mark.parametrize("fill", ["X:" + " " * 60_000, "X: y\r\n" * 10_000, "X: " + "\r" * 60_000])
def test_heads_of_records(tmp_path: Path, fill: str) -> None:
    bad = record(HTML + b"\r\nbody", "http://bad/").replace(
        b"WARC-Date", fill.rstrip().encode() + b"\r\nWARC-Date"
    )
    far = record(HTML + b"\r\nbody", "http://bad/" + " " * 60_000 + "x")
    for one in (bad, far):
        pages, reasons = read(tmp_path / "x.warc", one * 50 + GOOD[0])
        assert len(pages) == 51 and reasons == {}


@pytest.mark.parametrize(
    "length",
    ["9223372036854775808", "18446744073709551616", "-1", "-9223372036854775808", "9" * 999, "", "abc", "1e9",
     "0x10", "+5", "5", "00000000000000000005"],
)  # fmt: skip
def test_lengths_that_lie(tmp_path: Path, length: str) -> None:
    right = record(HTML + b"\r\nbody", "http://bad/")
    said = b"Content-Length: %d" % (len(HTML) + 6)
    assert said in right
    bad = right.replace(said, b"Content-Length: " + length.encode())
    for name, pack in (("x.warc", bytes), ("x.warc.gz", gzip.compress)):
        assert between(tmp_path / name, bad, pack) == (b"body", "wrong content-length 1")


def test_a_head_without_end_is_no_head(tmp_path: Path) -> None:
    endless = b"WARC/1.0\r\n" + b"X: y\r\n" * 1_000_000
    assert between(tmp_path / "x.warc.gz", endless) == (None, "no warc header 1")
    pages, reasons = read(tmp_path / "x.warc", GOOD[0] + endless + b"\r\n\r\n" + GOOD[1])
    assert len(pages) == 2 and reasons == {"no warc header": 1}


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (bomb(1 << 26), {"no warc header": 1}),
        (bomb(1 << 26, front=record(b"", "http://bad/", length=(1 << 26) + 1)[:-4]), {"oversized": 1}),
        (bomb(1 << 26, b"\r\n" * (1 << 19)), {}),
        (bomb(1 << 25, b"\r\n\r\n" * (1 << 18), b"xxxxx"), {"no warc header": 1}),
        (packed(b"") * 100_000, {}),
        (packed(record(b"", kind="metadata")) * 50_000, {}),
        (b"garbage" * 1000, {"damaged gzip member": 1}),
        (b"\x1f\x8b\x08" * 1_000_000 + bytes(5000), {"damaged gzip member": 1}),
        (b"\x1f\x8b\x08\x08" * 1_000_000 + bytes(5000), {"damaged gzip member": 1}),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\3" * 400_000 + bytes(5000), {"damaged gzip member": 1}),
    ],
)
def test_between_members(tmp_path: Path, data: bytes, reasons: dict[str, int]) -> None:
    pages, found = read(tmp_path / "x.warc.gz", zipped(GOOD[:1]) + data + zipped(GOOD[1:]))
    assert [page.url for page in pages] == ["http://a/0", "http://a/1", "http://a/2"]
    assert found == reasons


@pytest.mark.parametrize(
    "data",
    [
        zstd.compress(bytes(1 << 26)),
        b"\x28\xb5\x2f\xfd" * 500_000 + bytes(5000),
        b"\x28\xb5\x2f\xfd\x00\x88\x05\x00\x10" * 200_000
        + bytes(5000),  # a block that is larger than the file
        zstd.compress(b"") * 50_000,
        b"\x50\x2a\x4d\x18\0\0\0\0" * 50_000,
    ],
)
def test_between_frames(tmp_path: Path, data: bytes) -> None:
    frames = [zstd.compress(one) for one in GOOD]
    pages, found = read(tmp_path / "x.warc.zst", frames[0] + data + frames[1] + frames[2])
    assert [page.url for page in pages] == ["http://a/0", "http://a/1", "http://a/2"]
    assert sum(found.values()) <= 1


def test_the_search_for_a_member_is_no_more_than_linear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked = [0]
    head = members._inflated_head

    def counting(*given: Any) -> tuple[bytes, int]:
        found = head(*given)
        looked[0] += found[1]
        return found

    monkeypatch.setattr(members, "_inflated_head", counting)
    data = b"\x1f\x8b\x08\x08" * 500_000
    pages, reasons = read(tmp_path / "x.warc.gz", zipped(GOOD[:1]) + data + bytes(5000) + zipped(GOOD[1:]))
    assert len(pages) == 3 and reasons == {"damaged gzip member": 1}
    assert looked[0] < 2 * members._EFFORT  # else 65 thousand million


def test_a_flood_of_damage_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "MAX_DAMAGED", 1000)
    flood = bomb(1 << 20, b"WARC/1.0\r\n\r\n" * 4096)
    pages, reasons = read(tmp_path / "x.warc.gz", zipped(GOOD) + flood)
    assert len(pages) == 3 and reasons == {"wrong content-length": 1000, "too many damaged records": 1}
    assert (
        read(tmp_path / "x.warc", b"".join(GOOD) + GOOD[0][:-30] * 400)[1].get("too many damaged records")
        is None
    )


LINE = b'{"text": "good text of a line"}\n'


@pytest.mark.parametrize(
    ("line", "text", "reason"),
    [
        (b'{"text": "' + b"word " * 4_100_000 + b'"}', None, "line too long"),
        (b"[" * 100_000, None, "broken JSON line"),
        (b"[" * 100_000 + b"]" * 100_000, None, "broken JSON line"),
        (b'{"a":' * 100_000, None, "broken JSON line"),
        (b'{"text":"x","n":' + b"9" * 1_000_000 + b"}", None, "broken JSON line"),
        (b'{"text":"x","n":1e999999}', "x", ""),
        (b'{"text":"x","n":-1E999999,"m":NaN}', "x", ""),
        (b'{"text":"first","text":"second"}', "second", ""),
        (b'{"text":"first","text":5}', None, "line without a text field"),
        (b'{"text":"caf\xe9"}', None, "broken JSON line"),
        (b"\0\0\0", None, "broken JSON line"),
        (b'{"text":["a"]}', None, "line without a text field"),
        (b'{"text":null,"content":"second"}', "second", ""),
        (b"5", None, "line without a text field"),
        (b'\xef\xbb\xbf{"text":"after a mark"}', "after a mark", ""),
        (b'{"text":"x","l":[' + b"{}," * 6_000_000 + b"1]}", "x", ""),
    ],
)
def test_lines_of_json(tmp_path: Path, line: bytes, text: str | None, reason: str) -> None:
    items, reasons = read(tmp_path / "x.jsonl", LINE + line + b"\n" + LINE)
    texts = [item.text for item in items if isinstance(item, Document)]
    assert texts == [t for t in ("good text of a line", text, "good text of a line") if t is not None]
    assert reasons == ({reason: 1} if reason else {})


@pytest.mark.parametrize("unit", [b"\n", b"{\n", b'{"a":1}\n'])
def test_a_flood_of_lines_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: bytes) -> None:
    monkeypatch.setattr(rows, "MAX_VAIN_LINES", 1000)
    data = LINE * 2000 + unit * 900 + LINE * 10 + unit * 4_000 + LINE
    items, reasons = read(tmp_path / "x.jsonl", data)
    assert len(items) == 2010 and reasons["too many lines without a document"] == 1
    assert len(read(tmp_path / "x.jsonl", LINE * 2000 + unit * 2900 + LINE)[0]) == 2001


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_json_in_another_encoding_is_not_lost_in_silence(tmp_path: Path, encoding: str) -> None:
    items, reasons = read(tmp_path / "x.jsonl", (LINE * 3).decode().encode(encoding))
    assert len(items) + sum(reasons.values()) >= 3


def test_tables_of_other_types(tmp_path: Path) -> None:
    def outcome(**columns: pyarrow.Array) -> tuple[int, dict[str, int]]:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        items, reasons = read(tmp_path / "x.parquet", (tmp_path / "t.parquet").read_bytes())
        return len(items), reasons

    text = pyarrow.array(["some text", "more text"])
    assert outcome(text=text) == (2, {})
    assert outcome(text=text.cast(pyarrow.large_string()), date=pyarrow.array([1, 2])) == (2, {})
    assert outcome(text=pyarrow.array([1, 2])) == (0, {"row without text": 2})
    assert outcome(text=pyarrow.array([["a"], ["b"]])) == (0, {"row without text": 2})
    assert outcome(text=pyarrow.array([b"\xff", b"ok"])) == (0, {"row without text": 2})
    assert outcome(text=text, url=pyarrow.array([5, 6])) == (2, {})
    assert outcome(title=text) == (0, {"file without a text column": 1})


def lines(count: int, word: str = "text") -> str:
    return "".join(
        f"This is line {n} of the {word}, and it is long enough to be kept.\n" for n in range(count)
    )


def test_characters_that_no_file_can_hold_do_not_end_a_run(tmp_path: Path) -> None:
    rows_ = [
        {"text": lines(50, "first"), "date": "2024\ud800"},
        {"text": lines(50, "second") + "\udfff", "url": "http://a/\udc00"},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_))
    figures = clean_inputs(
        list_inputs(tmp_path / "x.jsonl"), tmp_path / "out", CleanSettings(quality="none"), Processes(1)
    )
    assert figures["documents"] == 2


SIZE = 300_000
MARKUP = [
    "<", ">", "&", "&#x;", "&amp", "'", "<a href='", '<a b="', "<!--", "<!-->", "</", "</p>", "<p>x", "<br>x",
    "<td>x", "<tr><td>x", "<table>", "<table><tr><td>", "<ul><li>", "<ul><li>x", "<form><input>", "<div>",
    "<div>x", "<b>x", "<b><p>x", "<a href=x>y</a> ", "<font><p>", "<dl><dt>x<dd>y", "<span>x</span>", "<h1>x",
    "<select><option>x", "<svg><g>", "<script>", "<style>x</style>", "<textarea>", "<title>x", "<body a=1>",
    "<iframe>", "<noscript>", "<template>", "<object><param>", "<ruby><rt>x", "<p class='nav footer'>x",
    "]]>", "<![CDATA[", "\0", "<x:y>", "\r", " ", "<i><p></i></p>", "<table><b>", "<nobr>",
    "<i><b><div></i></b>",
]  # fmt: skip
CHARACTERS = [
    "中", "あ", "\u200b", "a\u0301\u0302", "\u0301", "שלום", "\u202e", "👩\u200d👩", "ก", "가", "\u00a0",
    "\u2028x", "\x0bx", "İ", "ß", "<", "[", "(", "{", ".", "…", "!", "a", "a ", "a\n", "- a\n", "1. a\n",
    "# ", "_", "\\", "a b c\n", "::", "://", "http://", "a@", "a@a.a.a.a.a.a.a.a.a ", "1-", "1 ", "1.", "(1)",
    "+1", "+(1)", "00", "12 34 56 78 ", "4111-1111-1111-1112 ", "110105194912310021 ", "tel", "a:b:",
    "1:2:3:4:5:6:7:8 ", "?token=", "256.256.256.256 ", " at 0x", "[citation neede", "lorem ipsu", "://a:",
    "a.b-c_", "<email>",
]  # fmt: skip


def pages() -> list[bytes]:
    html = HTML.replace(b"text/html", b"text/html; charset=utf-8") + b"\r\n<html><body>"
    plain = HTML.replace(b"text/html", b"text/plain; charset=utf-8") + b"\r\n"
    bodies = [html + unit.encode() * (SIZE // len(unit.encode())) for unit in MARKUP]
    bodies += [plain + unit.encode() * (SIZE // len(unit.encode())) for unit in CHARACTERS]
    bodies += [
        html + b"<p " + b"a=b " * 1_000_000 + b">text</p>",
        html + b"<p " + b"".join(b"a%d=1 " % n for n in range(1_000_000)) + b">text</p>",
        html + b"".join(b"<x%d>w" % n for n in range(30_000)),
        html + b"".join(b"<x%d>w</x%d>" % (n, n) for n in range(20_000)),
        html + b"<" + b"a" * SIZE + b">x",
        html + b"<a title='" + b"x=y " * 1_000_000,
        html + b"<pre>" + b"some code\t here\n" * 20_000,
        HTML + b"\r\n" + random.Random(1).randbytes(SIZE),
        HTML + b"\r\n\xff\xfe" + b"odd" * 300_001,
        HTML + b"\r\n" + b"\x1b$B\x1b(B" * 150_000,
        HTML + b"\r\n<html>" + b"\xb0\xa1\xff" * 300_000,
        HTML + b"\r\n" + b"<meta charset" * 70_000,
        HTML + b"\r\n" + b"<meta charset=" + b" " * 4_000 + b"\xe9",
        HTML + b"\r\n<?xml " + b"encoding " * 100_000 + b"\xe9",
    ]
    return [record(body, f"http://site{n}/") for n, body in enumerate(bodies)]


def story(seed: int) -> str:
    """English on which all rules agree that it is fit to learn from."""
    rng = random.Random(seed)
    small = [
        "the",
        "of",
        "and",
        "to",
        "be",
        "that",
        "have",
        "with",
        "in",
        "a",
        "for",
        "was",
        "by",
        "his",
        "her",
    ]
    words = [
        "teacher", "farmer", "doctor", "sailor", "writer", "baker", "soldier", "singer", "painter", "nurse",
        "found", "carried", "forgot", "opened", "painted", "followed", "answered", "repaired", "sold", "hid",
        "letter", "garden", "window", "bridge", "basket", "engine", "mirror", "hammer", "ladder", "saddle",
        "village", "harbour", "mountain", "station", "library", "market", "forest", "kitchen", "valley",
    ]  # fmt: skip
    sentences = [
        " ".join(f"{rng.choice(small)} {rng.choice(words)}" for _ in range(rng.randrange(6, 12))).capitalize()
        for _ in range(80)
    ]
    return "".join(f"<p>{one}.</p>\n" for one in sentences)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    good = [HTML + b"\r\n<html><body>" + story(seed).encode() for seed in range(5)]
    with (folder / "x.warc.gz").open("wb") as file:
        for one in [*pages(), *(record(body, f"http://good{n}/") for n, body in enumerate(good))]:
            file.write(packed(one, 1))
    return folder


@pytest.mark.parametrize(("tier", "rules"), [("quality", "loose"), ("fast", "fineweb"), ("fast", "none")])
def test_no_page_takes_five_seconds(hostile: Path, tmp_path: Path, tier: str, rules: str) -> None:
    """Nor does one end its process or run out of memory; what is quadratic takes minutes."""
    given = CleanSettings.model_validate(
        {"extraction": tier, "quality": rules, "document_seconds": 5, "near_duplicates": False}
    )
    figures = clean_inputs(list_inputs(hostile), tmp_path, given, Processes(1))
    spoilt = {
        key: n
        for key, n in figures["rejected"].items()
        if "took too" in key or "ended" in key or "failed" in key
    }
    assert spoilt == {} and figures["damaged"] == {}
    assert figures["documents"] >= 5


def test_only_so_many_numbers_are_looked_up() -> None:
    """Of a text with more than `MOST_CHECKED`, the others are taken for what they look like."""
    nobodys = "999-555-1234 "  # in the form of North America, but in no plan
    assert scrub(nobodys * 1000) == (nobodys * 1000, {})
    left, counts = scrub(nobodys * (MOST_CHECKED["phone"] + 7))
    assert counts == {"phone": 7} and left == nobodys * MOST_CHECKED["phone"] + "<phone> " * 7
    left, counts = scrub("10.0.0.1 " * (MOST_CHECKED["ip"] + 5))
    assert counts == {"ip": 5}


def test_of_very_long_texts_a_part_decides() -> None:
    story = lines(30_000)
    assert len(story) > language.MOST
    assert language.identify(story)[0] == "en"
    assert language.identify("我们将学习大规模部署系统，而非仅仅安装单台计算机。" * 60_000)[0] == "zh-Hans"
    rng = random.Random(3)
    words = [f"{a}{b}{c}" for a in "bdfgkmpt" for b in "aeiou" for c in "lmnrst"]
    many = "\n".join(" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(25_000))
    assert len(many) > quality.MOST and judge(many) is None
    assert judge(many[:700_000] + " ###" * 500_000 + many[:700_000]) == "symbols"
    assert judge(many[:400_000] + "\n- item" * 500_000) == "bullet lines"
    assert select("word " * 700_000, "en").reason == "many words"


def test_signatures_of_millions_of_shingles_are_those_of_their_set() -> None:
    text = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(300_000))
    assert (signature(text) == signature(text + text)).all()


def test_detection_looks_where_the_text_is() -> None:
    """Behind megabytes of markup in ASCII, and not at more than a part of what follows."""
    text = "这一章讨论大规模部署系统，而不是安装单台计算机。"
    body = b"<p class=x>" * 200_000 + (text * 20_000).encode("gb18030")
    found, name = decode(body, "text/html")
    assert name == "gb18030" and found.endswith(text)


FILES = {
    "warc-docs/broken": {
        "bitflip_middle.warc.gz": (41, {"damaged gzip member": 1}),
        "deep_nesting.warc.gz": (3, {}),
        "huge_page.warc.gz": (2, {"oversized": 1}),
        "no_target_uri.warc": (41, {"no target uri": 1}),
        "null_bytes.warc.gz": (3, {}),
        "ok_many.warc.gz": (42, {}),
        "truncated_tail.warc.gz": (27, {"cut": 1}),
    },
    "warc-warcio": {
        "bad.arc": (0, {"wrong content-length": 2, "no http header": 2, "cut": 1}),
        "example-bad-non-chunked.warc.gz": (1, {}),
        "example-digest.warc": (0, {}),  # four requests
        "example-iana.org-chunked.warc": (1, {}),
        "example-resource.warc.gz": (0, {}),  # no answers of a server: resources, which are not pages
        "example-space-in-target-uri.warc.gz": (0, {}),  # a resource
        "example-space-in-url.arc": (0, {"cut": 1}),
        "example-trunc.warc": (1, {"wrong content-length": 1}),
        "example-wget-bad-target-uri.warc.gz": (1, {}),
        "example-wrong-chunks.warc.gz": (1, {"wrong content-length": 1}),
        "example.arc": (1, {}),
        "example.arc.gz": (1, {}),
        "example.warc": (1, {}),
        "example.warc.gz": (1, {}),
        "post-test.warc.gz": (3, {}),
    },
}


@pytest.mark.parametrize("folder", FILES)
def test_damaged_files_of_others(folder: str) -> None:
    """Every one: nothing is lost without a reason."""
    found = {}
    for source in list_inputs(shared_data(folder)):
        lines: list[str] = []
        count = sum(1 for _ in read_input(source, lines.append))
        if not source.name.endswith(".txt"):
            found[source.name] = (count, dict(Counter(line.partition(": ")[0] for line in lines)))
    assert found == FILES[folder]


def test_after_a_flipped_bit_all_but_its_record_survive(tmp_path: Path) -> None:
    data = (shared_data("warc-docs/broken") / "ok_many.warc.gz").read_bytes()
    whole = {
        (page.url, page.body) for page in read(tmp_path / "x.warc.gz", data)[0] if isinstance(page, Page)
    }
    rng = random.Random(2)
    survivors: Counter[int] = Counter()
    for _ in range(150):
        flipped = bytearray(data)
        bit = rng.randrange(len(data) * 8)
        flipped[bit // 8] ^= 1 << bit % 8
        pages, reasons = read(tmp_path / "x.warc.gz", bytes(flipped))
        found = {(page.url, page.body) for page in pages if isinstance(page, Page)}
        assert found <= whole and (found == whole or reasons)
        survivors[len(found)] += 1
    assert len(whole) == 42 and set(survivors) <= {41, 42}


MEASURE = """
import resource, sys
from sishu.corpus.read.sources import Input, read_input
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for item in read_input(Input(sys.argv[1], sys.argv[1], 0), lambda line: None):
    item = None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["record", "body", "line"])
def test_a_gigabyte_is_never_held(tmp_path: Path, kind: str) -> None:
    if kind == "line":
        path, data = tmp_path / "x.jsonl.gz", ZEROS
    elif kind == "body":
        path = tmp_path / "x.warc.gz"
        data = packed(record(HTML + b"Content-Encoding: gzip\r\n\r\n" + ZEROS))
    else:
        path, data = tmp_path / "x.warc.gz", bomb(1 << 28, front=record(b"", length=1 << 28)[:-4])
    path.write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 150_000  # kilobytes


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=2000),
    st.sampled_from(
        (
            ".warc",
            ".warc.gz",
            ".arc",
            ".jsonl",
            ".jsonl.gz",
            ".jsonl.zst",
            ".parquet",
            ".arrow",
            ".txt.gz",
            ".html",
        )
    ),
)
def test_whatever_a_file_holds_nothing_raises(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    read(folder / f"any{ending}", data)
    if ending.endswith(".gz"):
        read(folder / f"any{ending}", packed(data))
