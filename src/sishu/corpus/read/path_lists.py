"""Lists of paths, as Common Crawl publishes them: `warc.paths.gz`, a line for each file of a crawl.

A list is data from elsewhere, so a line may name a file below the base or on a public store, and nothing on
this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from sishu.corpus.read.rows import lines_of, unpacked

COMMON_CRAWL = "https://data.commoncrawl.org/"
"""Where the paths in Common Crawl's lists begin; s3://commoncrawl/ for machines in us-east-1."""
ENDINGS = (".paths", ".paths.gz")

_MAX_LINE_BYTES = 4_096
_MAX_LINES = 10_000_000
_STORES = re.compile(r"(?:https?|s3|gs|hf)://[^/:]", re.I)
_UNPRINTABLE = re.compile(r"[^!-~\u00a0-\U0010ffff]|\\")


def paths_in(
    file: BinaryIO, name: str, base: str, readable: Callable[[str], bool], report: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    """The name and the address of each file in a list, without blank lines and those that begin with #.

    Args:
        file: the list, packed with gzip or not.
        name: of the list, for reports.
        base: what stands before a path to make an address.
        readable: says whether a file can be read by the end of its name.
        report: called with a line `refused path: place (cause)` for each line that must not be opened.

    Raises:
        OSError: the list is cut or damaged, after all that comes before.
    """
    base = base.rstrip("/") + "/"
    for number, line in enumerate(lines_of(unpacked(file), _MAX_LINE_BYTES), 1):
        if number > _MAX_LINES:
            report(f"refused path: {name}:{number} (too many lines)")
            return
        text = "" if line is None else line.decode("utf-8", "replace").strip()
        if line is not None and (not text or text.startswith("#")):
            continue
        if cause := "too long" if line is None else _objection(text, readable):
            report(f"refused path: {name}:{number} ({cause})")
        else:
            yield text, text if _STORES.match(text) else base + text


def _objection(text: str, readable: Callable[[str], bool]) -> str:
    if _UNPRINTABLE.search(text) or "::" in text:
        return "characters that have no place in a path"
    rest = text.partition("://")[2] if _STORES.match(text) else text
    if rest is text and ("://" in text or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text)):
        return "not on a public store"
    if any(part in ("", ".", "..") for part in rest.split("/")):
        return "leaves the archive"
    return "" if readable(rest) else "of a kind that cannot be read"
