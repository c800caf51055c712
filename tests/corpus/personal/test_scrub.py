"""What is personal goes, what merely looks like it stays."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.personal.scrub import scrub
from sishu.corpus.read.warc import read_pages
from tests.shared_data import shared_data


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Write to jane.doe+0@sub.corp-mail.org.", "Write to <email>."),
        ("Author: Bob <bob@redivi.com>", "Author: Bob <email>"),
        ("请写信到zhang.san@163.com联系我", "请写信到<email>联系我"),
        ("server 8.8.4.4, please", "server <ip>, please"),
        ("地址是8.8.4.4，端口80", "地址是<ip>，端口80"),
        ("dns\n8.8.4.4\n", "dns\n<ip>\n"),
        ("8.8.4.4 - - [10/Oct/2000]", "<ip> - - [10/Oct/2000]"),
        ("http://8.8.4.4:80/", "http://<ip>:80/"),
        ("at 2606:4700:4700::1111.", "at <ip>."),
        ("[2a00:1450:4001:81b:0:0:0:200e]:443", "[<ip>]:443"),
        ("<object object at 0x7f12ab34cd50>", "<object object at 0x…>"),
    ],
)
def test_replaced(before: str, after: str) -> None:
    text, counts = scrub(before)
    assert text == after
    assert sum(counts.values()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com and root@localhost and a@mail.example.org",
        "127.0.0.1, 0.0.0.0, 192.168.1.7, 10.0.0.1, 192.0.2.1, 203.0.113.9, 255.255.255.0",
        "::1 and fe80::1 and 2001:db8::1",
        "version 1.2.3.4 is out, v2.10.3.1 too",
        "版本号：1.2.3.4，版本 8.1.2.3",
        "see section 4.2.1.3, Abschnitt 9.2.1.4, 第 6.1.2.2 节, 11.7.3.2「配置」",
        "end.\n\n12.4.2.2. Setting up\n12.4.2.3 配置",
        "object 1.3.6.1.4.1 and 1.2.3 and 999.1.1.1 and 01.02.03.04",
        "std::vector and a::b and x[::2] and x[1::2] and 12:30:45 and dead::beef::1",
        "@decorator, x @ y, a@b, C@C.mean(x)",
        "the constant 0x7f12ab34cd50, not an address",
        "12.5.2024-1.6.2024.3",
    ],
)
def test_near_misses_stay(text: str) -> None:
    assert scrub(text) == (text, {})


def test_counts_by_type() -> None:
    _, counts = scrub("a.b@c.org d@e.net 9.9.9.9 <x at 0x7f12ab34cd50>")
    assert counts == {"email": 2, "ip": 1, "memory": 1}


@given(st.text(alphabet="ab1.@:-0x <>中\n", max_size=200))
def test_twice_is_once(text: str) -> None:
    once, _ = scrub(text)
    assert scrub(once) == (once, {})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("git clone https://bob:s3cr3t99@git.corp.org/x", "git clone https://<credentials>@git.corp.org/x"),
        ("见ftp://root:Pa55@8.8.4.4/，谢谢", "见ftp://<credentials>@<ip>/，谢谢"),
        ("GET /v1?api_key=9f86d081884c7d65&q=a", "GET /v1?api_key=9f86d081884c7d65&q=a"),  # no URL
        (
            "https://a.org/v1?q=a&api_key=9f86d081884c7d65#top",
            "https://a.org/v1?q=a&api_key=<credentials>#top",
        ),
    ],
)
def test_credentials_in_urls(before: str, after: str) -> None:
    assert scrub(before)[0] == after


@pytest.mark.parametrize(
    "text",
    [
        "http://user:password@host.org/ and ftp://user:pass@ftp.org and https://{user}:{password}@a.org",
        "https://bob:s3cr3t99@example.com/",
        "https://a.org/?token=YOUR_TOKEN&secret=<secret>&sig=xxxxxxxx&key=abcdefghij",
        "http://host.org:8080/a@b and https://medium.com/@someone/post:1",
    ],
)
def test_stand_ins_for_credentials_stay(text: str) -> None:
    assert scrub(text) == (text, {})


def test_planted_personal_data(shared: Path) -> None:
    """What was planted in 60 pages goes, private networks stay, and nothing else is touched."""
    with gzip.open(shared / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        truth = {row["url"]: row for row in map(json.loads, lines) if row["kind"] == "pii"}
    pages = {page.url: page for page in read_pages(shared / "docs.warc.gz") if page.url in truth}
    assert len(pages) == len(truth) == 60
    for url, row in truth.items():
        before = html_to_text(pages[url].body.decode("utf-8"), "fast")
        expected = before
        planted = [*((email, "<email>") for email in row["emails"]), (row["ip"], "<ip>")]
        planted += [(row["phone"], "<phone>"), (row["idno"], "<id-number>")]
        for value, placeholder in planted:
            if value:
                assert value in before
                expected = expected.replace(value, placeholder)
        assert row["private_ip"] in expected
        rest, counts = scrub(expected)
        assert set(counts) <= {"email", "ip"}, "what the pages themselves hold"
        assert scrub(before)[0] == rest, url


@pytest.fixture
def shared() -> Path:
    return shared_data("warc-docs")
