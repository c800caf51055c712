"""crawl: web pages into a WARC archive."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal

from pydantic import Field

from sishu.config import Section
from sishu.console import UserError, progress
from sishu.corpus.crawl.crawler import crawl
from sishu.corpus.crawl.pydoc_site import PydocSite
from sishu.run import StageContext
from sishu.stages.stage import Stage

PYDOC_HOST = "http://pydoc.local/"
"""The name under which pages of the local documentation site are stored, whatever port served them."""


class CrawlSettings(Section):
    """What to fetch, and how politely."""

    site: Literal["pydoc"] | None = None
    """`pydoc` serves this Python's own documentation on loopback and crawls that."""
    modules: list[str] | None = None
    """For the pydoc site: only these top-level modules."""
    seeds: list[str] = []
    """Addresses to start from; only pages on their hosts are fetched."""
    max_pages: int = Field(10_000, ge=1)
    """Stop after this many pages."""
    max_depth: int = Field(10, ge=0)
    """How many links away from a seed."""
    delay: float = Field(0.5, ge=0)
    """Seconds between requests to one host."""
    concurrency: int = Field(4, ge=1)
    """Requests under way at once."""
    include: list[str] = []
    """Regular expressions: fetch only addresses that match one."""
    exclude: list[str] = []
    """Regular expressions: fetch no address that matches one."""


def work(s: CrawlSettings, context: StageContext) -> dict[str, Any]:
    """Fetch everything reachable into `pages.warc.gz`."""
    if not s.seeds and s.site is None:
        raise UserError("The crawl has nowhere to start: set crawl.seeds=[https://…] or crawl.site=pydoc.")
    with ExitStack() as stack:
        seeds, alias = list(s.seeds), None
        if s.site == "pydoc":
            site = stack.enter_context(PydocSite(s.modules))
            seeds, alias = [*seeds, site.url], (site.url, PYDOC_HOST)
        bar = stack.enter_context(progress("crawl", None, "pages"))
        result = crawl(
            seeds,
            context.folder / "pages.warc.gz",
            max_pages=s.max_pages,
            max_depth=s.max_depth,
            delay=s.delay,
            concurrency=s.concurrency,
            include=s.include,
            exclude=s.exclude,
            alias=alias,
            on_page=lambda count, url: bar.advance(max(0, count - bar.done), url),
        )
    return {"pages": result.pages, "bytes": result.bytes, "failed": result.failed}


STAGE = Stage("crawl", "Fetch web pages into a WARC archive.", CrawlSettings, (), work)
