"""Pages of Python's pydoc web site taken apart: which objects a page documents, and in which words.

pydoc (`python -m pydoc -b`) writes one page per module and one per help topic. The markup read here
is the same in Python 3.11, 3.12 and 3.13: `table.section` for classes and function lists, one `dl`
per routine, docstrings in `span.code` with `&nbsp;` for spaces and `<br>` before each line end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import lxml.etree
import lxml.html

from sishu.corpus.document import Page

Kind = Literal["module", "function", "class", "exception", "method", "topic"]

_TITLE = re.compile(rb"<title>\s*(?:Pydoc|Python): ", re.IGNORECASE)
_BRACKET = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|[(\[{]|[)\]}]")
_ROUTINES = ("Methods ", "Class methods ", "Static methods ")


@dataclass(frozen=True, slots=True)
class PydocObject:
    """One documented object of a pydoc page."""

    kind: Kind
    module: str
    """Dotted name of the documented module (`xml.dom`); for a topic its own key (`lambda`)."""
    name: str
    """Dotted name inside the module (`JSONDecoder.decode`); the module's or topic's own name."""
    signature: str
    """`(a, b=None)` on one line without `self`; empty when pydoc shows none or `(...)`."""
    docstring: str
    """The documentation as plain text with its own line ends; may be empty."""


def pydoc_objects(page: Page) -> Iterator[PydocObject]:
    """The objects a pydoc page documents itself, in page order; nothing for any other page.

    Inherited methods and aliases of classes (`IOError = class OSError`) are left out: their own
    home documents them. Never raises for odd markup; what does not look like pydoc is skipped.
    """
    if not _TITLE.search(page.body, 0, 4096):
        return
    try:
        root = lxml.html.document_fromstring(
            page.body, parser=lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
        )
    except (lxml.etree.ParserError, lxml.etree.XMLSyntaxError):
        return
    heading = _find(root, '//table[@class="heading"]//strong[@class="title"]')
    if not heading:
        return
    title = _text(heading[0]).strip()
    if title in ("TOPIC", "KEYWORD"):
        yield from _topic(root)
    elif re.fullmatch(r"\w+(\.\w+)*", title):
        yield from _module(root, title)


def _topic(root: lxml.html.HtmlElement) -> Iterator[PydocObject]:
    names = _find(root, '//td[@class="section-title"]/strong[@class="bigsection"]')
    texts = _find(root, '//td[@class="singlecolumn"]/pre')
    if names and texts:
        key = _text(names[0]).strip()
        yield PydocObject("topic", key, key, "", _text(texts[0]).strip("\n"))


def _module(root: lxml.html.HtmlElement, module: str) -> Iterator[PydocObject]:
    codes = _find(root, '//table[@class="heading"]/following::p[1]/span[@class="code"]')
    yield PydocObject("module", module, module, "", _text(codes[0]).strip("\n") if codes else "")
    for section in _find(root, '//table[@class="section"]'):
        titles = _find(section, './tr/td[@class="section-title"]')
        columns = _find(section, './tr/td[@class="singlecolumn"]')
        if not titles or not columns:
            continue
        title = _text(titles[0]).strip()
        if title == "Functions":
            for name, signature, docstring in _routines(list(columns[0])):
                yield PydocObject("function", module, name, signature, docstring)
        elif declared := re.match(r"class (\w+)", title):
            yield from _class(section, columns[0], module, declared[1])


def _class(
    section: lxml.html.HtmlElement,
    column: lxml.html.HtmlElement,
    module: str,
    name: str,
) -> Iterator[PydocObject]:
    codes = _find(section, './tr/td[@colspan="2"]/span[@class="code"]')
    text = _text(codes[0]).rstrip() if codes else ""
    signature = ""
    if text.startswith(f"{name}("):
        end = closing(text, len(name))
        # pydoc sets its own declaration apart with a blank line; a docstring that merely
        # begins with a call is followed by prose instead and stays whole.
        if end and text[end : end + 2] in ("\n\n", "\n ", ""):
            signature, text = _one_line(text[len(name) : end]), text[end:]
    bases = [_text(link) for link in _find(column, './dl[dt="Method resolution order:"]/dd')]
    raised = name == "BaseException" or any(
        base.strip().removeprefix("builtins.") == "BaseException" for base in bases
    )
    kind: Kind = "exception" if raised else "class"
    yield PydocObject(kind, module, name, signature, text.strip("\n "))

    own: list[lxml.html.HtmlElement] = []
    caption = column.text or ""
    for child in column:
        if child.tag == "hr":
            caption = child.tail or ""
        elif child.tag == "dl":
            if _wants(caption):
                own.append(child)
            caption = caption if not (child.tail or "").strip() else child.tail or ""
    for method, signature, docstring in _routines(own):
        yield PydocObject("method", module, f"{name}.{method}", signature, docstring)


def _wants(caption: str) -> bool:
    caption = caption.strip()
    return caption.startswith(_ROUTINES) and "defined here" in caption


def _routines(lists: list[lxml.html.HtmlElement]) -> Iterator[tuple[str, str, str]]:
    """Name, signature and docstring of each `dl` that declares a routine under an anchor."""
    for one in lists:
        if one.tag != "dl":
            continue
        terms = _find(one, "./dt[.//a[@name]/strong]")
        if not terms:
            continue
        term = terms[0]
        anchor = _find(term, ".//a[@name][strong]")[0]
        declared = "".join(
            [anchor.tail or ""]
            + [
                _text(later) + (later.tail or "")
                for later in anchor.itersiblings()
                if later.get("class") != "grey"
            ]
        ).replace("\xa0", " ")
        codes = _find(one, './dd/span[@class="code"]')
        opening = declared.find("(")
        end = closing(declared, opening) if opening >= 0 else 0
        signature = _one_line(declared[opening:end]) if end else ""
        docstring = _text(codes[0]).strip("\n") if codes else ""
        yield _text(anchor).strip(), _without_self(signature), docstring


def _without_self(signature: str) -> str:
    signature = re.sub(r"^\((?:self|cls)(?:, /)?(?:, )?", "(", signature)
    return "" if signature == "(...)" else signature


def closing(text: str, opening: int) -> int:
    """Index just after the bracket that closes the one at `opening`; 0 when it is never closed.

    Brackets inside quoted strings do not count (a default value may be `'('`).
    """
    depth = 0
    for match in _BRACKET.finditer(text, opening):
        mark = match[0]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
            if depth == 0:
                return match.end()
    return 0


def _find(element: lxml.html.HtmlElement, path: str) -> list[lxml.html.HtmlElement]:
    return cast("list[lxml.html.HtmlElement]", element.xpath(path))


def _text(element: lxml.html.HtmlElement) -> str:
    return str(element.text_content()).replace("\xa0", " ")


def _one_line(signature: str) -> str:
    """A long signature, which Python 3.13 folds (`(\\n    a,\\n    b\\n)`), as one line."""
    return re.sub(r",? \)$", ")", re.sub(r"^\( ", "(", " ".join(signature.split())))
