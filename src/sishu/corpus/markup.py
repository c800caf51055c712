"""Markup made harmless before it is parsed: one linear pass over the tags.

Takes away what makes parsers slow (their time is quadratic in nesting depth and in attributes per tag:
200,000 nested `<div>` would run for minutes) and what nobody reads: scripts, styles and comments.
"""

from __future__ import annotations

import re
from collections import Counter

MAX_TAG_CHARACTERS = 4096
"""A longer tag keeps its name and loses its attributes (in practice: inline images and styles)."""
MAX_DEPTH = 256
"""Deeper elements are unwrapped: their text stays. libxml2 refuses documents at the same depth."""
MAX_OPEN_FORMATTING = 16
"""HTML5 parsers copy every open formatting element into each new paragraph, so these multiply."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TAG_START = re.compile(r"<(?:!--|!|\?|(/?)([a-zA-Z][^\s/>]*))")
# A quotation mark opens a value only after an equals sign, as in HTML5; stray ones are common.
_TAG_END = re.compile(r"""(?:[^>=]++|=\s*+"[^"]*+"|=\s*+'[^']*+'|=)*+>""")
_UNREAD = {
    # Not noscript and template: they may hold the page as a reader without JavaScript sees it.
    name: re.compile(rf"</{name}(?![a-z0-9])", re.IGNORECASE)
    for name in (
        "script",
        "style",
        "svg",
        "math",
        "select",
        "datalist",
    )
}
_TO_THE_END = frozenset(("script", "style"))  # unclosed, they hide the rest of the page
_NOT_NESTING = _names(
    "area base br col embed hr img input link meta source track wbr "  # void
    "p li dt dd tr td th thead tbody tfoot html head body"
)
_FORMATTING = _names("a b big code em font i nobr s small strike strong tt u")
_BLOCKS = _names(
    "address article aside blockquote button caption center dd details dir div dl dt fieldset "
    "figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 header hgroup iframe li listing main "
    "marquee menu nav object ol p pre section summary table tbody td textarea tfoot th thead tr ul "
    "applet xmp"
)
_DROPPED = _names("option optgroup frameset plaintext")
_MAX_WALK = 1_000_000

# Stands for a tab inside `<pre>`, to tell it from the tabs that set table cells apart.
# From plane 15, because resiliparse drops lone symbols of the basic plane (permalink marks).
REAL_TAB = "\U000f0009"


class TangledMarkup(ValueError):
    """Tags so badly nested that following them costs more than the page is worth."""


def tame_markup(html: str) -> str:
    """The same page with bounded tag length and depth, and without scripts, styles and comments.

    One pass, time linear in the length of `html`.

    Raises:
        TangledMarkup: closing tags that match nothing near them, more than a million steps' worth.
    """
    pieces: list[str] = []
    stack: list[str] = []
    open_count: Counter[str] = Counter()
    unclosed: set[str] = set()
    described = False
    formatting = preformatted = unwrapped = walked = 0
    position = 0
    while match := _TAG_START.search(html, position):
        text = html[position : match.start()]
        if preformatted:
            text = text.replace("\t", REAL_TAB)
        pieces.append(text)
        closing, name = match[1] == "/", (match[2] or "").lower()
        if not name:
            position = _end_of_declaration(html, match)
            continue
        tag, position = _read_tag(html, match)
        if name in _UNREAD and not closing and name not in unclosed:
            end = _UNREAD[name].search(html, position)
            if end:
                position = html.find(">", end.end()) + 1 or len(html)
            elif name in _TO_THE_END:
                position = len(html)
            else:
                unclosed.add(name)
            continue
        if name in _UNREAD or name in _DROPPED:
            continue
        if name == "pre":
            preformatted = max(0, preformatted + (-1 if closing else 1))
        if name in _NOT_NESTING:
            # A described term is followed by a blank line, so that entries of an API stay apart.
            if not closing and name in ("dt", "dd"):
                if described and name == "dt":
                    pieces.append("<p></p>")
                described = name == "dd"
            pieces.append(tag)
        elif not closing:
            if len(stack) >= MAX_DEPTH or (name in _FORMATTING and formatting >= MAX_OPEN_FORMATTING):
                unwrapped += 1
                pieces.append(" ")
                continue
            stack.append(name)
            open_count[name] += 1
            formatting += name in _FORMATTING
            pieces.append(tag)
        elif unwrapped:
            unwrapped -= 1
        elif open_count[name]:
            back = 1
            # An inline tag closes nothing beyond the nearest block, in the parser and so here.
            while (other := stack[-back]) != name and (name in _BLOCKS or other not in _BLOCKS):
                back += 1
            walked += back
            if walked > _MAX_WALK:
                raise TangledMarkup("tags are nested too badly to follow")
            if other == name:
                for other in stack[-back:]:
                    open_count[other] -= 1
                    formatting -= other in _FORMATTING
                del stack[-back:]
                pieces.append(tag)
    pieces.append(html[position:])
    return "".join(pieces)


def _end_of_declaration(html: str, match: re.Match[str]) -> int:
    """Position after a comment, doctype or instruction; an unclosed one ends the page."""
    mark = "-->" if match[0] == "<!--" else ">"
    # `<!-->` is a complete comment, so its dashes may serve both ends.
    end = html.find(mark, match.start() + 2)
    return len(html) if end < 0 else end + len(mark)


def _read_tag(html: str, match: re.Match[str]) -> tuple[str, int]:
    """The tag that `match` opens, bare if it is too long, and the position after it."""
    end = _TAG_END.match(html, match.end())
    stop = end.end() if end else len(html)
    if stop - match.start() <= MAX_TAG_CHARACTERS:
        return html[match.start() : stop], stop
    return f"<{match[1]}{match[2][:64]}>", stop
