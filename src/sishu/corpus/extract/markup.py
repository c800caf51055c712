"""Markup made harmless before it is parsed, in time linear in its length.

Takes away what makes parsers slow (their time is quadratic in nesting depth and in attributes per tag:
200,000 nested `<div>` would run for minutes) and what nobody reads: scripts, styles and comments.

A page is first cut into tags (`_Tags`), with few steps in Python where its markup is clear (`_read_clear`),
and tag by tag otherwise (`_read`). What to write instead of some tags then follows from their names alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

MAX_TAG_CHARACTERS = 4096
"""A longer tag keeps its name and loses its attributes (in practice: inline images and styles)."""
MAX_DEPTH = 256
"""Deeper elements are unwrapped: their text stays. libxml2 refuses documents at the same depth."""
MOST_TAGS, MOST_NAMES, MOST_STEPS = 1_000_000, 2000, 60_000_000
"""Parsers take gigabytes for more tags, time by the square for more different names of them, and for each tag
a look at all that are open."""
MAX_OPEN_FORMATTING = 16
"""HTML5 parsers copy every open formatting element into each new paragraph, so these multiply."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _ends(names: frozenset[str]) -> frozenset[str]:
    return frozenset(f"/{name}" for name in names)


# A quotation mark opens a value only after an equals sign, as in HTML5; stray ones are common.
_REST = r"""[^>=]*+(?:=(?:\s*+(?:"[^"]*+"|'[^']*+'))?+[^>=]*+)*+>"""
_TAG_START = re.compile(r"<(?:!--|[!?]|(/?)([a-zA-Z][^\s/>]*))")
_TAG_REST = re.compile(_REST)
# A tag of which the end is not clear takes the rest of the page; it is found as an empty name.
_CLEAR_REST = r"""[^>=]*+(?:=\s*+(?:"[^"]*+"|'[^']*+'|(?!["']))[^>=]*+)*+>"""
_TAG_NAME = re.compile(rf"<(?:(!(?=>)|/?[a-zA-Z][^\s/>]*+){_CLEAR_REST}|/?[a-zA-Z][\s\S]*+)")
_CUT = "<!>"
"""Stands where something was cut out of clear markup: an empty declaration, as all others are cut out."""

_UNREAD = {
    # Not noscript and template: they may hold the page as a reader without JavaScript sees it.
    name: re.compile(rf"</{name}(?![a-z0-9])", re.IGNORECASE)
    for name in ("script", "style", "svg", "math", "select", "datalist")
}
# Either case is spelt out because searching without regard to it takes twice the time.
_UNREAD_START = re.compile(
    "<(?=[!?sSmMdD])(?:[!?]|({})(?![^\\s/>]))".format(
        "|".join("".join(f"[{letter}{letter.upper()}]" for letter in name) for name in _UNREAD)
    )
)
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
_DROPPED = _names("option optgroup frameset plaintext") | frozenset(_UNREAD)
_TERMS = _names("dt dd")
_FORMATTING_ENDS, _BLOCK_ENDS, _DROPPED_ENDS = _ends(_FORMATTING), _ends(_BLOCKS), _ends(_DROPPED)
_KEPT = (_NOT_NESTING - _TERMS) | _ends(_NOT_NESTING) | {_CUT[1]}
_END_OF = {
    name: f"/{name}" for name in (_BLOCKS | _FORMATTING | _names("span label")) - _NOT_NESTING - _DROPPED
}
"""Of most tags that nest; others are handled alike, a little slower."""
_GAP = "<p></p>"
"""Put before a described term, so that entries of an API stay apart."""
_MAX_WALK = 1_000_000

# Stands for a tab inside `<pre>`, to tell it from the tabs that set table cells apart.
# From plane 15, because resiliparse drops lone symbols of the basic plane (permalink marks).
REAL_TAB = "\U000f0009"


class TangledMarkup(ValueError):
    """Tags so badly nested that following them costs more than the page is worth."""


@dataclass
class _Tags:
    """A page cut before each of its tags."""

    names: list[str]
    """In lower case, closing ones with their slash; the second character of `_CUT` where it stands."""
    pieces: list[str]
    """The text before the first tag, then each tag with the text after it."""


def tame_markup(html: str) -> str:
    """The same page with bounded tag length and depth, and without scripts, styles and comments.

    Time linear in the length of `html`.

    Raises:
        TangledMarkup: more tags, or names of tags, than any page has; closing tags that match nothing near
            them, more than a million steps' worth.
    """
    clear = _tame_clear(html)
    if clear is not None:
        return clear
    tags = _read(html)
    return _rewritten(tags, _changes(tags.names))


def _tame_clear(html: str) -> str | None:
    """What `tame_markup` gives, in a quarter of the time; None where the page has to be read tag by tag."""
    texts = _without_unread(html)
    if texts is None:
        return None
    marked = _CUT.join(texts)
    names = _TAG_NAME.findall(marked)
    # A mark within a tag means that what was cut out was in one, as in <a title="<!-- -->">.
    if "" in names or names.count(_CUT[1]) != len(texts) - 1:
        return None
    only_tags = marked.count("<") == len(names)
    if not (only_tags and _has_no_gap(marked)) and _has_long_tag(marked, only_tags):
        return None
    if not "".join(names).islower():
        names = [name.lower() for name in names]
    changes = _changes(names)
    if not changes and not ("\t" in marked and "pre" in names):
        return "".join(texts)
    at = -1
    for _ in texts[1:]:
        at = names.index(_CUT[1], at + 1)
        changes[at] = ""
    if only_tags:
        first, *others = marked.split("<")
        return _rewritten(_Tags(names, [first, *map("<".__add__, others)]), changes)
    cuts = [0, *(match.start() for match in _TAG_NAME.finditer(marked)), len(marked)]
    return _rewritten(_Tags(names, [marked[a:b] for a, b in pairwise(cuts)]), changes)


def _without_unread(html: str) -> list[str] | None:
    """The markup between comments, declarations and unread elements; None if one of those is not closed."""
    texts = []
    position = 0
    while match := _UNREAD_START.search(html, position):
        texts.append(html[position : match.start()])
        if name := match[1]:
            tag = _TAG_REST.match(html, match.end())
            end = tag and _UNREAD[name.lower()].search(html, tag.end())
            if not end:
                return None
            position = html.find(">", end.end()) + 1 or len(html)
        else:
            position = _end_of_declaration(html, match.start())
    texts.append(html[position:])
    return texts


def _has_no_gap(html: str) -> bool:
    """Whether no `<` is further from the next than a tag may be long."""
    half = MAX_TAG_CHARACTERS // 2  # whatever is longer covers one of the halves
    return all(html.find("<", at, at + half) >= 0 for at in range(0, len(html) - half + 1, half))


def _has_long_tag(html: str, only_tags: bool) -> bool:
    if only_tags and max(map(len, html.split("<"))) < MAX_TAG_CHARACTERS:
        return False
    return any(match.end() - match.start() > MAX_TAG_CHARACTERS for match in _TAG_NAME.finditer(html))


def _read(html: str) -> _Tags:
    """The page tag by tag, without what nobody reads and with long tags made short."""
    tags = _Tags([], [])
    unclosed: set[str] = set()
    begun = position = 0
    start = ""  # of the piece that is being read, whose text begins at `begun`
    while match := _TAG_START.search(html, position):
        tags.pieces.append(start + html[begun : match.start()])
        name = (match[2] or "").lower()
        tags.names.append(f"{match[1]}{name}" if name else _CUT[1])
        if name:
            start, position = _read_tag(html, match)
            if name in _UNREAD and not match[1] and name not in unclosed:
                if end := _UNREAD[name].search(html, position):
                    position = html.find(">", end.end()) + 1 or len(html)
                elif name in _TO_THE_END:
                    position = len(html)
                else:
                    unclosed.add(name)
        else:
            start, position = "", _end_of_declaration(html, match.start())
        begun = position
    tags.pieces.append(start + html[begun:])
    return tags


def _end_of_declaration(html: str, start: int) -> int:
    """Position after a comment, doctype or instruction; an unclosed one ends the page."""
    mark = "-->" if html.startswith("<!--", start) else ">"
    # `<!-->` is a complete comment, so its dashes may serve both ends.
    end = html.find(mark, start + 2)
    return len(html) if end < 0 else end + len(mark)


def _read_tag(html: str, match: re.Match[str]) -> tuple[str, int]:
    """The tag that `match` opens, bare if it is too long, and the position after it."""
    end = _TAG_REST.match(html, match.end())
    stop = end.end() if end else len(html)
    if stop - match.start() <= MAX_TAG_CHARACTERS:
        return html[match.start() : stop], stop
    return f"<{match[1]}{match[2][:64]}>", stop


def _changes(names: list[str]) -> dict[int, str]:
    """What to write instead of which tags, by their number; `_GAP` goes before its tag.

    Raises:
        TangledMarkup: more names than any page has, or more steps than a page is worth.
    """
    if len(names) > MOST_TAGS or len(set(names)) > MOST_NAMES:
        raise TangledMarkup("too many tags")
    changes: dict[int, str] = {}
    stack = [""]  # the ends that open tags wait for
    innermost = ""  # the last of them, unless a tag that was unwrapped waits for its end
    absent: set[str] = set()  # known not to be in the stack, which takes long to search
    formatting = unwrapped = walked = deepest = 0
    described = False
    for at, name in enumerate(names):
        if name == innermost:
            stack.pop()
            innermost = stack[-1]
            formatting -= name in _FORMATTING_ENDS
            continue
        if name in _KEPT:
            continue
        end = _END_OF.get(name)
        if end is None:
            if name in _TERMS:
                if described and name == "dt":
                    changes[at] = _GAP
                described = name == "dd"
                continue
            if name in _DROPPED or name in _DROPPED_ENDS:
                changes[at] = ""
                continue
            if name[0] == "/":
                if unwrapped:
                    unwrapped -= 1
                    innermost = "" if unwrapped else stack[-1]
                    changes[at] = ""
                elif name in absent or name not in stack:
                    absent.add(name)
                    changes[at] = ""
                else:
                    back = _steps_back(stack, name)
                    walked += back
                    if walked > _MAX_WALK:
                        raise TangledMarkup("tags are nested too badly to follow")
                    if stack[-back] == name:
                        formatting -= sum(closed in _FORMATTING_ENDS for closed in stack[-back:])
                        del stack[-back:]
                        innermost = stack[-1]
                    else:
                        changes[at] = ""
                continue
            end = f"/{name}"
        is_formatting = end in _FORMATTING_ENDS
        if len(stack) > MAX_DEPTH or (is_formatting and formatting >= MAX_OPEN_FORMATTING):
            unwrapped += 1
            innermost = ""
            changes[at] = " "
        else:
            stack.append(end)
            deepest = max(deepest, len(stack))
            absent.discard(end)
            formatting += is_formatting
            innermost = "" if unwrapped else end
    if len(names) * deepest > MOST_STEPS:
        raise TangledMarkup("too many tags, nested too deeply")
    return changes


def _steps_back(stack: list[str], name: str) -> int:
    """How far back the tag is that `name` ends, or the nearest block, beyond which an inline tag closes
    nothing, in the parser and so here."""
    back = 1
    while (end := stack[-back]) != name and (name in _BLOCK_ENDS or end not in _BLOCK_ENDS):
        back += 1
    return back


def _rewritten(tags: _Tags, changes: dict[int, str]) -> str:
    pieces = tags.pieces
    if "pre" in tags.names:
        _mark_tabs(tags)
    for at, instead in changes.items():
        piece = pieces[at + 1]
        pieces[at + 1] = instead + (piece if instead == _GAP else piece[_end_of_tag(piece) :])
    return "".join(pieces)


def _mark_tabs(tags: _Tags) -> None:
    """Puts `REAL_TAB` for the tabs in preformatted text."""
    preformatted = 0
    for at, name in enumerate(tags.names, 1):
        if name == "pre":
            preformatted += 1
        elif name == "/pre" and preformatted:
            preformatted -= 1
        if preformatted and at < len(tags.names) and "\t" in (piece := tags.pieces[at]):
            end = _end_of_tag(piece)
            tags.pieces[at] = piece[:end] + piece[end:].replace("\t", REAL_TAB)


def _end_of_tag(piece: str) -> int:
    """Where the text after the tag begins; also after a mark, or after nothing where a tag was cut out."""
    match = _TAG_START.match(piece)
    if match is None:
        return 0
    end = _TAG_REST.match(piece, match.end())
    return end.end() if end else len(piece)
