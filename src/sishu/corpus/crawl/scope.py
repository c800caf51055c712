"""Which addresses belong to a crawl, in which spelling, and under which name they are stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urldefrag, urlsplit, urlunsplit

from w3lib.url import safe_url_string

_MAX_URL = 2000
"""Longer addresses are traps or session state."""
_DEFAULT_PORT = {"http": 80, "https": 443}


class Scope:
    """The seeds' hosts, less what the patterns leave out. Each address is let in once.

    Args:
        seeds: addresses always in scope.
        include, exclude: regular expressions searched for in the stored form of other addresses.
        alias: (live prefix, stable prefix) or None, as in `crawl`.
    """

    def __init__(
        self,
        seeds: Iterable[str],
        include: Iterable[str],
        exclude: Iterable[str],
        alias: Sequence[str] | None,
    ) -> None:
        self.seeds = sorted({url for url in map(clean, seeds) if url})
        self._hosts = {urlsplit(url).netloc for url in self.seeds}
        self._seen = set(self.seeds)
        self._include = [re.compile(pattern) for pattern in include]
        self._exclude = [re.compile(pattern) for pattern in exclude]
        self._live, self._stable = alias or ("", "")

    def on_our_hosts(self, url: str) -> bool:
        """Whether a clean address is on the host and port of a seed."""
        return urlsplit(url).netloc in self._hosts

    def new(self, urls: Iterable[str]) -> list[str]:
        """Those of `urls` that belong to the crawl and were not seen before, in clean form."""
        found = []
        for raw in urls:
            url = clean(raw)
            if url is None or url in self._seen or not self.on_our_hosts(url):
                continue
            self._seen.add(url)
            stored = self.stored(url)
            wanted = not self._include or any(one.search(stored) for one in self._include)
            if wanted and not any(one.search(stored) for one in self._exclude):
                found.append(url)
        return found

    def stored(self, url: str) -> str:
        """The name of a live address in the archive."""
        if self._live and url.startswith(self._live):
            return self._stable + url[len(self._live) :]
        return url


def clean(url: str) -> str | None:
    """The address without fragment, in one spelling; None if it cannot be crawled."""
    try:
        parts = urlsplit(safe_url_string(urldefrag(url.strip()).url))
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORT or not parts.hostname or len(url) > _MAX_URL:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != _DEFAULT_PORT[parts.scheme]:
        host += f":{port}"
    return urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))
