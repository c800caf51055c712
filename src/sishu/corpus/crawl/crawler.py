"""Crawl web sites, politely, into a WARC.

Scrapy does the fetching, in a child process, so that its reactor, its logging and its signal
handlers stay out of ours. What it is told to do and what it remembers is in `spider.py` and
`archive.py`: robots.txt obeyed, seeds' hosts only, and a crawl that can be killed at any moment
and goes on where it was when the same call is made again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess  # nosec: our own interpreter, our own module
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import sishu
from sishu.console import UserError

USER_AGENT = f"sishu/{getattr(sishu, '__version__', '0')} (corpus crawler; obeys robots.txt)"
_STOP_SECONDS = 10.0


@dataclass(slots=True)
class CrawlResult:
    """What came of a crawl, over all the calls it took."""

    pages: int
    """Answers with a 2xx status, each one record of the archive."""
    bytes: int
    """Of the pages' bodies, as the server sent them."""
    failed: dict[str, int]
    """Addresses that gave no page, by reason, such as "http 404" or "refused by robots.txt"."""
    resumed_pages: int
    """Pages that an earlier, interrupted call had fetched."""


def crawl(
    seeds: Sequence[str],
    out: Path,
    *,
    max_pages: int = 10_000,
    max_depth: int = 10,
    delay: float = 0.0,
    concurrency: int = 4,
    retries: int = 2,
    max_page_bytes: int = 10_000_000,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    user_agent: str = USER_AGENT,
    obey_robots: bool = True,
    alias: tuple[str, str] | None = None,
    on_page: Callable[[int, str], None] | None = None,
) -> CrawlResult:
    """Fetch the pages that can be reached from the seeds and write them to `out`.

    The archive holds one response record per page, sorted by URL, with record ids made from
    address and content: the same site gives the same records in whatever order they arrived. While
    the crawl runs, answers are in `<out>.working` beside it; a call that finds that file goes on
    with it.

    Args:
        seeds: http or https addresses; only their hosts (and ports) are crawled.
        out: the `.warc.gz` to write; it appears when the crawl is complete, replacing an old one.
        max_pages: pages to keep; the ones nearest to the seeds, and among these the first by URL.
        max_depth: links between a seed and the farthest page; 0 fetches the seeds alone.
        delay: seconds between two requests to one host, varied by half.
        concurrency: requests to one host at a time.
        retries: further tries after a timeout, a lost connection or a 5xx answer.
        max_page_bytes: larger pages are given up.
        include: regular expressions, searched for in the stored URL; unless one is found, a link is
            not followed. Empty: all are.
        exclude: likewise for links not to follow. Neither applies to seeds.
        user_agent: what the servers are told, and robots.txt is read for.
        obey_robots: ask for and obey /robots.txt.
        alias: (live prefix, stable prefix): addresses under the first are stored under the second,
            so that a server on a port of the day has lasting addresses.
        on_page: called with the number of pages so far and the stored URL for each page fetched.

    Raises:
        UserError: a seed or pattern is malformed, no page could be fetched, the disk is full, or
            the child process died.
        KeyboardInterrupt: after the child was stopped in good order.
    """
    _check(seeds, include, exclude)
    out.parent.mkdir(parents=True, exist_ok=True)
    job = {
        "seeds": list(seeds),
        "out": str(out.resolve()),
        "working": str(out.resolve()) + ".working",
        "max_pages": max_pages,
        "max_depth": max_depth,
        "delay": delay,
        "concurrency": concurrency,
        "retries": retries,
        "max_page_bytes": max_page_bytes,
        "include": list(include),
        "exclude": list(exclude),
        "user_agent": user_agent,
        "obey_robots": obey_robots,
        "alias": alias,
    }
    with tempfile.TemporaryFile() as errors:
        last = _run(job, errors, on_page)
        errors.seek(0)
        complaints = errors.read()[-2000:].decode("utf-8", "replace")
    if "error" in last:
        raise UserError(f"the crawl stopped: {last['error']}; what it fetched is kept, run it again to go on")
    if "result" not in last:
        raise UserError(
            "the crawl's process died; what it fetched is kept, run it again to go on"
            + (f" ({complaints.strip().splitlines()[-1]})" if complaints.strip() else "")
        )
    result = last["result"]
    reason = result.pop("first_failure")
    if result["pages"] == 0:
        raise UserError(
            f"no page could be fetched: {reason or 'max_pages is 0'}; "
            "check the address, and that a server answers there and allows crawling"
        )
    return CrawlResult(**result)


def _check(seeds: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> None:
    if not seeds:
        raise UserError("the crawl has no seeds; give at least one http address to start from")
    for seed in seeds:
        try:
            parts = urlsplit(seed)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            good = False
        if not good:
            raise UserError(f"the seed {seed!r} is not an http or https address; correct it")
    for pattern in (*include, *exclude):
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{pattern!r} is not a regular expression: {error}") from error


def _run(
    job: dict[str, Any], errors: IO[bytes], on_page: Callable[[int, str], None] | None
) -> dict[str, Any]:
    """Run the child to its end and return its last message, {} if it said nothing."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "sishu.corpus.crawl.spider"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=_environment(),
        start_new_session=True,  # Ctrl-C in the terminal reaches us, and we stop the child
    )
    assert child.stdin is not None and child.stdout is not None
    last: dict[str, Any] = {}
    try:
        try:
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return {}
        for line in child.stdout:
            last = json.loads(line)
            if "url" in last and on_page is not None:
                on_page(last["pages"], last["url"])
        return last
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Closing its standard input tells the child to finish its record and end."""
    try:
        if child.stdin is not None:
            child.stdin.close()
    except BrokenPipeError:
        pass
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _environment() -> dict[str, str]:
    """Ours, with this very package importable and loopback addresses never sent to a proxy."""
    environment = dict(os.environ)
    package_root = str(Path(__file__).resolve().parents[3])
    for name, extra in (
        ("PYTHONPATH", package_root),
        ("no_proxy", "127.0.0.1,localhost"),
    ):
        separator = os.pathsep if name == "PYTHONPATH" else ","
        environment[name] = separator.join(filter(None, [extra, environment.get(name)]))
    return environment
