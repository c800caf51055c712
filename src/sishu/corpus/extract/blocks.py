"""A page cut into blocks of text, with where each was found.

A block is a run of text between two tags that begin a new line, such as a paragraph, a heading, an item or a
row of a table.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from lxml import etree


def _words(text: str) -> list[str]:
    return text.split()


_UNREAD = frozenset(
    _words(
        "script style head template svg math iframe object embed canvas video audio select option datalist "
        "input textarea img map area link meta base"
    )
)
_INLINE = frozenset(
    _words(
        "a abbr acronym b bdi bdo big br cite code data del dfn em font i ins kbd label mark nobr q rp rt "
        "ruby s samp small span strike strong sub sup td th time tt u var wbr"
    )
)
_EMPHASIS = frozenset(("b", "strong", "em", "i", "u", "mark"))
TAGS = _words("p h1 h2 h3 h4 h5 h6 li div pre blockquote dd dt tr figcaption td section article summary")
_NUMBERS = {tag: place for place, tag in enumerate(TAGS)}
INSIDE = _words(
    "article main nav header footer aside form table ul ol figure blockquote section dl noscript button"
)
_INSIDE = {tag: 1 << place for place, tag in enumerate(INSIDE)}
_ROLE = {
    "article": _INSIDE["article"],
    "main": _INSIDE["main"],
    "navigation": _INSIDE["nav"],
    "banner": _INSIDE["header"],
    "contentinfo": _INSIDE["footer"],
    "complementary": _INSIDE["aside"],
    "dialog": _INSIDE["button"],
}
CALLED = {
    "content": "content article post entry story body text main page detail description markdown prose",
    "comment": "comment reply replies disqus discuss respond answer thread message",
    "navigation": "nav menu crumb pager pagination toc tabs skip",
    "side": "side rail widget column",
    "foot": "foot copyright legal disclaimer",
    "head": "head banner masthead logo brand hero",
    "share": "share social follow subscribe newsletter signup login signin sign-in",
    "related": "relat recommend more similar popular trending latest also next prev",
    "advertisement": "advert promo sponsor affiliate cta offer",
    "about": "meta byline author date time tag categor credit bio",
    "hidden": "cookie consent modal popup overlay gdpr hidden toast alert dialog",
    "product": "product price review rating cart shop sku spec feature",
    "list": "list grid card item tile row",
    "figure": "caption figure image gallery media photo video",
    "form": "search filter sort form input button btn",
    "title": "title headline summary intro lead abstract excerpt",
}
"""What authors of pages call things, in the classes and ids of tags, whole or in part."""
_CALLED = [(word, 1 << place) for place, words in enumerate(CALLED.values()) for word in words.split()]
_ADVERTISEMENT = re.compile(r"\bads?\b"), 1 << list(CALLED).index("advertisement")
_HIDDEN = 1 << list(CALLED).index("hidden")

# Stand for a new line and for the edge of a cell, which spaces of the source are not: from plane 15.
_BREAK, _CELL = "\U000f000a", "\U000f000b"
_KINDS: dict[str, str] = {
    **dict.fromkeys(_UNREAD, "unread"),
    **dict.fromkeys(_INLINE, "plain"),
    **dict.fromkeys(_EMPHASIS, "emphasis"),
    "a": "link",
    "br": _BREAK,
    "td": _CELL,
    "th": _CELL,
}
"""Of tags that begin no new line: what they change, or what stands for them in the text."""


class Block(NamedTuple):
    """A run of text and the tag that it is directly in."""

    text: str
    tag: str


RUN = ("holder", "characters of links", "characters of emphasis", "links")
"""Numbers that are known of a block; its holder is the tag that it is directly in."""
HOLDER = ("parent", "tag", "depth", "inside", "called", "called around")
"""Numbers that are known of a tag that begins a new line: that of the one around it (-1: none), the place of
its name in `CutPage.tags`, depth, and bits: in which of `INSIDE`, what it is called, of `CALLED`, and what
the tags around it are called."""


@dataclass
class CutPage:
    """The blocks of a page in order, all tags that begin a new line, and the title."""

    texts: list[str] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    """`RUN` of each text, one after the other: a list of lists is work for the garbage collector."""
    holders: list[int] = field(default_factory=list)
    """`HOLDER` of each, in the order in which they begin, so that those inside one follow it."""
    ends: list[int] = field(default_factory=list)
    """Of each holder: the number of the first after it that is not inside."""
    tags: list[str] = field(default_factory=TAGS.copy)
    """`TAGS`, then others that the page has."""
    title: str = ""

    def block(self, number: int) -> Block:
        holder = self.runs[number * len(RUN)]
        return Block(self.texts[number], self.tags[self.holders[holder * len(HOLDER) + 1]])

    @property
    def blocks(self) -> list[Block]:
        return [self.block(number) for number in range(len(self.texts))]


@lru_cache(maxsize=100_000)
def _called(names: str) -> int:
    lower = names.lower().replace("_", "-")
    bits = 0
    for word, bit in _CALLED:
        if word in lower:
            bits |= bit
    pattern, bit = _ADVERTISEMENT
    return bits | bit if "ad" in lower and pattern.search(lower) else bits


class _Reader:
    """What the parser calls for each tag and text as it meets them, instead of building a tree of them."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._link, self._emphasis = _Share(self._pieces), _Share(self._pieces)
        self.data = self._pieces.append
        self._begin()

    def _begin(self) -> None:
        self._page = CutPage()
        self._numbers = _NUMBERS.copy()
        self._holder = -1
        self._preformatted = self._links = 0
        self._skipping = 0  # tags open from the one on whose text is not read
        self._kept = 0  # pieces before that
        self._title: str | None = None
        self._title_from = 0
        self._pieces.clear()
        self._link.clear()
        self._emphasis.clear()

    def close(self) -> CutPage:
        """The page; the next may begin."""
        page = self._page
        page.title = self._title or ""
        page.ends[:1] = [len(page.ends)] if page.ends else []
        self._begin()
        return page

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        kind = _KINDS.get(tag)
        if kind == "plain":
            return
        if self._skipping:
            self._skipping += 1
        elif kind is None:
            if self._pieces:
                self._cut()
            self._hold(tag, attributes)
        elif kind == "link":
            if attributes and (attributes.get("href") or "").startswith("file:"):
                self._skipping = 1  # its text is a path on somebody's machine
                self._kept = len(self._pieces)
            else:
                self._links += 1
                self._link.begin()
        elif kind == "unread":
            self._skipping = 1
            self._kept = len(self._pieces)
        elif kind == "emphasis":
            self._emphasis.begin()
        else:
            self._pieces.append(kind)
        if tag == "title":
            self._title_from = len(self._pieces)

    def end(self, tag: str) -> None:
        kind = _KINDS.get(tag)
        if kind == "plain":
            return
        if tag == "title" and self._title is None:
            self._title = "".join(self._pieces[self._title_from :])
        if self._skipping:
            self._skipping -= 1
            if not self._skipping:
                del self._pieces[self._kept :]
        elif kind is None:
            if self._pieces:
                self._cut()
            page = self._page
            page.ends[self._holder] = len(page.ends)
            # What follows the end of the page still belongs to it.
            self._holder = max(0, page.holders[self._holder * len(HOLDER)])
            if tag == "pre":
                self._preformatted -= 1
        elif kind == "link":
            self._link.end()
        elif kind == "emphasis":
            self._emphasis.end()

    def _hold(self, tag: str, attributes: Mapping[str, str]) -> None:
        """The text that follows is in this tag."""
        page = self._page
        holders = page.holders
        number = self._numbers.get(tag)
        if number is None:
            number = self._numbers[tag] = len(page.tags)
            page.tags.append(tag)
        if holders:
            at = self._holder * len(HOLDER)
            depth, inside, called, around = holders[at + 2 : at + 6]
            if tag in _INSIDE:
                inside |= _INSIDE[tag]
            own = 0
            if attributes:
                own, role = _called_and_role(attributes)
                inside |= role
            holders += (self._holder, number, depth + 1, inside, own, around | called)
        else:  # what the whole page is called says nothing
            holders += (-1, number, 0, 0, 0, 0)
        self._holder = len(page.ends)
        page.ends.append(0)
        if tag == "pre":
            self._preformatted += 1

    def _cut(self) -> None:
        """What was read so far is a block, unless it is white."""
        raw = "".join(self._pieces)
        link, emphasis = self._link, self._emphasis
        if raw.isascii() and not self._preformatted:
            text = " ".join(raw.split())
        else:
            text = _laid_out(raw, self._preformatted > 0)
        if text:
            size = len(text)
            linked = min(link.characters(), size) if link.some else 0
            emphasised = min(emphasis.characters(), size) if emphasis.some else 0
            self._page.texts.append(text)
            self._page.runs += (self._holder, linked, emphasised, self._links)
        self._links = 0
        self._pieces.clear()
        if link.some:
            link.cut()
        if emphasis.some:
            emphasis.cut()


class _Share:
    """How much of the text is in certain tags, which may be in each other."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces
        self.clear()

    def clear(self) -> None:
        self.some = False
        self._open = self._since = self._before = 0

    def begin(self) -> None:
        if not self._open:
            self._since = len(self._pieces)
            self.some = True
        self._open += 1

    def end(self) -> None:
        self._open -= 1
        if not self._open:
            self._before += self._counted()

    def cut(self) -> None:
        """The text begins anew."""
        self.some = self._open > 0
        self._since = self._before = 0

    def characters(self) -> int:
        return self._before + (self._counted() if self._open else 0)

    def _counted(self) -> int:
        some = self._pieces[self._since :]
        return sum(map(len, some)) - some.count(_BREAK) - some.count(_CELL)


def _called_and_role(attributes: Mapping[str, str]) -> tuple[int, int]:
    """What the tag is called, in bits of `CALLED`, and what it says to be, of `INSIDE`."""
    get = attributes.get
    name, identity = get("class"), get("id")
    called = _called(f"{name or ''} {identity or ''}") if name or identity else 0
    if len(attributes) == (name is not None) + (identity is not None):
        return called, 0
    if get("hidden") is not None or get("aria-hidden") == "true":
        called |= _HIDDEN
    style = get("style")
    if style and "display:none" in style.replace(" ", ""):
        called |= _HIDDEN
    return called, _ROLE.get(get("role", ""), 0)


def _laid_out(raw: str, preformatted: bool) -> str:
    """The text with single spaces, its lines and its cells set apart by tabs."""
    if preformatted:
        lines = raw.replace(_BREAK, "\n").replace(_CELL, "\t").split("\n")
        text = "\n".join(line.rstrip() for line in lines).strip("\n")
        return text if text.strip() else ""
    if _BREAK not in raw and _CELL not in raw:
        return " ".join(raw.split())
    lines = [
        "\t".join(filter(None, (" ".join(cell.split()) for cell in line.split(_CELL))))
        for line in raw.split(_BREAK)
    ]
    return "\n".join(filter(None, lines))


class _Parsers(threading.local):
    """One for each thread, because to make one takes as long as to read a small page."""

    def __init__(self) -> None:
        reader: Any = _Reader()  # the stubs of lxml want one that takes bytes too, which never come
        self.parser = etree.HTMLParser(target=reader, no_network=True, huge_tree=True, encoding="utf-8")


_PARSERS = _Parsers()


def cut(html: str) -> CutPage:
    """The page in blocks; none when it is no HTML at all."""
    try:
        page: Any = etree.fromstring(html.encode("utf-8", "replace"), _PARSERS.parser)
    except etree.XMLSyntaxError:
        return CutPage()
    assert isinstance(page, CutPage)
    return page
