"""Pages are refused by their address where a list says so, and by nothing that merely looks alike."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.judge.url_filter import REASONS, UrlFilter, normal_host, parse, read_list
from sishu.corpus.judge.url_lists import LONGEST, compile_list
from tests.shared_data import shared_data


def written(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def lists(tmp_path: Path) -> UrlFilter:
    domains = written(
        tmp_path / "domains", "# bad ones", "bad.com", "例子.测试", "www.WORSE.org.  # why", "10.0.0.1"
    )
    urls = written(tmp_path / "urls", "mixed.net/some/Page/", "http://mixed.net/中文?q=1", "home.net")
    return UrlFilter([domains], [urls], allow=["good.bad.com"], cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://bad.com/", "blocked domain"),
        ("HTTPS://user:pw@a.b.BAD.com.:8443/x?y#z", "blocked domain"),
        ("//bad.com/x", "blocked domain"),
        ("bad.com/x", "blocked domain"),
        ("http:\\\\bad.com\\x", "blocked domain"),
        ("http://b%61d.com/", "blocked domain"),
        ("http://worse.org/", "blocked domain"),
        ("http://www.worse.org/", "blocked domain"),
        ("http://10.0.0.1:80/", "blocked domain"),
        ("http://例子.测试/", "blocked domain"),
        ("http://www.例子。测试/", "blocked domain"),
        ("http://xn--fsqu00a.xn--0zwm56d/", "blocked domain"),
        ("http://%E4%BE%8B%E5%AD%90.测试/", "blocked domain"),
        ("http://notbad.com/", ""),
        ("http://bad.com.org/", ""),
        ("http://x.org/bad.com", ""),
        ("http://bad.com@x.org/", ""),
        ("http://good.bad.com/", ""),
        ("http://very.good.bad.com/", ""),
        ("https://www.mixed.net/some/page", "blocked url"),
        ("http://mixed.net:80/%73ome/page/#top", "blocked url"),
        ("http://mixed.net/%E4%B8%AD%E6%96%87?q=1", "blocked url"),
        ("http://mixed.net/中文?q=2", ""),
        ("http://mixed.net/some/page/two", ""),
        ("http://sub.mixed.net/some/page", ""),
        ("http://home.net/", "blocked url"),
        ("http://home.net/x", ""),
    ],
)
def test_domains_and_urls(lists: UrlFilter, url: str, reason: str) -> None:
    assert lists.reason(url) == reason


@pytest.mark.parametrize(
    ("entry", "spared"),
    [("www.com", "http://other.com/"), ("www.co.uk", "http://other.co.uk/"), ("www.a.uk", "http://b.uk/")],
)
def test_www_is_not_taken_from_what_would_become_a_whole_country(
    tmp_path: Path, entry: str, spared: str
) -> None:
    judged = UrlFilter([written(tmp_path / "domains", entry)])
    assert judged.reason(spared) == ""
    assert judged.reason(f"http://{entry}/") == "blocked domain"


@pytest.mark.parametrize(
    "url",
    [
        "http://free-xxx-porn-videos.com/page",
        "http://casino-online-slots.bet/",
        "http://hotsexcams.example/",
        "http://viagra-cheap.example/",
        "http://a.org/?q=best%20milfs",
        "http://a.org/裸聊直播",
        "http://a.org/%E6%97%B6%E6%97%B6%E5%BD%A9%E5%B9%B3%E5%8F%B0",
        "http://a.org/時時彩/投注",
        "http://裸聊直播.com/",
        "http://xn--" + "裸聊直播".encode("punycode").decode() + ".com/",
        "http://a.org/beijingsaiche.html",
        "http://bocai-touzhu.cn/",
    ],
)
def test_default_words(url: str) -> None:
    assert UrlFilter().reason(url) == "blocked word in url"
    assert UrlFilter(default_words=False).reason(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://www.essex.gov.uk/",
        "https://www.essexcampus.ac.uk/essexcams",
        "https://www.sussex.ac.uk/middlesex",
        "http://www.scunthorpe.co.uk/",
        "http://a.org/analysis-of-cockpits-and-titles",
        "http://therapist-finder.com/specialist/peacock",
        "http://www.expertsexchange.com/",
        "http://penisland.net/",
        "http://webcamsexpert.com/",
        "http://a.cn/shentai-shangshi",  # 神态, 上市
        "https://www.nhs.uk/does-anal-sex-have-any-risks/",
        "https://www.rainn.org/sexual-assault-and-rape",
        "https://www.lgbt.org/gay-lesbian-trans-youth",
        "https://en.wikipedia.org/wiki/Casino_Royale_(2006_film)",
        "https://en.wikipedia.org/wiki/Online_casino",
        "https://www.news.com/porn-age-check-law",
        "https://zh.wikipedia.org/wiki/六合彩",
        "https://zh.wikipedia.org/wiki/%E6%BE%B3%E9%97%A8",
        "https://zh.wikipedia.org/wiki/性教育",
        "https://www.slotcars.org/alphabet",
        "free-porn-videos.txt#12",  # the user's own file
    ],
)
def test_respectable_urls_stay(url: str) -> None:
    assert UrlFilter().reason(url) == ""


def test_words_of_the_user(tmp_path: Path) -> None:
    words = tmp_path / "words.gz"
    lines = "plain\n# no\n[soft]\neins\nzwei  # two\nдрей\n[part]\nvier\n[hard]\nfünf sechs\n七八\n"
    words.write_bytes(gzip.compress(lines.encode()))
    judged = UrlFilter(words=[words], default_words=False)
    for bad in ["x.org/plain", "x.org/zwei/eins", "x.org/Eins-ДРЕЙ", "xviery.org", "x.org/f%C3%BCnf-sechs"]:
        assert judged.reason("http://" + bad) == "blocked word in url", bad
    assert judged.reason("http://x.org/六七八九") == "blocked word in url"
    for good in ["x.org/plainly", "x.org/eins/eins", "x.org/zwei", "x.org/fünf/x/sechs", "x.org/no"]:
        assert judged.reason("http://" + good) == "", good
    assert UrlFilter(words=[words], min_soft=1).reason("http://x.org/eins") == "blocked word in url"


def a_tar(path: Path, files: dict[str, bytes], packing: Literal["", "gz", "xz"] = "gz") -> Path:
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("porn/domains")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.mark.parametrize("packing", ["", "gz", "xz"])
def test_lists_in_the_layout_of_ut1(tmp_path: Path, packing: Literal["", "gz", "xz"]) -> None:
    files = {
        "adult/domains": b"# c\na.com\r\n\n  b.com \nc.com # why\n",
        "adult/urls": b"d.com/x#y\n",
        "../../escape/domains": b"e.com\n",
        "adult/usage": b"f.com\n",
    }
    tar = a_tar(tmp_path / "list", files, packing)
    assert list(read_list(tar)) == ["a.com", "b.com", "c.com", "e.com"]
    assert list(read_list(tar, "urls")) == ["d.com/x#y"]
    folder = tmp_path / "folder"
    for name, content in files.items():
        file = folder / name.replace("../", "")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / "link").mkdir()
    (folder / "link" / "domains").symlink_to("/etc/passwd")
    assert list(read_list(folder)) == ["a.com", "b.com", "c.com", "e.com"]
    assert not (tmp_path.parent / "escape").exists()
    assert UrlFilter([tar], [tar]).reason("http://d.com/x") == "blocked url"


def test_odd_bytes_and_endless_lines(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(b"\xef\xbb\xbfa.com\n" + b"x" * 3 * LONGEST + b".com\nb\xff.com\nlast.com")
    assert list(read_list(file)) == ["a.com", "b\ufffd.com", "last.com"]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list(read_list(tmp_path / "missing"))
    broken = written(tmp_path / "plain", *(f"x{number}.com" for number in range(1000)))
    broken.write_bytes(gzip.compress(broken.read_bytes())[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        UrlFilter([broken], cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file named 'domains'"):
        UrlFilter([tmp_path / "empty"])
    with pytest.raises(UserError, match="min_soft"):
        UrlFilter(min_soft=0)


def test_compiled_once_and_mapped(tmp_path: Path) -> None:
    source = written(tmp_path / "domains", *(f"site{number}.com" for number in range(5000)), "site1.com")
    cache = tmp_path / "cache"
    first = UrlFilter([source], cache=cache)
    (file,) = cache.iterdir()
    hashes = numpy.load(file, allow_pickle=False)
    assert len(hashes) == 5000 and (numpy.diff(hashes.astype(object)) > 0).all()
    stamp = file.stat().st_mtime_ns
    again = UrlFilter([source], cache=cache)
    assert file.stat().st_mtime_ns == stamp
    pickled = pickle.dumps(again)
    assert len(pickled) < 8000
    for judged in (first, again, pickle.loads(pickled)):
        assert judged.reason("http://site4999.com/") == "blocked domain"
        assert judged.reason("http://site5000.com/") == ""
    written(source, "other.com")
    assert UrlFilter([source], cache=cache).reason("http://site1.com/") == ""
    assert len(list(cache.iterdir())) == 2
    file.write_bytes(b"not numpy")
    source.write_text("".join(f"site{number}.com\n" for number in range(5000)) + "site1.com\n", "utf-8")
    assert UrlFilter([source], cache=cache).reason("http://site7.com/") == "blocked domain"
    assert (numpy.load(file) == hashes).all()


def test_an_empty_list_blocks_nothing(tmp_path: Path) -> None:
    judged = UrlFilter([written(tmp_path / "domains", "# nothing")], cache=tmp_path / "cache")
    assert judged.reason("http://a.com/") == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http:///",
        "http://" + "a." * 500_000,
        "http://a.com/" + "%" * 1_000_000,
        "例" * 1_000_000,
        "http://[::1]:80/x",
        "http://[::ffff:1.2.3.4",
        "http://[]",
        "http://\ud800.com/\udfff%ED%A0%80",
        "http://xn--\x00/",
        "http://xn--" + "9" * 300,
        "http://🍣.ws/",
        "http://-.-/..",
        "mailto:a@b.com",
        "data:text/html,<p>",
    ],
)
def test_hostile_urls(lists: UrlFilter, url: str) -> None:
    assert lists.reason(url) == ""


@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_text_is_judged(text: str) -> None:
    judged = UrlFilter()
    for url in (text, "http://" + text, "http://a.com/" + text):
        assert judged.reason(url) in ("", *REASONS)


LABEL = st.text(alphabet="abc例子ü1", min_size=1, max_size=5)


@given(st.lists(LABEL, min_size=2, max_size=4), st.text(alphabet="ab/中 %25", max_size=10))
def test_one_address_however_written(labels: list[str], path: str) -> None:
    host = ".".join(labels)
    plain = parse(f"http://{host}/{quote(path)}")
    assert plain.host.isascii()
    assert normal_host(plain.host) == plain.host
    assert parse(f"HTTPS://me:pw@{host.upper()}.:99/{quote(path)}/#x")[:2] == plain[:2]
    assert parse(f"//{quote(host)}/{quote(path)}")[:2] == plain[:2]


@given(st.sets(st.from_regex(r"[a-z]{1,4}\.(com|cn)", fullmatch=True)), st.from_regex(r"[a-z]{1,4}"))
def test_the_hashes_are_the_set(domains: set[str], name: str) -> None:
    """Against Python's own set."""
    with tempfile.TemporaryDirectory() as folder:
        listed = compile_list(written(Path(folder) / "domains", *sorted(domains)), "domains", str.encode)
    for domain in (*domains, f"{name}.com", f"{name}.cn"):
        assert listed.holds_any([domain.encode()]) == (domain in domains)


def test_planted_addresses() -> None:
    """Four of the five kinds planted go (torrents are no matter of taste here), and no other page does."""
    judged = UrlFilter()
    with gzip.open(shared_data("warc-docs") / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = list(map(json.loads, lines))
    refused = {row["url"] for row in rows if judged.reason(row["url"])}
    assert refused == {row["url"] for row in rows if row["kind"] == "bad_url" and "torrent" not in row["url"]}
    assert len(refused) == 16
