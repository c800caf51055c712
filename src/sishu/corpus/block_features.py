"""What tells a page's own text from what surrounds it: of each block some two hundred numbers.

No word of the text is looked at: how long a block is, how much of it are links, where it stands and in
what, how its neighbours are, and of what the page is made. After Kohlschütter et al. 2010, "Boilerplate
Detection using Shallow Text Features", and Vogels et al. 2018, "Web2Text", arXiv:1801.02607.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sishu.corpus.blocks import CALLED, INSIDE, TAGS, Block, CutPage, Holders

Number = TypeVar("Number", np.float32, np.int64)
Columns = dict[str, NDArray[np.float32]]

_TAG = {tag: float(place) for place, tag in enumerate(TAGS)}
LEVELS = (1, 2, 3, 5)
"""Of the blocks around a block: its parent's, its grandparent's, …"""
NEIGHBOURS = (1, 2, 3, -1, -2, -3)
_SENTENCE = re.compile(r"[.!?。！？…]")
_END = re.compile(r"[.!?。！？…:：;；][\"'”’»)）\]]*$")
_COMMA = re.compile(r"[,，、;；]")
_FAR = 300.0


def features_of(page: CutPage) -> NDArray[np.float32]:
    """The features of a page's blocks, (blocks, `FEATURES`)."""
    if not page.blocks:
        return np.zeros((0, len(FEATURES)), np.float32)
    columns = _columns(page.blocks, page.holders, page.title)
    return np.column_stack([columns[name] for name in FEATURES]).astype(np.float32)


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
    for name, words, each in (
        ("inside", INSIDE, [block.inside for block in blocks]),
        ("called", list(CALLED), [block.called for block in blocks]),
        ("around called", list(CALLED), [block.called_around for block in blocks]),
    ):
        bits = np.array(each)
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
