"""The crawl itself, a Scrapy spider in a process of its own: `python -m sishu.corpus.crawl.spider`.

The parent writes the job, one line of JSON, to standard input and keeps the pipe open; the process
ends when that pipe does, so it cannot outlive its parent. Progress and the result go to standard
output as lines of JSON.

The walk is breadth-first in rounds: a round is a run of addresses of one depth in sorted order, and
the next begins when every answer of the last is in. So the set of pages depends on the site and the
limits, never on which answer came first, and a crawl that was killed and goes on ends with the same
pages as one that was not. An address whose answer is in the working archive is replayed from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urljoin

import scrapy
from filelock import FileLock
from scrapy import signals
from scrapy.crawler import CrawlerProcess
from scrapy.exceptions import DontCloseSpider, StopDownload
from scrapy.http import HtmlResponse
from scrapy.linkextractors import LinkExtractor

from sishu.corpus.crawl.archive import Answer, WorkingArchive
from sishu.corpus.crawl.scope import Scope, clean
from sishu.corpus.read.charset import decode

_ROUND = 1000
"""At most so many requests wait inside Scrapy, whatever the size of a level."""
_MAX_REDIRECTS = 10
_ENDLESS_TAG = re.compile(r"<[^<>]{20000,}>?")
"""lxml takes a minute over a tag with 200,000 attributes."""
_TIMEOUT_SECONDS = 60

_REASONS = {
    "IgnoreRequest": "refused by robots.txt",
    "StopDownload": "not text",
    "DownloadCancelledError": "too large",
    "DownloadTimeoutError": "timeout",
    "DownloadConnectionRefusedError": "connection refused",
    "CannotResolveHostError": "host not found",
    "ResponseDataLossError": "connection lost",
    "DownloadFailedError": "connection lost",
}
"""Scrapy's exceptions in words for the report."""

_write_lock = threading.Lock()
"""Held while the archive is written to, so that the end of the parent does not cut a record."""


class SiteSpider(scrapy.Spider):  # type: ignore[misc]
    """Walks the hosts of the seeds and hands every answer to the archive."""

    name = "sishu"

    def __init__(self, job: dict[str, Any], archive: WorkingArchive) -> None:
        super().__init__()
        self._job = job
        self._archive = archive
        self._links = LinkExtractor(canonicalize=False)
        self._depth = 0
        self._scope = Scope(job["seeds"], job["include"], job["exclude"], job["alias"])
        self._waiting = self._scope.seeds
        self._next_level: set[str] = set()
        self._redirected: set[str] = set()
        self._hops: dict[str, int] = {}
        self.pages: dict[str, int] = {}
        """Stored URL of each page (2xx answer) to the bytes of its body."""
        self.resumed = 0
        self.failed: Counter[str] = Counter()
        self.first_failure = ""

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> SiteSpider:
        spider: SiteSpider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider._on_idle, signals.spider_idle)
        crawler.signals.connect(spider._on_headers, signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """Nothing: the first round starts when the spider is idle, like every other."""
        return
        yield

    def _on_idle(self) -> None:
        with _fatal():
            requests = [self._request(url) for url in self._next_round()]
            for request in requests:
                self.crawler.engine.crawl(request)
        if requests:
            raise DontCloseSpider

    def _next_round(self) -> list[str]:
        """The live addresses to ask for next, all of one depth; empty when the crawl is over."""
        while True:
            if self._redirected:
                self._waiting = sorted({*self._waiting, *self._redirected})
                self._redirected = set()
            room = min(_ROUND, self._job["max_pages"] - len(self.pages))
            if room <= 0:
                return []
            if not self._waiting:
                if not self._next_level:
                    return []
                self._waiting, self._next_level = sorted(self._next_level), set()
                self._depth += 1
                continue
            batch, self._waiting = self._waiting[:room], self._waiting[room:]
            missing = []
            for url in batch:
                stored = self._scope.stored(url)
                if stored in self._archive:
                    self._take(url, self._archive.read(stored))
                else:
                    missing.append(url)
            if missing:
                return missing

    def _request(self, url: str) -> Any:
        return scrapy.Request(
            url,
            callback=self._on_response,
            errback=self._on_failure,
            dont_filter=True,
            meta={"dont_redirect": True, "handle_httpstatus_all": True, "page": True},
        )

    def _on_headers(self, headers: Any, body_length: Any, request: Any, spider: Any) -> None:
        kind = headers.get(b"Content-Type", b"").decode("latin-1").lower()
        text = not kind or kind.startswith("text/") or "html" in kind or "xml" in kind
        if request.meta.get("page") and not text:
            raise StopDownload(fail=True)

    def _on_response(self, response: Any) -> None:
        with _fatal():
            url, status = response.request.url, response.status
            if status in (408, 429) or status >= 500:  # after retries; may be well another day
                self._fail(url, f"http {status}")
                return
            headers = [
                (
                    name.decode("latin-1"),
                    value.decode("latin-1").replace("\r", "").replace("\n", ""),
                )
                for name, values in response.headers.items()
                for value in values
            ]
            body = response.body if 200 <= status < 300 else b""
            answer = Answer(status, headers, body)
            with _write_lock:
                self._archive.append(self._scope.stored(url), answer)
            self._take(url, answer)

    def _on_failure(self, failure: Any) -> None:
        with _fatal():
            name = failure.type.__name__
            self._fail(failure.request.url, _REASONS.get(name, name))

    def _take(self, url: str, answer: Answer) -> None:
        """Draw from an answer, fresh or stored, all that follows from it."""
        stored = self._scope.stored(url)
        if 300 <= answer.status < 400:
            self._follow_redirect(url, answer)
        elif not 200 <= answer.status < 300:
            self._fail(url, f"http {answer.status}")
        else:
            self.pages[stored] = len(answer.body)
            if stored in self._archive.resumed:
                self.resumed += 1
            else:
                _tell({"pages": len(self.pages), "url": stored})
            if self._depth < self._job["max_depth"]:
                self._next_level.update(self._scope.new(self._found(url, answer)))

    def _follow_redirect(self, url: str, answer: Answer) -> None:
        target = clean(urljoin(url, answer.header("Location")))
        hops = self._hops.get(url, 0) + 1
        if not answer.header("Location") or target is None:
            self._fail(url, f"http {answer.status}")
        elif not self._scope.on_our_hosts(target):
            self._fail(url, "redirect to another host")
        elif hops > _MAX_REDIRECTS or target == url:
            self._fail(url, "redirect loop")
        else:
            for new in self._scope.new([target]):
                self._hops[new] = hops
                self._redirected.add(new)

    def _found(self, url: str, answer: Answer) -> list[str]:
        kind = answer.header("Content-Type")
        if kind and "html" not in kind.lower():
            return []
        body = answer.body
        if answer.header("Content-Encoding"):  # sent although we asked for none
            body = self._archive.decoded_body(self._scope.stored(url))
        text = _ENDLESS_TAG.sub("", decode(body, kind)[0])
        response = HtmlResponse(url, body=text.encode("utf-8", "replace"), encoding="utf-8")
        try:
            return [link.url for link in self._links.extract_links(response)]
        except ValueError:  # a page that lxml cannot make a tree of has no links
            return []

    def _fail(self, url: str, reason: str) -> None:
        self.failed[reason] += 1
        self.first_failure = self.first_failure or f"{url}: {reason}"


@contextlib.contextmanager
def _fatal() -> Iterator[None]:
    """Scrapy logs an exception in a callback and goes on; a crawl that lost a page must stop."""
    try:
        yield
    except Exception as error:
        traceback.print_exception(error)
        _end({"error": f"{type(error).__name__}: {error}"}, 1)


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end(message: dict[str, Any], code: int) -> NoReturn:
    _tell(message)
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    with _write_lock:
        os._exit(1)


def _settings(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "ROBOTSTXT_OBEY": job["obey_robots"],
        "USER_AGENT": job["user_agent"],
        "DOWNLOAD_DELAY": job["delay"],
        "CONCURRENT_REQUESTS": job["concurrency"],
        "CONCURRENT_REQUESTS_PER_DOMAIN": job["concurrency"],
        "RETRY_TIMES": job["retries"],
        "DOWNLOAD_MAXSIZE": job["max_page_bytes"],
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_TIMEOUT": _TIMEOUT_SECONDS,
        "DEFAULT_REQUEST_HEADERS": {
            "Accept": "text/html,*/*;q=0.5",
            "Accept-Encoding": "identity",
        },
        "COMPRESSION_ENABLED": False,  # the archive keeps what the server sent
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_ENABLED": False,
    }


def main() -> None:
    """Run the job that comes in on standard input."""
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    out, working = Path(job["out"]), Path(job["working"])
    with (
        _fatal(),
        FileLock(f"{working}.lock"),
    ):  # a killed crawl may take a moment to end
        archive = WorkingArchive(working)
        process = CrawlerProcess(_settings(job), install_root_handler=False)
        crawler = process.create_crawler(SiteSpider)
        process.crawl(crawler, job=job, archive=archive)
        process.start(install_signal_handlers=False)
        spider: SiteSpider = crawler.spider
        if spider.pages:
            archive.write_final(out, spider.pages)
        archive.remove()
    Path(f"{working}.lock").unlink(missing_ok=True)
    result = {
        "pages": len(spider.pages),
        "bytes": sum(spider.pages.values()),
        "failed": dict(sorted(spider.failed.items())),
        "resumed_pages": spider.resumed,
        "first_failure": spider.first_failure,
    }
    _end({"result": result}, 0)


if __name__ == "__main__":
    main()
