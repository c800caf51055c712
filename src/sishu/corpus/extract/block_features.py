"""What tells a page's own text from what surrounds it: of each block some two hundred numbers.

No word of the text is looked at: how long a block is, how much of it are links, where it stands and in
what, how its neighbours are, and of what the page is made. After Kohlschütter et al. 2010, "Boilerplate
Detection using Shallow Text Features", and Vogels et al. 2018, "Web2Text", arXiv:1801.02607.

Pages are small, so that calls to numpy take the time and not what they are given: what can be found for many
features at once is, each kind of them in rows of one table.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from sishu.corpus.extract.blocks import CALLED, HOLDER, INSIDE, RUN, TAGS, CutPage

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

LEVELS = (1, 2, 3, 5)
"""Of the blocks around a block: its parent's, its grandparent's, …"""
NEIGHBOURS = (1, 2, 3, -1, -2, -3)
_REACHES = (4, 12)
_UNDER = [name for name in CALLED if name in ("comment", "related", "side", "share", "navigation")]
_HEADINGS = frozenset(f"h{level}" for level in range(1, 100))
_FAR = 300.0

_OF_TEXTS = [
    *("characters", "words", "word length", "sentences", "commas", "sentences per word", "commas per word"),
    *("ends a sentence", "digits", "begins with a capital", "bytes beyond characters", "signs"),
    *("said so often", "in the title"),
]
_OF_BLOCKS = [
    *("linked", "links", "emphasised", "tag", "depth", "place", "characters before", "after the heading"),
    *("page blocks", "page characters", "page linked"),
]
_HELD = ("characters", "share", "linked", "blocks", "paragraphs", "children")
_OF_HOLDERS = ["children", *(f"around {level} {what}" for level in LEVELS for what in _HELD)]
_OF_THE_PAGE = [
    *("in the best", "after the best", "before the best", "best share", "best running", "marked alike"),
    *(f"page called {name}" for name in CALLED),
    *("under a heading", *(f"under called {name}" for name in _UNDER)),
]
_ALIKE = ("ends a sentence", "called alike", "same holder", "same parent")
_OF_NEIGHBOURS = [
    *(f"{by} {what}" for by in NEIGHBOURS for what in ("characters", "linked", "tag")),
    *(f"{by} {what}" for by in (1, -1) for what in _ALIKE),
    *(f"text within {reach}" for reach in _REACHES),
]
_OF_NAMES = [
    *(f"inside {name}" for name in INSIDE),
    *(f"called {name}" for name in CALLED),
    *(f"around called {name}" for name in CALLED),
]
_PARTS = (_OF_TEXTS, _OF_BLOCKS, _OF_HOLDERS, _OF_THE_PAGE, _OF_NEIGHBOURS, _OF_NAMES)
FEATURES = [name for part in _PARTS for name in part]
_ROWS = [slice(end - len(part), end) for part, end in zip(_PARTS, accumulate(map(len, _PARTS)), strict=True)]

_SENTENCE, _COMMA, _DIGIT, _SIGN = ".!?。！？…", ",，、;；", "0123456789", "|©»•"
_ENDING, _CLOSING = frozenset(_SENTENCE + ":：;；"), frozenset("\"'”’»)）]")
_END = re.compile(r"[.!?。！？…:：;；][\"'”’»)）\]]*$")
_COUNTED = (" ", _SENTENCE, _COMMA, _DIGIT, _SIGN)
_AT_ONCE = 1 << 18
"""Characters to count at once: more take memory and no less time."""


def _kinds() -> tuple[NDArray[np.uint8], Integers]:
    """The kind of each character, and of each kind in which of `_COUNTED` it is, and its bytes in UTF-8."""
    kind = np.zeros(0x110000, np.uint8)
    kind[0x80:], kind[0x800:], kind[0x10000:] = 1, 2, 3
    kind[0xD800:0xE000] = 0  # halves of characters, written as question marks
    counts = [[0, 0, 0, 0, 0, size] for size in (1, 2, 3, 4)]
    for character in sorted(set("".join(_COUNTED))):
        count = [*(int(character in some) for some in _COUNTED), len(character.encode())]
        if count not in counts:
            counts.append(count)
        kind[ord(character)] = counts.index(count)
    return kind, np.array(counts)


_KIND, _KIND_COUNTS = _kinds()


@dataclass
class _Page:
    """What several kinds of features are made of, of each block unless it says otherwise."""

    characters: Floats
    total: float
    """Characters of all blocks."""
    linked: Floats
    """The share."""
    holder: Integers
    parent: Integers
    """Of each holder, 0 where there is none."""
    tag: Floats
    called: Integers
    named: Integers
    """What it is called itself or around."""


def features_of(page: CutPage) -> Floats:
    """The features of a page's blocks, (blocks, `FEATURES`)."""
    table = np.empty((len(FEATURES), len(page.texts)), np.float32)
    if not page.texts:
        return table.T
    of_texts, of_blocks, of_holders, of_the_page, of_neighbours, of_names = (table[rows] for rows in _ROWS)
    holder, linked, emphasised, links = np.array(page.runs).reshape(-1, len(RUN)).T
    holders = np.array(page.holders).reshape(-1, len(HOLDER)).T
    _, number, depth, inside, called, around = holders.take(holder, axis=1)
    _put_texts(of_texts, page.texts, page.title.lower())
    size = of_texts[0]
    here = _Page(
        size,
        float(size.sum()),
        linked.astype(np.float32) / size,
        holder,
        np.maximum(holders[0], 0),
        np.where(number < len(TAGS), number, -1).astype(np.float32),
        called,
        called | around,
    )
    _put_blocks(of_blocks, here, links, emphasised, depth)
    _put_holders(of_holders, here, linked, np.array(page.ends), holders[1] == TAGS.index("p"))
    marked = ((number << 16 | depth) << 16 | called) << 16 | around
    is_heading = np.array([tag in _HEADINGS for tag in page.tags])[number]
    _put_the_page(of_the_page, here, np.array(page.ends), marked, is_heading)
    _put_neighbours(of_neighbours, here, of_texts[_OF_TEXTS.index("ends a sentence")], holders[0])
    within, own = len(INSIDE), len(CALLED)
    of_names[:within] = _bits(inside, within)
    of_names[within : within + own] = _bits(called, own)
    of_names[within + own :] = _bits(around, own)
    return table.T


def _bits(numbers: Integers, count: int) -> Integers:
    """(bits, numbers)"""
    return numbers >> np.arange(count)[:, None] & 1


def _put_texts(into: Floats, texts: list[str], title: str) -> None:
    sizes = list(map(len, texts))
    size = np.array(sizes, np.float32)
    words, sentences, commas, digits, signs, octets = _counted(texts, sizes)
    often = Counter(texts)
    longest = min(200, len(title) + 1)  # no text gets shorter by small letters
    into[0] = size
    into[1] = words = words + np.float32(1)
    into[2] = size / words
    into[3] = sentences
    into[4] = commas
    into[5] = sentences / words
    into[6] = commas / words
    into[7] = [
        text[-1] in _ENDING or (text[-1] in _CLOSING and _END.search(text[-4:]) is not None) for text in texts
    ]
    into[8] = digits / size
    into[9] = [text[0].isupper() for text in texts]
    into[10] = octets / size - 1
    into[11] = signs
    into[12] = [often[text] for text in texts] if len(often) < len(texts) else 1
    into[13] = [
        2 < length < longest and text.lower() in title for length, text in zip(sizes, texts, strict=True)
    ]


def _counted(texts: list[str], sizes: list[int]) -> Floats:
    """How many of their characters are in each of `_COUNTED`, and how many bytes they are, (6, texts)."""
    joined = "".join(texts)
    if joined.isascii():
        codes = np.frombuffer(joined.encode(), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = len(_KIND_COUNTS)
    row = np.repeat(np.arange(0, len(texts) * kinds, kinds), sizes)
    count = np.zeros(len(texts) * kinds, np.int64)
    for at in range(0, len(codes), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        count += np.bincount(row[part] + _KIND.take(codes[part]), minlength=len(count))
    return (count.reshape(-1, kinds) @ _KIND_COUNTS).T.astype(np.float32)


def _put_blocks(into: Floats, here: _Page, links: Integers, emphasised: Integers, depth: Integers) -> None:
    size, count = here.characters, len(here.characters)
    into[0] = here.linked
    into[1] = links
    into[2] = emphasised.astype(np.float32) / size
    into[3] = here.tag
    into[4] = depth
    into[5] = np.arange(count, dtype=np.float32) / np.float32(count)
    into[6] = (np.cumsum(size, dtype=np.float32) - size) / np.float32(here.total)
    into[7] = _after(here.tag == TAGS.index("h1"))
    into[8] = count
    into[9] = np.log1p(here.total)
    into[10] = float((here.linked * size).sum()) / here.total


def _after(is_heading: NDArray[np.bool_]) -> Floats | float:
    """How many blocks after the first main heading; far before it where there is none."""
    if not is_heading.any():
        return -999.0
    after = np.arange(len(is_heading), dtype=np.float32) - np.float32(is_heading.argmax())
    return after.clip(max=np.float32(_FAR))


def _put_holders(
    into: Floats, here: _Page, linked: Integers, ends: Integers, is_paragraph: NDArray[np.bool_]
) -> None:
    """What the tags around hold, in all tags inside them."""
    holder, parent, count = here.holder, here.parent, len(here.parent)
    directly = np.zeros((4, count + 1))
    directly[0, 1:] = np.bincount(holder, here.characters, count)
    directly[1, 1:] = np.bincount(holder, linked, count)
    directly[2, 1:] = np.bincount(holder, minlength=count)
    directly[3, 1:] = directly[0, 1:] * is_paragraph
    before = directly.cumsum(axis=1)
    characters, links, blocks, paragraphs = (before[:, ends] - before[:, :-1]).astype(np.float32)
    children = np.bincount(parent[1:], minlength=count).astype(np.float32)
    some = np.maximum(characters, 1)
    held = np.empty((len(_HELD), count), np.float32)
    held[0] = np.log1p(characters)
    held[1] = characters / np.float32(here.total)
    held[2] = links / some
    held[3] = blocks
    held[4] = paragraphs / some
    held[5] = children
    into[0] = children[holder]
    at, row = holder, 1
    for level in range(1, max(LEVELS) + 1):
        at = parent[at]
        if level in LEVELS:
            into[row : row + len(_HELD)] = held.take(at, axis=1)
            row += len(_HELD)


def _put_the_page(
    into: Floats, here: _Page, ends: Integers, marked: Integers, is_heading: NDArray[np.bool_]
) -> None:
    """Where the block stands to the one tag that holds most of the page's running text, how much text is
    marked up as it is, and of what the page is made."""
    size, holder, parent = here.characters, here.holder, here.parent
    total = np.float32(here.total)
    running = np.where((size > 80) & (here.linked < 0.3), size, 0)
    above = parent[holder]
    held = np.bincount(above, running, len(parent))
    further = np.bincount(parent[above], running, len(parent))
    best = int((held + 0.5 * further).argmax())
    inside = (holder >= best) & (holder < ends[best])
    at = np.arange(len(size), dtype=np.float32)
    first = np.float32(inside.argmax())
    last = np.float32(len(size) - 1 - inside[::-1].argmax())
    _, alike = np.unique(marked, return_inverse=True)
    into[0] = inside
    into[1] = (at - last).clip(min=0, max=np.float32(_FAR))
    into[2] = (first - at).clip(min=0, max=np.float32(_FAR))
    into[3] = size[inside].sum() / total
    into[4] = running[inside].sum() / max(1.0, running.sum())
    into[5] = np.bincount(alike, size)[alike].astype(np.float32) / total
    called = _bits(here.named, len(CALLED))
    into[6 : 6 + len(CALLED)] = ((called @ size.astype(np.int64)).astype(np.float32) / total)[:, None]
    heading = np.maximum.accumulate(np.where(is_heading, np.arange(len(size)), -1))
    under = heading >= 0
    row = 6 + len(CALLED)
    into[row] = np.where(under, (at - heading).clip(max=_FAR), _FAR)
    into[row + 1 :] = called[[list(CALLED).index(name) for name in _UNDER]][:, heading] * under


def _put_neighbours(into: Floats, here: _Page, ends_sentence: Floats, parents: Integers) -> None:
    """`by` is how many blocks before."""
    count, far = len(here.tag), max(NEIGHBOURS)
    padded = np.zeros((3, count + 2 * far), np.float32)
    padded[2] = -2
    middle = slice(far, far + count)
    padded[0, middle], padded[1, middle], padded[2, middle] = here.characters, here.linked, here.tag
    for place, by in enumerate(NEIGHBOURS):
        into[3 * place : 3 * place + 3] = padded[:, far - by : far - by + count]
    row = 3 * len(NEIGHBOURS)
    into[row : row + 8] = 0
    same = np.stack([here.called, here.holder, parents[here.holder]])
    alike = same[:, 1:] == same[:, :-1]
    into[row, 1:] = ends_sentence[:-1]
    into[row + 1 : row + 4, 1:] = alike
    into[row + 4, :-1] = ends_sentence[1:]
    into[row + 5 : row + 8, :-1] = alike
    plain = np.where(here.characters > 80, here.characters * (1 - here.linked), 0)
    before = np.concatenate([[0.0], np.cumsum(plain, dtype=np.float64)])
    at = np.arange(count)
    for reach, values in zip(_REACHES, into[row + 8 :], strict=True):
        values[:] = before[np.minimum(at + reach + 1, count)] - before[np.maximum(at - reach, 0)]
