"""From a docstring to the one or two sentences that say what the object is for."""

from __future__ import annotations

import re
from itertools import pairwise

from sishu.corpus.lessons.pydoc_page import closing

_ABBREVIATIONS = re.compile(
    r"e\.g|i\.e|cf|vs|viz|approx|resp|incl|esp|fig|no|sec|vol|ch|dr|mr|mrs|ms|st|inc|ltd|w\.r\.t"
    r"|a\.k\.a|aka|et|al|eg|ie|max|min|[a-z]"
)
_END = re.compile(r"[.!?]+[\"')\]`]*(?=\s|$)|[。！？]+[」』”’）]*")
_LIST_LINE = re.compile(
    r"\s*(?:[-*+•o] |\d+[.)] |>>>|\.\. |[@:]\w|[-=~*^#+]{3}|\w+ (?:--|::?) |::=|\||#"
    r"|(?:Args|Arguments|Returns?|Raises|Example|Examples|Parameters|Usage|Note)\s*:)"
)
_ROLE = re.compile(r":[\w:]+:`~?([^`]*)`")
_WRAPPED_AT = 60
_SAYS_NOTHING = re.compile(
    r"(?:New|Changed|Deprecated) (?:in|since) |\*\*Source code|See also|\(.*\)\.?$|object\.__"
    r"|\w+(?:\(\w+\))? \[|(?:\w+|\([\w, \[\]]+\)) ?= ?[\w<]|-+>",
    re.IGNORECASE,
)
_ONLY_ANNOUNCES = re.compile(
    r"\b(?:following|follows|below|these|equivalent|example|usage|attributes|arguments|parameters"
    r"|values|either|includ\w+|(?:as|to|by|via|with|are|is|of|for|from|in|on|that|when|if)):+$"
    r"|\bfollowing\b|\bbelow\b",
    re.IGNORECASE,
)


def first_sentences(docstring: str, name: str, short: int = 40) -> str:
    """The docstring's first sentence on one line, and the second when the first is under `short`.

    `name` is the object's last name: lines such as `get(key) -> value` at the top only repeat the
    signature and are passed over; when nothing else is said, what stands behind the arrow is taken.
    The result ends with sentence punctuation (a full stop is added to a complete summary line that
    has none) or is empty when the docstring has no sentence that can stand alone.
    """
    text, returned = without_signatures(docstring.expandtabs(), name)
    text = re.sub(
        rf"\A(?:module )?(?:\w+\.)*{re.escape(name)}(?:\.py)?(?: module)?(?: --?| —|:) ",
        "",
        text,
        flags=re.IGNORECASE,
    )
    paragraphs = _paragraphs(text)
    for number, paragraph in enumerate(paragraphs or [returned]):
        sentences = split_sentences(paragraph)
        if not sentences or _SAYS_NOTHING.match(paragraph):
            continue
        later = paragraphs[number + 1 :]
        if later and len(paragraph.split()) < 4 and not re.search(r"^[^a-z]|[.!?]$", paragraph):
            continue  # a usage line such as `p expression` above the prose
        chosen = sentences[0]
        second = sentences[1] if len(chosen) < short and len(sentences) > 1 else ""
        if _complete(chosen) and _complete(second) and not second.startswith("See "):
            chosen = f"{chosen} {second}"
        if chosen.endswith(":") and _ONLY_ANNOUNCES.search(chosen):
            return ""  # what stands after the list is about something else
        chosen = _finished(chosen)
        if len(chosen.split()) >= 2:
            return chosen
    return ""


def without_signatures(docstring: str, name: str) -> tuple[str, str]:
    """The docstring less its leading call lines, and the wordiest text behind a `->` among them.

    `S.find(sub[, start]) -> int` is a call line; `wait(timeout) blocks until …` is prose and stays.
    """
    rest, returned = re.sub(r"\\$", "", docstring.strip(), flags=re.MULTILINE), ""
    call = re.compile(rf"(?:\w+\.)*(?:{re.escape(name)} ?|[a-z]\w*)(?=[(\[])")
    while match := call.match(rest):
        end = closing(rest, match.end())
        if not end:
            break
        line, _, later = rest[end:].partition("\n")
        while line.strip() and re.match(r" {2,}\S|[a-z]", later) and not call.match(later):
            more, _, later = later.partition("\n")
            line = f"{line.rstrip()} {more.strip()}"
        line = line.rstrip()
        said = re.match(r"\s*(?:-+>|=>)\s*(.*)", line)
        dashed = re.match(r"\s*(?:(?:-+>|=>)\s*[^.]*?)?\s*(?:--+(?!>)|—)\s*(.*)", line)
        dashed = dashed or re.match(r"(?:\s*->\s*\w+)?(?::| -) (.*)", line)
        if dashed:
            return f"{dashed[1]}\n{later}".strip(), returned
        if said:
            value = re.sub(r"^\w\.\s+", "", said[1])  # `-> x.  Generates a number` names no x
            returned = max(returned, value, key=lambda words: min(len(words.split()), 3))
        elif line.strip() not in ("", ":", "."):
            break
        rest = later.strip()
    return rest, returned if len(returned.split()) >= 3 else ""


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a one-line paragraph; the last may lack its closing punctuation.

    A dot ends no sentence inside brackets, after an abbreviation or an initial, within a number or
    a name, when three stand together before a small letter, or before a small letter that follows
    a single space (Python's documentation sets two spaces between sentences).
    """
    sentences, start = [], 0
    for match in _END.finditer(paragraph):
        before, after = paragraph[start : match.start()], paragraph[match.end() :]
        follows = after.lstrip()
        if match[0][0] == "." and follows:
            word = before.rsplit(" ", 1)[-1].lstrip("([\"'`").lower()
            if _ABBREVIATIONS.fullmatch(word):
                continue
            two_spaces = after.startswith("  ")
            if not two_spaces and re.match(r"[a-z,;:]", follows):
                continue
            if match[0].startswith("..") and not re.match(r"[A-Z]", follows):
                continue
        if follows and _inside_brackets(before + match[0]):
            continue
        sentences.append(" ".join(paragraph[start : match.end()].split()))
        start = match.end()
    tail = " ".join(paragraph[start:].split())
    return [*sentences, tail] if tail else sentences


def _inside_brackets(text: str) -> bool:
    # Counted together: a half-open interval [0, 1) is closed too.
    return sum(map(text.count, "([")) > sum(map(text.count, ")]"))


def _paragraphs(text: str) -> list[str]:
    """Plain paragraphs on one line each, double spaces kept; headings and code left out."""
    paragraphs: list[str] = []
    for block in re.split(r"\n[ ]*\n", text.strip("\n")):
        lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        if len(lines) >= 2 and re.fullmatch(r"\s*([-=~*^#])\1{2,}", lines[1]):
            # A rule as long as its line makes a heading; turtle puts `---` under its summaries.
            lines = lines[2:] if len(lines[1]) >= len(lines[0]) - 2 else lines[:1]
        if not lines or lines[0].startswith("   ") or "::=" in block:
            continue
        if _LIST_LINE.match(lines[0]):
            if paragraphs:
                break
            continue
        paragraphs.append(_joined(lines))
    return [paragraph for paragraph in paragraphs if paragraph]


def _joined(lines: list[str]) -> str:
    margin = len(lines[0]) - len(lines[0].lstrip())
    kept = [lines[0].strip()]
    for previous, line in pairwise(lines):
        closed = previous.rstrip()[-1] in ".:!?"
        indent = len(line) - len(line.lstrip())
        first_word = line.split()[0]
        room_left = len(previous) + 1 + len(first_word) <= _WRAPPED_AT
        if (
            _LIST_LINE.match(line)
            or (indent > margin and closed and len(kept) > 1)
            or (room_left and not closed and first_word[0].isupper())
        ):
            break
        # A line end after a full stop separates sentences as two spaces do.
        kept.append((" " if closed else "") + line.strip())
    text = " ".join(kept)
    text = re.sub(r"``(\w+)''", r"'\1'", _ROLE.sub(r"\1", text)).replace("``", "`")
    text = re.sub(r"`(\w+)'", r"'\1'", re.sub(r"\s*<https?://[^>]*>", "", text))
    return re.sub(r"(?<=[a-z])- (?=[a-z])", "-", text)


def _complete(sentence: str) -> bool:
    return sentence.endswith((".", "!", "?", "。", "！", "？")) and not sentence.endswith("..")


def _finished(sentence: str) -> str:
    """The sentence with closing punctuation, or empty when it is cut off or is no prose."""
    if re.search(r"(?:\.\.|…)[\"')\]`]*$", sentence) or _inside_brackets(sentence):
        return ""
    if sentence.count("`") % 2 or re.match(r"[\W\d_]*$", sentence):
        return ""
    if _complete(sentence):
        return sentence
    sentence = sentence.rstrip(":\\").rstrip()
    return f"{sentence}." if re.search(r"[\w\"')\]`>]$", sentence) else ""
