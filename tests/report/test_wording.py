"""Numbers as a reader wants them, and text that hides nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.report.wording import (
    bytes_words,
    clipped,
    date_words,
    duration_words,
    fixed_words,
    large_words,
    number_words,
    percent_words,
    short_duration_words,
    shown,
)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0, "0"),
        (2.2134, "2.21"),
        (0.718, "0.718"),
        (41.0, "41"),
        (1234567, "1,234,567"),
        (-0.5, "−0.500"),
        (0.0356, "0.0356"),
        (0.00002, "2.0e−5"),
    ],
)
def test_number_words(value: float | None, words: str) -> None:
    assert number_words(value) == words


def test_shares_sizes_and_times() -> None:
    assert [percent_words(x) for x in (0, 0.024, 0.94, 0.985, 0.9996, 1, None)] == [
        "0%", "2.4%", "94%", "98.5%", ">99.9%", "100%", "–",
    ]  # fmt: skip
    assert [large_words(x) for x in (9_999, 12_345, 301e6, 65e6, 1.5e12)] == [
        "9,999", "12.3 k", "301 M", "65.0 M", "1.50 T",
    ]  # fmt: skip
    assert [duration_words(x) for x in (0, 4.25, 59.7, 60, 3700, 90000)] == [
        "0 s", "4.2 s", "1 min", "1 min", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
    assert [short_duration_words(x) for x in (42, 1500, 5040, 280000)] == [
        "42 s", "25 min", "1.4 h", "3.2 d",
    ]  # fmt: skip
    assert bytes_words(48_123_904) == "48.1 MB"
    assert fixed_words(-1.005, 1) == "−1.0"
    assert date_words("2026-05-01T16:12:09+00:00") == "2026-05-01 16:12 UTC"
    assert date_words("2026-05-01T16:12:09+08:00") == "2026-05-01 16:12 +0800"
    assert date_words("some day") == "some day"


@given(text=st.text(st.characters(codec=None)))
def test_shown_text_hides_nothing_and_can_be_written(text: str) -> None:
    after = shown(text)
    after.encode("utf-8")
    hidden = {sign for sign in after if unicodedata.category(sign) in ("Cc", "Cf", "Cs")}
    assert hidden <= set("\n\t\u200c\u200d")


def test_shown_leaves_ordinary_text_alone() -> None:
    for text in ("plain", "你好，世界。", "👩‍🔬", "a\n\tb", "naïve"):
        assert shown(text) == text
    assert shown("a\u202eb\x00") == "a⟨U+202E⟩b⟨U+0000⟩"


def test_clipped_marks_the_cut() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("abcd", 3) == "ab…"
