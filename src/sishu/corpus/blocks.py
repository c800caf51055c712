"""A page cut into blocks of text, with where each was found.

A block is a run of text between two tags that begin a new line, such as a paragraph, a heading, an item or a
row of a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

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

_DEEPEST = 250
"""Tags in tags beyond which the text is read without them: browsers too give up, and so would Python."""

# Stand for a new line and for the edge of a cell, which spaces of the source are not: from plane 15.
_BREAK, _CELL = "\U000f000a", "\U000f000b"


@dataclass
class Block:
    """A run of text with where it was found."""

    text: str
    tag: str
    depth: int
    inside: int
    """Bits: in which of `INSIDE`."""
    called: int
    """Bits: what the tag around it is called, of `CALLED`."""
    called_around: int
    """Bits: what the tags around that are called."""
    linked: int
    """Characters of links."""
    emphasised: int
    links: int
    holder: int
    """Index of the tag around it, among all that begin a new line."""


@dataclass
class Holders:
    """All tags that begin a new line, with what they hold, whatever the depth."""

    parent: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    paragraphs: list[int] = field(default_factory=list)
    """Characters in paragraphs."""
    children: list[int] = field(default_factory=list)

    def add(self, parent: int) -> int:
        for column in (self.characters, self.linked, self.blocks, self.paragraphs, self.children):
            column.append(0)
        self.parent.append(parent)
        if parent >= 0:
            self.children[parent] += 1
        return len(self.parent) - 1

    def count(self, holder: int, characters: int, linked: int, blocks: int, paragraphs: int) -> None:
        self.characters[holder] += characters
        self.linked[holder] += linked
        self.blocks[holder] += blocks
        self.paragraphs[holder] += paragraphs


@lru_cache(maxsize=100_000)
def _called(names: str) -> int:
    lower = names.lower().replace("_", "-")
    bits = 0
    for word, bit in _CALLED:
        if word in lower:
            bits |= bit
    pattern, bit = _ADVERTISEMENT
    return bits | bit if "ad" in lower and pattern.search(lower) else bits


@dataclass(frozen=True, slots=True)
class _Place:
    """What is the same for all text directly in one tag that begins a new line."""

    tag: str
    depth: int
    inside: int
    called: int
    called_around: int
    holder: int
    preformatted: bool


class _Walk:
    """Goes through the tags in order and cuts the text at each that begins a new line."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.holders = Holders()
        self._level = 0
        self._begin()

    def _begin(self) -> None:
        self._pieces: list[str] = []
        self._linked = self._emphasised = self._links = 0

    def start(self, root: etree._Element) -> None:
        place = _Place("html", 0, 0, 0, 0, self.holders.add(-1), False)
        self._visit(root, place, False, False)
        self._end(place)

    def _end(self, place: _Place) -> None:
        if not self._pieces:
            return
        text = _laid_out("".join(self._pieces), place.preformatted)
        if text:
            size = len(text)
            linked = min(self._linked, size)
            self.holders.count(place.holder, size, linked, 1, size if place.tag == "p" else 0)
            self.blocks.append(
                Block(
                    text,
                    place.tag,
                    place.depth,
                    place.inside,
                    place.called,
                    place.called_around,
                    linked,
                    min(self._emphasised, size),
                    self._links,
                    place.holder,
                )
            )
        self._begin()

    def _say(self, text: str | None, linked: bool, emphasised: bool) -> None:
        if text:
            self._pieces.append(text)
            if linked:
                self._linked += len(text)
            if emphasised:
                self._emphasised += len(text)

    def _visit(self, element: etree._Element, place: _Place, linked: bool, emphasised: bool) -> None:
        if self._level >= _DEEPEST:
            for child in element:
                self._say(" ".join(map(str, child.itertext())), linked, emphasised)
                self._say(child.tail, linked, emphasised)
            return
        self._level += 1
        for child in element:
            tag = child.tag
            if tag in _INLINE:
                self._inline(child, tag, place, linked, emphasised)
            elif isinstance(tag, str) and tag not in _UNREAD:
                self._end(place)
                inner = self._inner(child, tag, place)
                self._say(child.text, linked, emphasised)
                self._visit(child, inner, linked, emphasised)
                self._end(inner)
                of, h = inner.holder, self.holders
                h.count(place.holder, h.characters[of], h.linked[of], h.blocks[of], h.paragraphs[of])
            self._say(child.tail, linked, emphasised)
        self._level -= 1

    def _inline(
        self, element: etree._Element, tag: str, place: _Place, linked: bool, emphasised: bool
    ) -> None:
        if tag == "br":
            self._pieces.append(_BREAK)
        elif tag in ("td", "th"):
            self._pieces.append(_CELL)
        elif tag == "a":
            if (element.get("href") or "").startswith("file:"):
                return  # its text is a path on somebody's machine
            linked = True
            self._links += 1
        emphasised = emphasised or tag in _EMPHASIS
        self._say(element.text, linked, emphasised)
        if len(element):
            self._visit(element, place, linked, emphasised)

    def _inner(self, element: etree._Element, tag: str, place: _Place) -> _Place:
        get = element.get
        names, role, style = (get("class"), get("id")), get("role"), get("style")
        called = _called(f"{names[0] or ''} {names[1] or ''}") if names != (None, None) else 0
        if get("hidden") is not None or get("aria-hidden") == "true":
            called |= _HIDDEN
        if style and "display:none" in style.replace(" ", ""):
            called |= _HIDDEN
        return _Place(
            tag,
            place.depth + 1,
            place.inside | _INSIDE.get(tag, 0) | (_ROLE.get(role, 0) if role else 0),
            called,
            place.called_around | place.called,
            self.holders.add(place.holder),
            place.preformatted or tag == "pre",
        )


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


@dataclass
class CutPage:
    """The blocks of a page in order, the tags they were found in, and its title."""

    blocks: list[Block]
    holders: Holders
    title: str


def cut(html: str) -> CutPage:
    """The page in blocks; none when it is no HTML at all."""
    parser = etree.HTMLParser(
        remove_comments=True, remove_pis=True, no_network=True, huge_tree=True, encoding="utf-8"
    )
    walk, title = _Walk(), ""
    try:
        root = etree.fromstring(html.encode("utf-8", "replace"), parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    if root is not None:
        walk.start(root)
        title = root.findtext(".//title") or ""
    return CutPage(walk.blocks, walk.holders, title)
