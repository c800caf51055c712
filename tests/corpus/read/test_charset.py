"""Pages in the charsets of the web, declared rightly, wrongly and not at all."""

import gzip
import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.read.charset import decode
from sishu.corpus.read.warc import read_pages
from tests.shared_data import shared_data

CHINESE = "这一章讨论大规模部署系统，而不是安装单台计算机。我们学习手动创建卷，以便日后修改最初的选择。"
TRADITIONAL = "這一章討論大規模部署系統，而不是安裝單台電腦。我們學習手動建立磁碟區，以便日後修改。"
JAPANESE = "この章では、前章までに説明した側面を異なる視点からもう一度取り上げます。すなわち配備です。"
KOREAN = "이 장에서는 한 대의 컴퓨터에 설치하는 것이 아니라 대규모 배포 시스템에 대하여 배웁니다."
GERMAN = "Dieses Kapitel greift einige Aspekte noch einmal auf: für größere Übungen müßte man häufig ändern."
RUSSIAN = "Эта глава возвращается к некоторым аспектам, уже описанным ранее, но в другом ракурсе."


def page(text: str, meta: str = "") -> str:
    declaration = f'<meta charset="{meta}">' if meta else ""
    return f"<html><head>{declaration}<title>{text}</title></head><body><p>{text}</p></body></html>"


@pytest.mark.parametrize(
    ("codec", "text", "name"),
    [
        ("gbk", CHINESE, "gb18030"),
        ("gb2312", CHINESE, "gb18030"),
        ("gb18030", CHINESE + "𠮷", "gb18030"),
        ("big5", TRADITIONAL, "big5"),
        ("shift_jis", JAPANESE, "shift_jis"),
        ("euc_jp", JAPANESE, "euc-jp"),
        ("iso2022_jp", JAPANESE, "iso-2022-jp"),
        ("euc_kr", KOREAN, "euc-kr"),
        ("latin-1", GERMAN, "windows-1252"),
        ("cp1251", RUSSIAN, "windows-1251"),
        ("utf-8", CHINESE, "utf-8"),
        ("utf-16", CHINESE, "utf-16le"),
        ("utf-16-le", CHINESE, "utf-16le"),
        ("utf-16-be", CHINESE, "utf-16be"),
    ],
)
@pytest.mark.parametrize("declaration", ["none", "header", "meta", "wrong: utf-8", "wrong: latin-1"])
def test_legacy_pages_whatever_they_say(codec: str, text: str, name: str, declaration: str) -> None:
    header, meta = "text/html", ""
    if declaration == "header":
        header = f"text/html; charset={codec.replace('_', '-')}"
    elif declaration == "meta":
        meta = codec.replace("_", "-")
    elif declaration == "wrong: utf-8":
        header = "text/html; charset=UTF-8"
    elif declaration == "wrong: latin-1":
        header = 'text/html; charset="ISO-8859-1"'
    source = page(text, meta)
    assert decode(source.encode(codec), header) == (source, name)


def test_declared_charset_decides_where_the_bytes_allow_several() -> None:
    body = page("caf\xe9").encode("cp1252")
    assert decode(body, "text/html; charset=windows-1250")[1] == "windows-1250"
    assert decode(body, "text/html; charset=windows-1252")[1] == "windows-1252"


def test_empty_body() -> None:
    assert decode(b"", "text/html; charset=gbk") == ("", "utf-8")


def test_nul_characters_and_byte_order_mark_are_dropped() -> None:
    assert decode(b"\xef\xbb\xbfa\0b\0\0c" + b" " * 40) == ("abc" + " " * 40, "utf-8")


def test_a_character_cut_at_the_end_does_not_change_the_charset() -> None:
    text, name = decode(page(CHINESE).encode()[:-20] + "中".encode()[:2], "text/html")
    assert name == "utf-8" and CHINESE in text


def test_a_broken_byte_among_many_characters_stays_utf8() -> None:
    body = page(CHINESE * 3).encode().replace("卷".encode(), b"\xe5\x8d", 1)
    text, name = decode(body)
    assert name == "utf-8" and text.count("\ufffd") <= 1 and "大规模部署" in text


@pytest.mark.parametrize(
    "label", ["zlib", "hex", "rot13", "unicode_escape", "idna", "utf-7", "no-such", "base64"]
)
def test_a_page_cannot_choose_a_codec_that_is_no_charset(label: str) -> None:
    body = page(GERMAN, label).encode("cp1252")
    assert decode(body, f"text/html; charset={label}") == (body.decode("cp1252"), "windows-1252")


@given(st.binary(max_size=300), st.text(max_size=40))
def test_never_raises(body: bytes, content_type: str) -> None:
    text, name = decode(body, content_type)
    assert "\0" not in text and name


@given(
    st.text(
        alphabet=st.characters(exclude_characters="\0\ufeff\x1b", exclude_categories=["Cs"]), max_size=200
    )
)
def test_utf8_round_trip(text: str) -> None:
    body = text.encode()
    # text that begins like UTF-16 needs NUL bytes, which are excluded here
    assert decode(body) == (text, "utf-8")


def test_real_pages_with_known_text() -> None:
    folder = shared_data("warc-docs")
    truth = {}
    with gzip.open(folder / "truth.jsonl.gz") as file:
        for line in file:
            row = json.loads(line)
            if row["kind"].startswith("cs_"):
                truth[row["url"]] = row["gold"]
    bare = re.compile(r"\W+")
    right = 0
    for found in read_pages(folder / "docs.warc.gz"):
        if found.url in truth:
            text, _ = decode(found.body, found.content_type)
            plain = bare.sub("", html.unescape(re.sub(r"<[^>]*>", "", text)))
            lines = [bare.sub("", line) for line in truth[found.url].splitlines()]
            lines = [line for line in lines if len(line) >= 4]
            right += sum(line in plain for line in lines) >= 0.9 * len(lines)
    assert right == len(truth) == 148
