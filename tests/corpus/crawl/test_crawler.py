"""The real crawler, in its real process, against a real web site on loopback."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sishu.console import UserError
from sishu.corpus.crawl.crawler import crawl
from sishu.corpus.read.warc import read_pages

STABLE = "http://site.example/"
CHINESE = "<meta charset=gbk><p>大规模部署系统</p><a href='/gbk-%E4%B8%AD.html'>中</a>".encode("gbk")


def links(*targets: str) -> bytes:
    return "".join(f"<a href='{target}'>x</a>\n" for target in targets).encode()


class Site(ThreadingHTTPServer):
    """A small site with most of what the web does to crawlers; counts what it is asked for."""

    daemon_threads = True
    delay = 0.0
    robots = "User-agent: *\nDisallow: /private/\n"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.agents: set[str] = set()
        self.encodings: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        first = [
            "/a.html",
            "a.html#part",
            "/gbk.html",
            "/empty",
            "/missing",
            "/private/x",
            "/moved",
            "/loop1",
        ]
        second = [
            "/monster",
            "/huge",
            "/flaky",
            "/image",
            "/photo.png",
            "/self",
            "/away",
            "mailto:x@y",
            "javascript:void(0)",
        ]
        self.add(
            "/", links(*first, *second, "https://elsewhere.example/", f"{self.url}absolute", "/?b=2&a=1")
        )
        self.add("/a.html", links("/deep/1"))
        for n in range(1, 30):
            self.add(f"/deep/{n}", links(f"/deep/{n + 1}", "/"))
        self.add("/gbk.html", CHINESE)
        self.add("/gbk-%E4%B8%AD.html", b"reached")
        self.add("/empty", b"")
        self.add("/target", b"moved here")
        self.add("/absolute", b"absolute")
        self.add("/?b=2&a=1", b"query")
        self.add("/huge", b"x" * 1_300_000)
        self.add("/image", b"\x89PNG", **{"Content-Type": "image/png"})
        self.add("/photo.png", b"never asked for")
        self.add("/moved", b"", 301, Location="/target")
        self.add("/loop1", b"", 302, Location="/loop2")
        self.add("/loop2", b"", 302, Location="/loop1")
        self.add("/self", b"", 302, Location="/self")
        self.add("/away", b"", 302, Location="https://elsewhere.example/")
        self.add("/flaky", b"well again")
        self.add("/monster", b"<a " + b"x=1 " * 100_000 + b">" + b"<div>" * 100_000 + links("/target"))

    def handle_error(self, request: object, client_address: object) -> None:
        """Crawlers hang up on pages that are too large; that is no news."""

    def add(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        self.pages[path] = (status, {"Content-Type": "text/html", **headers}, body)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.asked[self.path] += 1
        site.times.append(time.monotonic())
        site.agents.add(self.headers["User-Agent"])
        site.encodings.add(self.headers.get("Accept-Encoding", ""))
        time.sleep(site.delay)
        status, headers, body = site.pages.get(self.path, (404, {"Content-Type": "text/html"}, b"no"))
        if self.path == "/robots.txt":
            status, headers, body = 200, {"Content-Type": "text/plain"}, site.robots.encode()
        if self.path == "/flaky" and site.asked["/flaky"] == 1:
            status, body = 503, b"come back"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def contents(path: Path) -> list[tuple[str, bytes]]:
    problems: list[str] = []
    pages = [(page.url, page.body) for page in read_pages(path, problems.append)]
    assert problems == []
    return pages


def test_a_whole_site(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "pages.warc.gz"
    seen: list[tuple[int, str]] = []
    result = crawl(
        [site.url],
        out,
        max_depth=5,
        max_page_bytes=1_000_000,
        alias=(site.url, STABLE),
        on_page=lambda count, url: seen.append((count, url)),
    )
    pages = contents(out)
    wanted = {
        "",
        "a.html",
        "gbk.html",
        "gbk-%E4%B8%AD.html",
        "empty",
        "monster",
        "target",
        "absolute",
        "?b=2&a=1",
        "flaky",
    }
    wanted |= {f"deep/{n}" for n in range(1, 5)}  # the depth of /deep/4 is 5
    assert [url for url, _ in pages] == sorted(STABLE + path for path in wanted)
    assert dict(pages)[STABLE + "gbk.html"] == CHINESE and dict(pages)[STABLE + "empty"] == b""
    assert result.pages == len(pages) and result.bytes == sum(len(body) for _, body in pages)
    assert result.resumed_pages == 0
    assert result.failed == {
        "http 404": 1,
        "not text": 1,
        "redirect loop": 1,
        "redirect to another host": 1,
        "refused by robots.txt": 1,
        "too large": 1,
    }
    assert [count for count, _ in seen] == list(range(1, len(pages) + 1))
    assert {url for _, url in seen} == {url for url, _ in pages}
    assert "/private/x" not in site.asked and "/photo.png" not in site.asked
    assert site.asked["/robots.txt"] == 1 and site.asked["/flaky"] == 2
    assert all("sishu" in agent for agent in site.agents) and site.encodings <= {"identity"}
    assert [path.name for path in tmp_path.iterdir()] == ["pages.warc.gz"]


def test_limits_keep_the_same_pages_at_any_concurrency(site: Site, tmp_path: Path) -> None:
    kept = []
    for concurrency in (1, 8):
        out = tmp_path / f"{concurrency}.warc.gz"
        result = crawl(
            [site.url], out, max_pages=7, concurrency=concurrency, retries=0, alias=(site.url, STABLE)
        )
        assert result.pages == 7
        kept.append([(url, body) for url, body in contents(out) if not url.endswith("flaky")])
    assert kept[0][:5] == kept[1][:5]
    assert [url for url, _ in kept[0]][:2] == [STABLE, STABLE + "?b=2&a=1"]


def test_patterns_and_robots_switched_off(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "x.warc.gz"
    site.add("/private/x", links("/deep/7"))
    crawl(
        [site.url],
        out,
        include=["/deep/", "/private/"],
        exclude=[r"/deep/9$"],
        obey_robots=False,
        alias=(site.url, STABLE),
    )
    assert [url.removeprefix(STABLE) for url, _ in contents(out)] == ["", "deep/7", "deep/8", "private/x"]
    assert site.asked["/robots.txt"] == 0


def test_delay_is_kept(site: Site, tmp_path: Path) -> None:
    crawl([site.url + "deep/27"], tmp_path / "x.warc.gz", delay=0.3, include=["/deep/"])
    assert len(site.times) == 5  # robots.txt and /deep/27 to /deep/30
    assert all(later - earlier > 0.14 for earlier, later in itertools.pairwise(site.times))


@pytest.mark.parametrize("missing", ["server", "page", "permission", "type"])
def test_no_page_at_all_names_address_and_reason(site: Site, tmp_path: Path, missing: str) -> None:
    seed = {"server": "http://127.0.0.1:9/", "page": site.url + "missing", "type": site.url + "image"}
    reason = {"server": "refused", "page": "http 404", "permission": "robots.txt", "type": "not text"}
    url = seed.get(missing, site.url + "private/x")
    with pytest.raises(UserError) as caught:
        crawl([url], tmp_path / "x.warc.gz", retries=0)
    assert url in str(caught.value) and reason[missing] in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad", [{"seeds": []}, {"seeds": ["ftp://x/"]}, {"seeds": ["http://x:port/"]}, {"include": ["("]}]
)
def test_bad_arguments_are_named(tmp_path: Path, bad: dict[str, list[str]]) -> None:
    arguments = {"seeds": ["http://127.0.0.1/"], "include": []} | bad
    with pytest.raises(UserError):
        crawl(arguments["seeds"], tmp_path / "x.warc.gz", include=arguments["include"])


DRIVER = """
    import sys
    from pathlib import Path
    from sishu.corpus.crawl.crawler import crawl
    def on_page(count, url):
        print(count, flush=True)
    crawl([sys.argv[1]], Path(sys.argv[2]), concurrency=2, max_depth=50,
          alias=(sys.argv[1], "http://site.example/"), on_page=on_page)
"""


def start_driver(site: Site, out: Path) -> "subprocess.Popen[str]":
    source = str(Path(__file__).parents[3] / "src")
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), site.url, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=source),
    )


def wait_until_quiet(site: Site) -> None:
    """Until no request has come for a while: the crawl that was killed is really gone."""
    before = -1
    while sum(site.asked.values()) != before:
        before = sum(site.asked.values())
        time.sleep(0.4)


def interrupt(site: Site, out: Path, signal_number: int) -> "subprocess.Popen[str]":
    driver = start_driver(site, out)
    assert driver.stdout is not None
    for line in driver.stdout:
        if int(line) >= 12:
            break
    driver.send_signal(signal_number)
    driver.wait(15)
    return driver


def test_kill_9_in_the_middle_and_the_same_call_again(site: Site, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.warc.gz", tmp_path / "pages.warc.gz"
    options = {"concurrency": 2, "max_depth": 50, "alias": (site.url, STABLE)}
    uninterrupted = crawl([site.url], whole, **options)
    site.asked.clear()
    site.delay = 0.03
    interrupt(site, out, signal.SIGKILL)
    wait_until_quiet(site)
    site.delay = 0
    working = out.with_name(out.name + ".working")
    assert not out.exists() and working.exists()
    stored = {url for url, _ in contents(working)}
    working.write_bytes(working.read_bytes() + whole.read_bytes()[:150])  # a record cut in the middle
    asked = site.asked.copy()
    resumed = crawl([site.url], out, **options)
    assert contents(out) == contents(whole)
    assert resumed.resumed_pages == len(stored) >= 12
    assert (resumed.pages, resumed.failed) == (uninterrupted.pages, uninterrupted.failed)
    again = {path for path, count in site.asked.items() if count > asked[path]}
    assert not {STABLE + path.removeprefix("/") for path in again} & stored
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pages.warc.gz", "whole.warc.gz"]


def test_a_flipped_bit_in_the_working_archive_costs_one_page(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "pages.warc.gz"
    site.delay = 0.03
    interrupt(site, out, signal.SIGKILL)
    wait_until_quiet(site)
    site.delay = 0
    working = out.with_name(out.name + ".working")
    count = len(contents(working))
    raw = bytearray(working.read_bytes())
    starts = [at for at in range(len(raw)) if raw[at : at + 3] == b"\x1f\x8b\x08"]
    raw[starts[0] + 60] ^= 0xFF  # the seed's own page, the first to be stored
    working.write_bytes(bytes(raw))
    result = crawl([site.url], out, max_depth=50, alias=(site.url, STABLE))
    assert result.resumed_pages == count - 1 and result.pages == len(contents(out)) == 40


def test_ctrl_c_stops_the_child_and_comes_back_as_keyboard_interrupt(site: Site, tmp_path: Path) -> None:
    site.delay = 0.03
    driver = interrupt(site, tmp_path / "pages.warc.gz", signal.SIGINT)
    assert driver.stderr is not None and driver.stderr.read().strip().endswith("KeyboardInterrupt")
    asked = sum(site.asked.values())
    time.sleep(0.5)
    assert sum(site.asked.values()) == asked
    assert len(contents(tmp_path / "pages.warc.gz.working")) >= 12
