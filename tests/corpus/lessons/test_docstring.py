"""The sentence a docstring is worth, on docstrings of the shapes found in Python's library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.lessons.docstring import first_sentences, split_sentences, without_signatures
from sishu.corpus.lessons.pydoc_page import closing


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return x.  The rest is detail.", "Return x. The rest is detail."),
        (
            "Open a file for reading or for writing text, e.g. a log. Close it later.",
            "Open a file for reading or for writing text, e.g. a log.",
        ),
        (
            "Works like version 2.0 of the format (see sec. 3. of the text). More.",
            "Works like version 2.0 of the format (see sec. 3. of the text).",
        ),
        (
            "Values v1, v2, ... packed as the format says",
            "Values v1, v2, ... packed as the format says.",
        ),
        (
            "S.find(sub[, start]) -> int\n\nReturn the lowest index.",
            "Return the lowest index.",
        ),
        ("get(k[,d]) -> D[k] if k in D, else d.", "D[k] if k in D, else d."),
        ("D.get(k) -- look it up and\nreturn it", "look it up and return it."),
        ("Return a list of:\n - one\n - two", ""),
        (
            "Call a function after some seconds::\n\n    t = Timer()",
            "Call a function after some seconds.",
        ),
        (">>> 1 + 1\n2", ""),
        ("", ""),
        (
            "Lambdas\n*******\n\n   e ::= x\n\nThey make functions.",
            "They make functions.",
        ),
        ("Use :class:`~a.B` and ``c``.", "Use a.B and `c`."),
        (
            "Closes all in [low, high), ignoring errors.",
            "Closes all in [low, high), ignoring errors.",
        ),
        ("返回列表的长度。不包括空值。", "返回列表的长度。 不包括空值。"),
    ],
)
def test_first_sentences(docstring: str, expected: str) -> None:
    name = "find" if "find" in docstring else "get"
    assert first_sentences(docstring, name) == expected


def test_call_lines_are_passed_over_only_when_they_are_calls() -> None:
    assert without_signatures("int([x]) -> integer\nint(x, base=10) -> integer\n\nConvert.", "int") == (
        "Convert.",
        "",
    )
    prose = "wait() blocks until the event is set."
    assert without_signatures(prose, "wait") == (prose, "")


def test_closing_bracket() -> None:
    assert closing("f(a, b='(')", 1) == 11
    assert closing("f(a", 1) == 0


@given(st.text(alphabet="ab A.!?…。 (['`e.g\n", max_size=60))
def test_splitting_sentences_loses_no_character(text: str) -> None:
    pieces = split_sentences(" ".join(text.split()))
    assert "".join("".join(pieces).split()) == "".join(text.split())
