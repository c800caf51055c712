"""A page cut into blocks of text, with what tells the page's own text from what surrounds it.

A block is a run of text between two tags that begin a new line, such as a paragraph, a heading, an item or a
row of a table. Nothing that is said of a block depends on its language: how long it is, how much of it are
links, where it stands and in what, and how its neighbours are. After Kohlschütter et al. 2010, "Boilerplate
Detection using Shallow Text Features", and Vogels et al. 2018, "Web2Text", arXiv:1801.02607.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
from lxml import etree
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.int64)
Columns = dict[str, NDArray[np.float32]]


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
_TAG = {tag: float(place) for place, tag in enumerate(TAGS)}
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

LEVELS = (1, 2, 3, 5)
"""Of the blocks around a block: its parent's, its grandparent's, …"""
NEIGHBOURS = (1, 2, 3, -1, -2, -3)
_SENTENCE = re.compile(r"[.!?。！？…]")
_END = re.compile(r"[.!?。！？…:：;；][\"'”’»)）\]]*$")
_COMMA = re.compile(r"[,，、;；]")
_FAR = 300.0
_DEEPEST = 400
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


def blocks_of(html: str) -> tuple[list[Block], NDArray[np.float32]]:
    """The blocks of a page in order, and their features, (blocks, `FEATURES`); of a page that is no HTML at
    all, none."""
    parser = etree.HTMLParser(
        remove_comments=True, remove_pis=True, no_network=True, huge_tree=True, encoding="utf-8"
    )
    try:
        root = etree.fromstring(html.encode("utf-8", "replace"), parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    if root is None:
        return [], np.zeros((0, len(FEATURES)), np.float32)
    walk = _Walk()
    walk.start(root)
    if not walk.blocks:
        return [], np.zeros((0, len(FEATURES)), np.float32)
    columns = _columns(walk.blocks, walk.holders, root.findtext(".//title") or "")
    return walk.blocks, np.column_stack([columns[name] for name in FEATURES]).astype(np.float32)


def _columns(blocks: list[Block], holders: Holders, title: str) -> Columns:
    columns = _of_texts([block.text for block in blocks], title.lower())
    size = columns["characters"]
    linked = np.array([block.linked for block in blocks], np.float32) / size
    tag = np.array([_TAG.get(block.tag, -1.0) for block in blocks], np.float32)
    holder = np.array([block.holder for block in blocks])
    count, total = len(blocks), float(size.sum())
    columns |= {
        "linked": linked,
        "links": np.array([block.links for block in blocks], np.float32),
        "emphasised": np.array([block.emphasised for block in blocks], np.float32) / size,
        "tag": tag,
        "depth": np.array([block.depth for block in blocks], np.float32),
        "place": np.arange(count, dtype=np.float32) / np.float32(count),
        "characters before": (np.cumsum(size, dtype=np.float32) - size) / np.float32(total),
        "after the heading": _after(tag == _TAG["h1"]),
        "page blocks": np.full(count, count, np.float32),
        "page characters": np.full(count, np.log1p(total), np.float32),
        "page linked": np.full(count, float((linked * size).sum()) / total, np.float32),
    }
    columns |= _of_holders(holder, holders, total)
    columns |= _of_the_page(blocks, size, linked, holder, np.array(holders.parent))
    columns |= _of_neighbours(columns, holder, np.array(holders.parent)[holder], blocks)
    for name, words in (("inside", INSIDE), ("called", list(CALLED)), ("around called", list(CALLED))):
        attribute = {"inside": "inside", "called": "called", "around called": "called_around"}[name]
        bits = np.array([getattr(block, attribute) for block in blocks])
        columns |= {
            f"{name} {word}": (bits >> place & 1).astype(np.float32) for place, word in enumerate(words)
        }
    return columns


def _of_texts(texts: list[str], title: str) -> Columns:
    def each(values: list[float]) -> NDArray[np.float32]:
        return np.array(values, np.float32)

    size = each([len(text) for text in texts])
    words = each([text.count(" ") + 1 for text in texts])
    sentences = each([len(_SENTENCE.findall(text)) for text in texts])
    commas = each([len(_COMMA.findall(text)) for text in texts])
    often = Counter(texts)
    return {
        "characters": size,
        "words": words,
        "word length": size / words,
        "sentences": sentences,
        "commas": commas,
        "sentences per word": sentences / words,
        "commas per word": commas / words,
        "ends a sentence": each([_END.search(text[-4:]) is not None for text in texts]),
        "digits": each([sum(map(text.count, "0123456789")) for text in texts]) / size,
        "begins with a capital": each([text[:1].isupper() for text in texts]),
        "bytes beyond characters": each([len(text.encode("utf-8", "replace")) for text in texts]) / size - 1,
        "signs": each([sum(map(text.count, "|©»•")) for text in texts]),
        "said so often": each([often[text] for text in texts]),
        "in the title": each([2 < len(text) < 200 and text.lower() in title for text in texts]),
    }


def _after(is_heading: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How many blocks after the first main heading; far before it where there is none."""
    if not is_heading.any():
        return np.full(len(is_heading), -999, np.float32)
    after = np.arange(len(is_heading), dtype=np.float32) - np.float32(is_heading.argmax())
    return after.clip(max=np.float32(_FAR))


def _of_holders(holder: NDArray[np.int64], holders: Holders, total: float) -> Columns:
    parent = np.array(holders.parent)
    characters, linked, blocks, paragraphs, children = (
        np.array(column, np.float32)
        for column in (
            holders.characters,
            holders.linked,
            holders.blocks,
            holders.paragraphs,
            holders.children,
        )
    )
    columns = {"children": children[holder]}
    at = holder
    for level in range(1, max(LEVELS) + 1):
        at = np.maximum(parent[at], 0)
        if level in LEVELS:
            held = np.maximum(characters[at], 1)
            columns |= {
                f"around {level} characters": np.log1p(characters[at]),
                f"around {level} share": characters[at] / np.float32(total),
                f"around {level} linked": linked[at] / held,
                f"around {level} blocks": blocks[at],
                f"around {level} paragraphs": paragraphs[at] / held,
                f"around {level} children": children[at],
            }
    return columns


def _of_the_page(
    blocks: list[Block],
    size: NDArray[np.float32],
    linked: NDArray[np.float32],
    holder: NDArray[np.int64],
    parent: NDArray[np.int64],
) -> Columns:
    """Where the block stands to the one tag that holds most of the page's running text, how much text is
    marked up as it is, and of what the page is made."""
    total = np.float32(size.sum())
    running = np.where((size > 80) & (linked < 0.3), size, 0)
    above = np.maximum(parent[holder], 0)
    held = np.bincount(above, running, len(parent))
    further = np.bincount(np.maximum(parent[above], 0), running, len(parent))
    best = int((held + 0.5 * further).argmax())
    within = np.ones(len(parent), np.int64)  # tags are numbered in order, so that those inside follow
    for child in range(len(parent) - 1, 0, -1):
        within[parent[child]] += within[child]
    inside = (holder >= best) & (holder < best + within[best])
    at = np.arange(len(blocks), dtype=np.float32)
    first = np.float32(inside.argmax())
    last = np.float32(len(blocks) - 1 - inside[::-1].argmax())
    marked = [(block.tag, block.depth, block.called, block.called_around) for block in blocks]
    alike: Counter[tuple[str, int, int, int]] = Counter()
    for one, characters in zip(marked, size, strict=True):
        alike[one] += int(characters)
    columns = {
        "in the best": inside.astype(np.float32),
        "after the best": (at - last).clip(min=0, max=np.float32(_FAR)),
        "before the best": (first - at).clip(min=0, max=np.float32(_FAR)),
        "best share": np.full(len(blocks), size[inside].sum() / total, np.float32),
        "best running": np.full(len(blocks), running[inside].sum() / max(1.0, running.sum()), np.float32),
        "marked alike": np.array([alike[one] for one in marked], np.float32) / total,
    }
    bits = np.array([block.called | block.called_around for block in blocks])
    for place, word in enumerate(CALLED):
        share = size[(bits >> place & 1) > 0].sum() / total
        columns[f"page called {word}"] = np.full(len(blocks), share, np.float32)
    columns |= _under_headings(blocks)
    return columns


def _under_headings(blocks: list[Block]) -> Columns:
    """How far the last heading is, and what it is called."""
    since, under = [], []
    last, bits = -_FAR, 0
    for at, block in enumerate(blocks):
        if block.tag[0] == "h" and block.tag[1:].isdigit():
            last, bits = at, block.called | block.called_around
        since.append(min(at - last, _FAR))
        under.append(bits)
    called = np.array(under)
    columns = {"under a heading": np.array(since, np.float32)}
    for place, word in enumerate(CALLED):
        if word in ("comment", "related", "side", "share", "navigation"):
            columns[f"under called {word}"] = (called >> place & 1).astype(np.float32)
    return columns


def _of_neighbours(
    columns: Columns, holder: NDArray[np.int64], parent: NDArray[np.int64], blocks: list[Block]
) -> Columns:
    called = np.array([block.called for block in blocks])
    size, linked = columns["characters"], columns["linked"]
    found: Columns = {}
    for by in NEIGHBOURS:
        found |= {
            f"{by} characters": _shifted(size, by, 0),
            f"{by} linked": _shifted(linked, by, 0),
            f"{by} tag": _shifted(columns["tag"], by, -2),
        }
    for by in (1, -1):
        found |= {
            f"{by} ends a sentence": _shifted(columns["ends a sentence"], by, 0),
            f"{by} called alike": (_shifted(called, by, -1) == called).astype(np.float32),
            f"{by} same holder": (_shifted(holder, by, -1) == holder).astype(np.float32),
            f"{by} same parent": (_shifted(parent, by, -2) == parent).astype(np.float32),
        }
    plain = np.where(size > 80, size * (1 - linked), 0)
    before = np.concatenate([[0.0], np.cumsum(plain, dtype=np.float64)])
    at = np.arange(len(plain))
    for reach in (4, 12):
        near = before[np.minimum(at + reach + 1, len(plain))] - before[np.maximum(at - reach, 0)]
        found[f"text within {reach}"] = near.astype(np.float32)
    return found


def _shifted(values: NDArray[Number], by: int, fill: int) -> NDArray[Number]:
    """The value of the block `by` places before; `fill` where there is none."""
    result = np.full_like(values, fill)
    if by > 0:
        result[by:] = values[:-by]
    else:
        result[:by] = values[-by:]
    return result


def _feature_names() -> list[str]:
    holders, block = Holders(), Block("a", "p", 0, 0, 0, 0, 0, 0, 0, 0)
    holders.add(-1)
    return list(_columns([block] * 4, holders, ""))


FEATURES = _feature_names()
