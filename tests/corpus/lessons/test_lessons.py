"""Lessons from the pydoc of the Python that runs the tests, and from markup that once went wrong."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.document import Page
from sishu.corpus.lessons.lessons import (
    Lesson,
    conversation,
    damage,
    in_asked_form,
    make_lessons,
    name_words,
    renamed,
    stem,
)
from sishu.corpus.lessons.pydoc_page import PydocObject, pydoc_objects

SITE = """
import json, pydoc, sys
names = sys.argv[1:]
print(json.dumps({name: pydoc._url_handler(name, "text/html") for name in names}))
"""
NAMES = [
    *(
        "builtins",
        "json",
        "json.decoder",
        "textwrap",
        "collections",
        "os",
        "string",
        "functools",
    ),
    *(
        "time",
        "io",
        "heapq",
        "math",
        "threading",
        "pathlib",
        "argparse",
        "logging",
        "itertools",
    ),
    *("struct", "random", "inspect", "shutil", "encodings.cp037"),
]


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    """Real pages of pydoc's web site, made by its own handler in a clean interpreter."""
    urls = [f"{name}.html" for name in NAMES] + [
        "topics.html",
        "index.html",
        "topic?key=lambda",
        "topic?key=TRUTHVALUE",
        "nosuchmodule.html",
    ]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", SITE, *urls], capture_output=True, check=True)
    return [
        Page(f"http://docs.python.local/{url}", html.encode(), "text/html; charset=UTF-8")
        for url, html in json.loads(done.stdout).items()
    ]


@pytest.fixture(scope="module")
def objects(pages: list[Page]) -> dict[str, PydocObject]:
    return {f"{o.module}:{o.name}": o for page in pages for o in pydoc_objects(page)}


@pytest.fixture(scope="module")
def lessons(pages: list[Page]) -> list[Lesson]:
    return make_lessons(pages)


def test_pages_are_taken_apart(objects: dict[str, PydocObject]) -> None:
    dumps = objects["json:dumps"]
    assert dumps.kind == "function"
    assert dumps.signature.startswith("(obj, *, skipkeys=False, ")
    assert dumps.signature.endswith("sort_keys=False, **kw)")
    assert dumps.docstring.startswith("Serialize ``obj`` to a JSON formatted ``str``.\n")
    wrap = objects["textwrap:TextWrapper.wrap"]
    assert (wrap.kind, wrap.signature) == ("method", "(text)")
    wrapper = objects["textwrap:TextWrapper"]
    assert wrapper.kind == "class" and wrapper.signature.endswith("placeholder=' [...]')")
    assert wrapper.docstring.startswith("Object for wrapping/filling text.")
    assert objects["json:JSONDecodeError"].kind == "exception"
    assert objects["builtins:BaseException"].kind == "exception"
    assert objects["builtins:KeyError"].docstring == "Mapping key not found."
    assert objects["textwrap:textwrap"].docstring == "Text wrapping and filling."
    assert objects["lambda:lambda"].kind == "topic"
    assert objects["lambda:lambda"].docstring.startswith("Lambdas\n*******\n")


def test_inherited_methods_and_class_aliases_stay_at_home(
    objects: dict[str, PydocObject],
) -> None:
    assert "collections:Counter.most_common" in objects
    assert "collections:Counter.keys" not in objects
    assert "builtins:OSError" in objects and "builtins:IOError" not in objects


def test_other_pages_give_nothing(pages: list[Page]) -> None:
    odd = [p for p in pages if re.search("topics|index|nosuch", p.url)]
    assert len(odd) == 3
    odd.append(Page("http://a.example/", b"<html><title>Shop</title><p>Buy json now!</p></html>"))
    odd.append(Page("http://a.example/", b""))
    odd.append(Page("http://a.example/", b"<title>Pydoc: module x</title>\xff\x00<table"))
    assert make_lessons(odd) == []


def test_known_lessons(lessons: list[Lesson]) -> None:
    answers = {lesson.answer: lesson for lesson in lessons}
    dumps = answers["`json.dumps`: Serialize `obj` to a JSON formatted `str`."]
    assert (dumps.name, dumps.kind, dumps.group) == ("json.dumps", "function", "json")
    assert "json" in dumps.question and "dumps" in dumps.question
    assert answers["`textwrap`: Text wrapping and filling."].kind == "module"
    fill = answers["`textwrap.fill(text, width=70, **kwargs)`: Fill a single paragraph of text, "
                   "returning a new string."]  # fmt: skip
    assert "width" not in fill.question
    assert answers["`KeyError`: Mapping key not found."].group == "builtins"
    assert any(one.name == "lambda" and one.group == "lambda" for one in lessons)


def test_every_lesson_keeps_the_form(lessons: list[Lesson]) -> None:
    assert len(lessons) > 1000
    for lesson in lessons:
        assert in_asked_form(lesson.answer), lesson
        assert lesson.answer.startswith(f"`{lesson.name}"), lesson
        assert lesson.question.endswith("?") and "\n" not in lesson.question
        last = lesson.name.rsplit(".", 1)[-1]
        assert f"`{last}" in lesson.question or f"`{lesson.name}`" in lesson.question
        assert not re.search(r"0x[0-9a-f]{8}|\S@\w+\.\w+|See help\(type|Initialize self", lesson.answer)


def test_generated_docstrings_and_long_signatures_are_not_taught(
    lessons: list[Lesson], objects: dict[str, PydocObject]
) -> None:
    assert any(o.docstring.startswith("Create new instance of ArgInfo(") for o in objects.values())
    assert any(o.docstring.startswith("Python Character Mapping Codec cp037") for o in objects.values())
    assert not [one for one in lessons if re.search("Create new instance of|gencodec", one.answer)]
    parsers = [one for one in lessons if one.name == "argparse.ArgumentParser"]
    assert len(objects["argparse:ArgumentParser"].signature) > 60
    assert len(parsers) == 1 and "`argparse.ArgumentParser`: Object for" in parsers[0].answer
    signatures = [re.match(r"`[^`(]*(\([^`]*\))?`: ", one.answer) for one in lessons]
    assert max(len(found[1] or "") for found in signatures if found) in range(50, 61)


def test_words_are_the_documentations_own(lessons: list[Lesson], objects: dict[str, PydocObject]) -> None:
    def words(text: str) -> str:
        return "".join(re.findall(r"\w+", text.replace(":mod:", "")))

    said = {words(o.docstring) for o in objects.values()}
    everything = "\n".join(sorted(said))
    foreign = [one.answer for one in lessons if words(one.answer.split("`: ", 1)[1]) not in everything]
    # Text taken from behind an arrow may lose a variable's name; nothing may be made up.
    assert len(foreign) <= len(lessons) // 50, foreign[:10]


def test_no_repeats(lessons: list[Lesson]) -> None:
    questions = [lesson.question for lesson in lessons]
    assert len(set(questions)) == len(questions)
    names_of: dict[str, set[str]] = {}
    for lesson in lessons:
        names_of.setdefault(lesson.answer.split("`: ", 1)[1], set()).add(lesson.name)
    assert max(len(names) for names in names_of.values()) <= 2
    assert not any(one.name == "json.decoder.JSONDecoder" for one in lessons)
    per_name: dict[str, int] = {}
    for lesson in lessons:
        per_name[lesson.name] = per_name.get(lesson.name, 0) + 1
    assert max(per_name.values()) <= 2


def test_page_order_and_repetition_do_not_matter(pages: list[Page], lessons: list[Lesson]) -> None:
    shuffled = pages * 2
    random.Random(1).shuffle(shuffled)
    assert make_lessons(shuffled) == lessons
    keys = [(one.name, one.kind, one.question) for one in lessons]
    assert keys == sorted(keys)


def test_conversation_shape(lessons: list[Lesson]) -> None:
    one = lessons[0]
    assert conversation(one) == {
        "messages": [
            {"role": "user", "content": one.question},
            {"role": "assistant", "content": one.answer},
        ],
        "name": one.name,
        "kind": one.kind,
        "group": one.group,
    }
    json.dumps(conversation(one))


@pytest.mark.parametrize(
    "answer",
    [
        "`json.dumps`: Serialize obj to a string.",
        "`wrap(text, width=70)`: Wrap a paragraph of text!",
        '`a.b`: Say "this is it (at last)".',
        "`列表.长度`: 返回列表中元素的个数，包括重复的元素在内。",
    ],
)
def test_asked_form_holds(answer: str) -> None:
    assert in_asked_form(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "json.dumps: Serialize obj to a string.",
        "`json.dumps`: Serialize obj to a string",
        "`json.dumps`: Serialize obj to a ...",
        "`json.dumps`: Serialize obj to a string..",
        "`json.dumps`: Serialize obj.\nTo a string.",
        "`json.dumps`: Serialize `obj to a string.",
        "`json.dumps` : Serialize obj to a string.",
        "`json dumps`: Serialize obj to a string.",
        "`json.dumps`:  Serialize obj to a string.",
        "`a`: Short enough.",
        "`a`: " + "long " * 60 + "end.",
        " `json.dumps`: Serialize obj to a string.",
        "",
    ],
)
def test_asked_form_fails(answer: str) -> None:
    assert not in_asked_form(answer)


@given(
    st.text(max_size=80), st.integers(), st.sampled_from(["", "no name here", "`a.b`: Some other answer."])
)
def test_damage_always_changes_the_answer(answer: str, seed: int, other: str) -> None:
    for one in (answer, f"`{answer}`: What it is for."):
        assert damage(one, random.Random(seed), other) != one
        assert damage(one, random.Random(seed), other) == damage(one, random.Random(seed), other)


def test_damage_is_varied_and_plausible(lessons: list[Lesson]) -> None:
    rng = random.Random(0)
    pairs = [(one.answer, damage(one.answer, rng)) for one in lessons[:800]]
    kept = sum(bad.startswith(good.split("`: ")[0] + "`: ") for good, bad in pairs)
    assert 0.4 < kept / len(pairs) < 0.9
    first_words = [good.startswith(bad[:-1]) and bad.endswith(".") for good, bad in pairs]
    assert 0.2 < sum(first_words) / len(pairs) < 0.4
    broken = [bad for (_, bad), whole in zip(pairs, first_words, strict=True) if not whole]
    assert sum(in_asked_form(bad) for bad in broken) < len(broken) / 2
    letters = [(set(good) | {" "}) >= set(bad) for good, bad in pairs]
    assert all(letters)
    assert len({len(bad) < len(good) for good, bad in pairs}) == 2


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        ("`os.getcwd()`: Return the current, working directory of this process.", r"`os.getcwd\(\)`: .*\."),
        ("`排序`：把列表中的元素按从小到大的顺序排列，并返回它。", r".*。"),
    ],
)
def test_some_damage_is_a_few_first_words_ended_as_if_that_were_all(answer: str, short: str) -> None:
    found = {damage(answer, random.Random(seed)) for seed in range(200)}
    few = {bad for bad in found if answer.startswith(bad[:-1]) and bad[-1] in ".。"}
    assert len(few) >= 4
    assert all(re.fullmatch(short, bad) and len(bad) < len(answer) for bad in few)
    assert all(re.search(r"[\w`]$", bad[:-1]) for bad in few), "no mark before the full stop"


@pytest.mark.parametrize("answer", ["`os.getcwd()`: Return it.", "`哈希.散列`：返回它的散列值，供比较之用。"])
def test_some_damage_is_nothing_but_a_wrong_name(answer: str) -> None:
    parts = re.fullmatch(r"`([^`(]+)(.*)", answer)
    assert parts is not None
    name, rest = parts.groups()
    other = "`json.JSONDecoder.decode`: Return what is in a string."
    found = [damage(answer, random.Random(seed), other) for seed in range(600)]
    wrong = [bad for bad in found if bad.startswith("`") and bad.endswith(rest) and bad != answer]
    assert 110 < len(wrong) < 190
    names = {bad[1 : -len(rest)] for bad in wrong}
    assert name not in names and len(names) > 15
    near = {one for one in names if set(one.split(".")) & set(name.split("."))}
    assert len(near) > 5 and names - near, "some near the right name, some far from it"
    assert all(part for one in names for part in one.split("."))


def test_a_made_up_name_is_the_same_in_question_and_answer(lessons: list[Lesson]) -> None:
    copies = renamed(lessons, "1/0")
    assert len(copies) == len(lessons) and copies == renamed(lessons, "1/0") != renamed(lessons, "2/0")
    real = {lesson.name for lesson in lessons}
    assert sum(copy.name in real for copy in copies) < 0.05 * len(copies)
    for copy, lesson in zip(copies, lessons, strict=True):
        assert copy.answer.startswith(f"`{copy.name}"), copy
        for part in copy.name.split("."):
            assert part in copy.question, copy
        assert copy.group == lesson.group
    kept = sum(in_asked_form(copy.answer) for copy in copies)
    assert kept > 0.98 * len(copies)


def test_what_is_said_of_a_made_up_name_has_its_words() -> None:
    name = "jobs.SocketHandler.handleError"
    answer = f"`{name}(err)`: Handles an error of SOCKET handling, from error to end."
    others = [
        Lesson("?", f"`{other}`: Pause.", other, "method", "x")
        for other in ("wave.open_frame", "Queue.put", "parse.JSON")
    ]
    lesson = Lesson(f"How do I call `{name}`?", answer, name, "method", "jobs")
    copies = [renamed([lesson, *others], str(seed))[0] for seed in range(30)]
    for copy in copies:
        found = re.fullmatch(r"\w+\.([A-Z][a-z]+)([A-Z][a-z]+)er\.([a-z]+)e([A-Z][a-z]+)", copy.name)
        assert found is not None, copy.name
        socket, handle, again, error = (part.lower() for part in found.groups())
        assert handle == again and copy.question == f"How do I call `{copy.name}`?"
        assert copy.answer == (
            f"`{copy.name}(err)`: {handle.capitalize()}es an {error} of {socket.upper()} {handle}ing, "
            f"from {error} to end."
        )
    assert len({copy.name for copy in copies}) == 30


def test_half_of_the_words_that_only_a_name_has_are_tokens_and_special_methods_stay() -> None:
    name = "jobs.Socket.__enter__"
    lesson = Lesson(f"What does `{name}` do?", f"`{name}`: Open the socket.", name, "method", "jobs")
    copies = [renamed([lesson], str(seed), ["Ġcollections", "cri", ".", "of"])[0] for seed in range(200)]
    words = [re.fullmatch(r"(\w+)\.([A-Z][a-z]+)\.__enter__", copy.name) for copy in copies]
    modules = [found[1] for found in words if found]
    assert len(modules) == 200
    for token in ("collections", "cri"):
        assert 30 < modules.count(token) < 70
    shared = {found[2].lower() for found in words if found}
    assert shared <= set(name_words(lesson.answer)), "words of the description become words, not tokens"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "logging.handlers.SMTPHandler.getSubject",
            ["logging", "handlers", "smtp", "handler", "get", "subject"],
        ),
        ("os.fdopen_from_fd", ["fdopen"]),
        ("__and__", []),
        ("int.from_bytes", ["int", "bytes"]),
    ],
)
def test_the_words_of_a_name(name: str, words: list[str]) -> None:
    assert name_words(name) == words


def test_a_stem_is_one_for_all_endings() -> None:
    assert {stem(word) for word in ("handle", "handles", "handled", "handler", "handling")} == {"handl"}
    assert {stem(word) for word in ("iterate", "iterator", "iteration", "iterating")} == {"iterat"}
    assert [stem(word) for word in ("use", "red", "is", "error")] == ["use", "red", "is", "err"]
