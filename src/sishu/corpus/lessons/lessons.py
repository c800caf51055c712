"""Questions and answers about Python, in the words of its own documentation.

Every answer has one form, the *asked form*, so that a very small model can learn it and a program
can tell whether it did: the object's qualified name in backticks, with its signature when the
question is how to call it, a colon, and one or two sentences of the docstring.

    `json.dumps`: Serialize `obj` to a JSON formatted `str`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sishu.corpus.document import Page
from sishu.corpus.lessons.docstring import first_sentences
from sishu.corpus.lessons.pydoc_page import Kind, PydocObject, pydoc_objects

SHORTEST, LONGEST = 20, 240
LONGEST_SIGNATURE = 60
"""In characters. Longer ones are lists of defaults, of which a small model learns not to stop."""
_ASKED_FORM = re.compile(
    r"`[^\W\d]\w*(?:\.\w+)*(?:\([^`\n]*\))?`: "  # the name, perhaps with its signature
    r"(?!\s)[^\n]*[^\s.…。！？!?,;:][\"')\]>`”’）」』]*[.!?。！？]"
)
_BOILERPLATE = re.compile(
    r"Initialize self|See help\(type|Return self|Create and return a new|Create new instance of"
    r"|Helper for pickle|Python Character Mapping Codec"
    r"|Implement \w+\(|Return (?:repr|str|hash|len|getattr|iter|next|key in|value|an array)\b.*self"
    r"|Default object formatter|An enumeration|Return (?:bool )?key in"
    r"|Support for |Return state information for pickling|Abstract classes can override"
    r"|This method is called when a class is subclassed|None\.$|Size of object in memory"
    r"|Alias for field number|See PEP \d+\.?$|#|\(?internal|TODO|XXX",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"__\w+__")
_UNFIT = re.compile(
    r"[\w.+-]+@[\w-]+\.\w|\b0x[0-9a-fA-F]{8,}|<\S+ object|>>>|\$(?:Id|Revision)|https?://|[\x00-\x1f]"
)
_PURPOSE: dict[Kind, tuple[str, ...]] = {
    "module": ("What is the module `{0}` for?", "What does the module `{0}` do?"),
    "topic": ("What does Python's help say about `{0}`?", "What is `{0}` in Python?"),
    "exception": (
        "When is the exception `{0}` raised?",
        "What is the exception `{0}` for?",
    ),
    "class": (
        "What is the class `{0}` for?",
        "What is `{0}` for?",
        "What is the class `{1}` in `{2}`?",
    ),
    "function": (
        "What is `{0}` for?",
        "What does the function `{1}` in `{2}` do?",
        "What does `{0}` do?",
        "What does `{1}{3}` in `{2}` do?",
    ),
    "method": (
        "What is the method `{0}` for?",
        "What does the method `{1}` of `{2}` do?",
        "What does `{0}` do?",
    ),
}
_CALL = (
    "How do I call `{0}`?",
    "How is `{0}` called?",
    "What arguments does `{0}` take?",
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with its answer in the asked form."""

    question: str
    answer: str
    name: str
    """Qualified name of the object, `json.dumps`; built-ins as they are written, `str.split`."""
    kind: Kind
    group: str
    """Top-level module (`json`, `builtins`); a topic's own key. Splits keep a group together."""


def make_lessons(pages: Iterable[Page]) -> list[Lesson]:
    """Lessons from pydoc pages, sorted by name, kind and question; other pages give none.

    The same pages in any order give the same lessons. An object documented on several pages
    (`json.JSONDecoder`, `json.decoder.JSONDecoder`) is taught once, under its shortest name; words
    shared by different objects are taught for two of them at most.
    """
    found: dict[tuple[str, str], tuple[PydocObject, str]] = {}
    for page in pages:
        for one in pydoc_objects(page):
            body = _body(one)
            # Longest signature and body first, so that two versions of a page merge in any order.
            key = (_qualified(one), one.kind)
            if body and (key not in found or _wins(one, found[key][0])):
                found[key] = (one, body)
    taught_docstrings: set[tuple[str, str]] = set()
    taught_bodies: dict[str, int] = defaultdict(int)
    lessons: list[Lesson] = []
    for (name, kind), (one, body) in sorted(found.items(), key=lambda item: _rank(*item[0])):
        same_object = (name.rsplit(".", 1)[-1], one.docstring)
        if (kind != "topic" and same_object in taught_docstrings) or taught_bodies[body] >= 2:
            continue
        made = _lessons_of(one, name, body)
        lessons.extend(made)
        if made:
            taught_docstrings.add(same_object)
            taught_bodies[body] += 1
    return sorted(lessons, key=lambda lesson: (lesson.name, lesson.kind, lesson.question))


def _wins(one: PydocObject, other: PydocObject) -> bool:
    return (one.docstring, one.signature) > (other.docstring, other.signature)


def _rank(name: str, kind: str) -> tuple[int, int, str, str]:
    return (name.count("."), len(name), name, kind)


def conversation(lesson: Lesson) -> dict[str, object]:
    """The lesson as one line of `conversations.jsonl`: two messages with name, kind and group."""
    return {
        "messages": [
            {"role": "user", "content": lesson.question},
            {"role": "assistant", "content": lesson.answer},
        ],
        "name": lesson.name,
        "kind": lesson.kind,
        "group": lesson.group,
    }


def renamed(lessons: Sequence[Lesson], seed: str, tokens: Iterable[str] = ()) -> list[Lesson]:
    """Each lesson once more under a made-up name, the same in question and answer. What is to be learnt is to
    take the name from the question, and what is said from the name: words of the name that the description
    shares, whatever their ending, are exchanged in it too, so that `Handle an error.` about `handleError`
    becomes `Merge a socket.` about `mergeSocket`, with words of other answers. Of the words that stand in
    the name alone, half become one of the words among the `tokens` (the answers' words when there are none),
    for a token that is never copied is copied wrong, and half the beginning of one word with the end of
    another, so that tokens do not foretell each other."""
    pool = sorted({word for lesson in lessons for word in name_words(lesson.answer)})
    whole = sorted({word for token in tokens for word in name_words(token)}) or pool
    rng = random.Random(f"renamed/{seed}")
    result = []
    for lesson in lessons:
        described = name_words(lesson.answer.rpartition("`: ")[2])
        new: dict[str, str] = {}
        for word in name_words(_SPECIAL.sub("", lesson.name)):
            one, other = rng.choice(pool), rng.choice(pool)
            forms = {form for form in described if stem(form) == stem(word)}
            if forms - {word}:
                new[stem(word)] = stem(one)
            elif forms:
                new[word] = one
            else:
                new[word] = rng.choice(whole) if rng.random() < 0.5 else _grafted(one, other)
        pieces = lesson.question.split("`")  # of a question, the names alone
        pieces[1::2] = (_exchanged(piece, new) for piece in pieces[1::2])
        answer, name = _exchanged(lesson.answer, new), _exchanged(lesson.name, new)
        result.append(replace(lesson, question="`".join(pieces), answer=answer, name=name))
    return result


def _exchanged(text: str, new: Mapping[str, str]) -> str:
    """The text with other words, or other stems before the same endings, in the case that each word had."""

    def exchange(match: re.Match[str]) -> str:
        word = match[0]
        lower = word.lower()
        old = lower if lower in new else stem(lower)
        if old not in new:
            return word
        other = new[old] + lower[len(old) :]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return CASED_WORD.sub(exchange, text)


CASED_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ENDING = re.compile(r"(?:e|es|ed|er|ers|s|d|ing|ings|or|ors|ion|ions|able)$")
_COMMON = re.compile(
    r"..?|all|and|any|are|but|can|for|from|has|her|his|into|its|may|not|off|one|out|the|then|this|two|use|was|with"
)


def name_words(name: str) -> list[str]:
    """The words that a name, or a text, is made of, in lower case, each once: `handlers`, `file` and `open`
    of `handlers.FileHandler_open`. Words of one or two letters and such as `from` tell nothing and are left
    out."""
    words = dict.fromkeys(word.lower() for word in CASED_WORD.findall(name))
    return [word for word in words if not _COMMON.fullmatch(word)]


def stem(word: str) -> str:
    """A word in lower case without an English ending, if three letters are left: `handler`, `handling`,
    `handled` and `handle` are one."""
    ending = _ENDING.search(word, 3)
    return word[: ending.start()] if ending else word


def _grafted(one: str, other: str) -> str:
    """The beginning of one identifier with the end of another."""
    return one[: (len(one) + 1) // 2] + other[len(other) // 2 :]


def in_asked_form(answer: str) -> bool:
    """Whether an answer has the form that every lesson has.

    That is: `` `qualified.name`: `` or `` `qualified.name(signature)`: ``, one space, then a single
    line that ends with exactly one sentence mark (`.`, `!`, `?` or their Chinese forms; an ellipsis
    is no end), 20 to 240 characters in all, with backticks in pairs. It judges form alone: a
    made-up description in this form passes.
    """
    return (
        SHORTEST <= len(answer) <= LONGEST
        and answer.count("`") % 2 == 0
        and _ASKED_FORM.fullmatch(answer) is not None
    )


def _qualified(one: PydocObject) -> str:
    if one.kind in ("module", "topic") or one.module == "builtins":
        return one.name
    return f"{one.module}.{one.name}"


def _body(one: PydocObject) -> str:
    """The sentences worth teaching about an object; empty when its docstring has none."""
    last = one.name.rsplit(".", 1)[-1]
    if _BOILERPLATE.match(one.docstring.lstrip()):
        return ""
    body = first_sentences(one.docstring, last)
    if _BOILERPLATE.match(body) or _UNFIT.search(body) or len(body.split()) < 2:
        return ""
    if body.startswith(f"{last}("):  # the generated `Point(x, y)` of named tuples and dataclasses
        return ""
    words = set(re.findall(r"[^\W\d]{3,}", body)) - {"self", "other"}
    # `a + b.` on `__add__` and the like says nothing; special methods must say something.
    return body if len(words) >= (3 if _SPECIAL.fullmatch(last) else 1) else ""


def _lessons_of(one: PydocObject, name: str, body: str) -> list[Lesson]:
    group = one.name if one.kind == "topic" else one.module.split(".")[0]
    owner, _, last = name.rpartition(".")
    signature = one.signature
    if len(signature) > LONGEST_SIGNATURE or _UNFIT.search(signature) or "`" in signature:
        signature = ""
    templates = _PURPOSE[one.kind]
    if not owner or not signature:
        templates = tuple(t for t in templates if "{3}" not in t or (owner and signature))
        templates = tuple(t for t in templates if "{2}" not in t or owner)
    pairs = [(_pick(templates, name), f"`{name}`: {body}")]
    if one.kind in ("function", "method", "class") and signature and not _SPECIAL.fullmatch(last):
        pairs.append((_pick(_CALL, name), f"`{name}{signature}`: {body}"))
    return [
        Lesson(template.format(name, last, owner, signature), answer, name, one.kind, group)
        for template, answer in pairs
        if in_asked_form(answer)
    ]


def _pick(templates: tuple[str, ...], name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return templates[int.from_bytes(digest[:4], "big") % len(templates)]


def damage(answer: str, rng: random.Random, other: str = "") -> str:
    """A plausible bad answer made from a good one, never equal to it.

    With an `other` answer at hand, a quarter of the time nothing but the name is wrong, as a model gets it
    wrong that takes it carelessly from the question. Else a third of the time the first words only, ended
    as if that were all: the other ways leave broken sentences, from which a judge would learn that any
    short whole sentence is good. Else one of: words in another order, cut off before the end, a phrase
    said again and again, characters missing. Half the time the `` `name`: `` in front stays whole, so that
    a judge has to read what follows. Text without spaces (Chinese) is handled by characters.
    """
    if other and rng.random() < 0.25:
        wrong = _misnamed(answer, other, rng)
        if wrong != answer:
            return wrong
    head = _head(answer)
    kept = head if rng.random() < 0.5 else ""
    rest = answer[len(kept) :]
    ways = [_shortened, _shortened, _shuffled, _cut, _repeated, _thinned]
    rng.shuffle(ways)
    for way in ways:
        damaged = kept + way(rest, rng)
        if damaged != answer:
            return damaged
    return f"{answer} {answer}" if answer else "`"


def _misnamed(answer: str, other: str, rng: random.Random) -> str:
    """One or two parts of the name grafted with, or replaced by, one of another's name, left out or said
    twice; as it was where there is no name."""
    own, another = (re.match(r"`([^`(:]+)", text) for text in (answer, other))
    if not own or not another:
        return answer
    parts, others = own[1].split("."), another[1].split(".")
    for _ in range(rng.choice((1, 1, 2))):
        at, way, foreign = rng.randrange(len(parts)), rng.randrange(5), rng.choice(others)
        if way == 0:
            parts[at] = _grafted(parts[at], foreign)
        elif way == 1:
            parts[at] = _grafted(foreign, parts[at])
        elif way == 2:
            parts[at] = foreign
        elif way == 3 and len(parts) > 1:
            del parts[at]
        else:
            parts.insert(at, parts[at])
    return f"`{'.'.join(parts)}{answer[own.end() :]}"


def _head(answer: str) -> str:
    head = re.match(r"`[^`]+`: ", answer)
    return head[0] if head else ""


def _units(text: str) -> list[str]:
    words = re.findall(r"\S+\s*", text)
    return words if len(words) >= 4 else list(text)


def _shortened(text: str, rng: random.Random) -> str:
    head = _head(text)
    units = _units(text[len(head) :])
    few = "".join(units[: min(rng.randint(2, 6), len(units) - 1)]).rstrip(" .,;:!?。，；：！？")
    return f"{head}{few}{'。' if text.endswith('。') else '.'}" if few else text


def _shuffled(text: str, rng: random.Random) -> str:
    units = [unit.strip() or unit for unit in _units(text)]
    rng.shuffle(units)
    return (" " if re.search(r"\S\s+\S", text) else "").join(units)


def _cut(text: str, rng: random.Random) -> str:
    return text[: int(len(text) * rng.uniform(0.2, 0.75))].rstrip(" .!?。！？")


def _repeated(text: str, rng: random.Random) -> str:
    units = _units(text)
    if not units:
        return text
    size = min(len(units), rng.randint(2, 5))
    start = rng.randint(0, len(units) - size)
    phrase = [unit if unit[-1].isspace() or len(unit) == 1 else f"{unit} " for unit in units]
    again = phrase[start : start + size] * rng.randint(2, 4)
    return "".join([*phrase[: start + size], *again, *units[start + size :]]).rstrip()


def _thinned(text: str, rng: random.Random) -> str:
    share = rng.uniform(0.1, 0.3)
    return "".join(letter for letter in text if rng.random() >= share)
