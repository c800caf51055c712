"""HTML to readable text, in two tiers.

`quality` cuts the page into blocks and asks a small model which of them are the page's own text
(`main_text.py`). `fast` is the rule-based main-content mode of resiliparse, with full text for pages on which
main content is not a notion that fits; it keeps more of pages that are all lists, such as those of an API.
"""

from __future__ import annotations

import re
from typing import Literal

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from sishu.corpus.extract.blocks import Block
from sishu.corpus.extract.main_text import main_blocks
from sishu.corpus.extract.markup import REAL_TAB, TangledMarkup, tame_markup

Tier = Literal["quality", "fast"]

MIN_MAIN_SHARE = 0.03
"""Full text is taken where main content holds less than this share of it. On 342 pages of WCXB mean word F1
is .751 without this rule, .797, .804, .805, .800, .786 with it at .02, .03, .05, .1, .2; and on 181 articles
.927, .927, .927, .925, .911, .894, all measured before `_AROUND`."""
_LOCAL_PATHS = ['a[href^="file:"]']  # their text is a path on somebody's machine
_AROUND = [
    *("aside", "figcaption", "button"),
    *(
        f'[class*="{word}"]'
        for word in ("related", "newsletter", "recommend", "promo", "caption", "tags", "byline")
    ),
]
"""What surrounds main content although it stands among it."""
_ROWS = frozenset(("li", "tr", "dt", "dd", "td", "summary"))
"""Blocks of which one follows the other without a blank line between."""


def html_to_text(html: str, tier: Tier = "quality") -> str:
    """Readable text of a page: paragraphs, lists and preformatted lines keep their line breaks.

    Pages of more blocks than the model is asked about are read by the rules. No-break spaces become spaces,
    lines have no trailing space, at most two blank lines follow each other.

    Raises:
        TangledMarkup: markup built to be expensive.
    """
    tame = tame_markup(html)
    blocks = main_blocks(tame) if tier == "quality" else None
    return _main_content(tame) if blocks is None else _tidy(_joined(blocks))


def _joined(blocks: list[Block]) -> str:
    pieces: list[str] = []
    above = ""
    for block in blocks:
        if pieces:
            in_rows = above in _ROWS and block.tag in _ROWS and block.tag != "dt"
            pieces.append("\n" if in_rows else "\n\n")
        pieces.append(block.text)
        above = block.tag
    return "".join(pieces)


def _main_content(html: str) -> str:
    """Main content where the page has it, full text otherwise (`MIN_MAIN_SHARE`)."""
    tree = HTMLTree.parse(html)
    most = 2 * len(html) + 1000
    main = _plain(tree, most, main_content=True, left_out=[*_LOCAL_PATHS, *_AROUND])
    if len(main) >= MIN_MAIN_SHARE * len(html):  # full text can hardly be longer than its markup
        return main
    full = _plain(tree, most, main_content=False, left_out=_LOCAL_PATHS)
    return full if len(main) < MIN_MAIN_SHARE * len(full) else main


def _plain(tree: HTMLTree, most: int, *, main_content: bool, left_out: list[str]) -> str:
    text = extract_plain_text(
        tree,
        preserve_formatting=True,
        main_content=main_content,
        alt_texts=False,
        comments=False,
        skip_elements=left_out,
    )
    if len(text) > most:  # by the indentation of lists in lists in lists
        raise TangledMarkup("lists are nested too deeply")
    return _tidy(text)


def _tidy(text: str) -> str:
    text = text.replace("\u00a0", " ").replace("\r\n", "\n").replace("\r", "\n")
    # resiliparse separates table cells with two tabs; in layout tables they lead the line.
    if "\t\t" in text:
        text = re.sub(r"(?m)^[ \t]*\t\t[ \t]*", "", text)
        text = re.sub(r" ?\t\t+ ?", "\t", text)
    text = text.replace(REAL_TAB, "\t")
    text = "\n".join(map(str.rstrip, text.split("\n")))
    if "\n\n\n\n" in text:
        text = re.sub(r"\n{4,}", "\n\n\n", text)
    return text.strip("\n")
