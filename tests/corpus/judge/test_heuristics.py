"""The published rules, against definitions written out and values worked out by hand."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.judge.heuristics import (
    DUPLICATED,
    TOP,
    Values,
    c4_lines,
    fineweb,
    gopher,
    measure,
    select,
    words,
)
from sishu.corpus.judge.limits import BY_LANGUAGE, CHINESE, ENGLISH, Limits, limits_with

GOOD = """The school stood at the end of a narrow lane, and nobody in the village could say when it was built.
Every morning a teacher swept the yard before the children came with their brushes and bowls of rice.
They learned to read old poems aloud, and after lunch some of them have tea while others copy characters.
In winter the stove was lit early; smoke drifted across the roof and settled over the frozen pond.
Parents paid with grain, cloth or a day of work, because there was little money to be had that year.
What remains today is one wall with a carved door, which visitors photograph on their way to the temple."""


def top_ngram(tokens: list[str], n: int) -> int:
    """The definition: the commonest n-gram, the first of those as common, spaces counted."""
    ngrams = [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if not ngrams:
        return 0
    counts = Counter(ngrams)
    most = max(counts.values())
    return most * len(next(ngram for ngram in ngrams if counts[ngram] == most))


def duplicated_ngram(tokens: list[str], n: int) -> int:
    """The definition: characters of n-grams seen before, from left to right, none overlapping."""
    seen: set[tuple[str, ...]] = set()
    at = characters = 0
    while at + n <= len(tokens):
        ngram = tuple(tokens[at : at + n])
        if ngram in seen:
            characters += sum(map(len, ngram))
            at += n
        else:
            seen.add(ngram)
            at += 1
    return characters


@given(st.lists(st.sampled_from(("a", "bb", "c", "dddd", "ee", ".")), min_size=1, max_size=80))
def test_ngrams_are_as_defined(tokens: list[str]) -> None:
    text = " ".join(tokens)
    found = measure(text, tokens)
    assert found.top_ngram == tuple(top_ngram(tokens, n) / len(text) for n in TOP)
    assert found.duplicated_ngram == tuple(duplicated_ngram(tokens, n) / len(text) for n in DUPLICATED)


@given(st.text(alphabet="ab\n", max_size=40).filter(str.strip))
def test_lines_and_paragraphs_are_as_defined(text: str) -> None:
    found = measure(text, words(text))
    for value, characters, parts in (
        (found.duplicate_lines, found.duplicate_line_characters, re.split(r"\n+", text)),
        (
            found.duplicate_paragraphs,
            found.duplicate_paragraph_characters,
            re.split(r"\n{2,}", text.strip()),
        ),
    ):
        again = [part for i, part in enumerate(parts) if part in parts[:i]]
        assert value == pytest.approx(len(again) / len(parts))
        assert characters == sum(map(len, again)) / len(text)


def test_values_by_hand() -> None:
    text = "• One # two...\n- Three …\nFour five, 6!\nFour five, 6!\n"
    assert words(text) == [
        *("•", "One", "#", "two", ".", ".", ".", "-", "Three", "…"),
        *("Four", "five", ",", "6", "!") * 2,
    ]  # fmt: skip
    found = measure(text, words(text), Limits(stop_words=("Four", "One", "none")))
    assert found.words == 9 and found.mean_word == (3 + 3 + 5 + 2 * (4 + 4 + 1)) / 9
    assert (found.hashes, found.ellipses) == (1 / 20, 2 / 20)
    assert (found.bullet_lines, found.ellipsis_lines) == (2 / 4, 2 / 4)
    assert found.alphabetic_words == 7 / 20
    assert (found.ended_lines, found.short_lines) == (3 / 4, 1.0)  # an ellipsis sign ends no sentence
    assert found.repeated_characters == 13 / (len(text) - 4)
    assert (found.newlines, found.stop_words) == (4 / 20, 2)


FINE = measure(GOOD, words(GOOD))


def test_good_text_passes() -> None:
    assert gopher(FINE) is None and fineweb(FINE) is None
    assert select(GOOD, "en") == (GOOD, None)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("duplicate_paragraphs", 0.31, "duplicate paragraphs"),
        ("duplicate_paragraph_characters", 0.21, "duplicate paragraphs"),
        ("duplicate_lines", 0.31, "duplicate lines"),
        ("duplicate_line_characters", 0.21, "duplicate lines"),
        ("top_ngram", (0.21, 0, 0), "repeated words"),
        ("top_ngram", (0, 0.19, 0), "repeated words"),
        ("top_ngram", (0, 0, 0.17), "repeated words"),
        ("duplicated_ngram", (0.16, 0, 0, 0, 0, 0), "repeated passages"),
        ("duplicated_ngram", (0, 0, 0, 0, 0, 0.11), "repeated passages"),
        ("words", 49, "few words"),
        ("words", 100_001, "many words"),
        ("mean_word", 2.9, "word length"),
        ("mean_word", 10.1, "word length"),
        ("hashes", 0.11, "symbols"),
        ("ellipses", 0.11, "symbols"),
        ("bullet_lines", 0.91, "bullet lines"),
        ("ellipsis_lines", 0.31, "ellipsis lines"),
        ("alphabetic_words", 0.79, "few alphabetic words"),
        ("stop_words", 1, "few stop words"),
    ],
)
def test_every_rule_of_gopher_can_refuse(name: str, value: object, reason: str) -> None:
    assert gopher(FINE._replace(**{name: value})) == reason
    assert fineweb(FINE._replace(**{name: value})) is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ended_lines", 0.11, "lines without an end"),
        ("short_lines", 0.68, "short lines"),
        ("repeated_characters", 0.011, "repeated characters"),
        ("newlines", 0.31, "a list"),
    ],
)
def test_every_rule_of_fineweb_can_refuse(name: str, value: float, reason: str) -> None:
    assert fineweb(FINE._replace(**{name: value})) == reason
    assert gopher(FINE._replace(**{name: value})) is None


def test_a_value_on_its_limit_passes() -> None:
    on_the_limit = {
        **{
            name.removeprefix("max_").removeprefix("min_"): value
            for name, value in ENGLISH
            if name != "stop_words"
        },
        **{"stop_words": 2, "words": 50, "mean_word": 10},
    }
    fields = {name: value for name, value in on_the_limit.items() if name in Values._fields}
    assert set(fields) == set(Values._fields)
    values = Values(**fields)
    assert gopher(values) is None and fineweb(values) is None


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("  These are three words.  ", "These are three words."),
        ("Two words.", None),
        ("Please enable Javascript to go on.", None),
        ("Read our Privacy Policy before you go.", None),
        ("A word of " + "x" * 1001 + " characters is none.", None),
        ("It was so.[12] Or not.[citation needed]", "It was so. Or not."),
    ],
)
def test_lines_that_c4_leaves_out(line: str, kept: str | None) -> None:
    text, reason = c4_lines(f"{GOOD}\n{line}\n")
    assert reason is None and text == (f"{GOOD}\n{kept}" if kept else GOOD)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("It says lorem ipsum here.", "lorem ipsum"), ("A function f() { return; }", "curly bracket")],
)
def test_what_c4_refuses_whole(line: str, reason: str) -> None:
    assert c4_lines(f"{GOOD}\n{line}") == (f"{GOOD}\n{line}", reason)
    assert select(f"{GOOD}\n{line}", "en").reason == reason


def test_c4_wants_five_sentences() -> None:
    four = "One is here. Two is there! Is three? Four went away..."
    assert c4_lines(four)[1] == "few sentences"
    assert c4_lines(f"{four}\nAnd this is five.")[1] is None
    assert c4_lines("no marks in this\n" * 5)[1] is None


def test_c4s_edits_come_before_finewebs_rules() -> None:
    menu = "\n".join(f"Item {i}" for i in range(14))
    assert fineweb(measure(f"{menu}\n{GOOD}", words(f"{menu}\n{GOOD}"))) == "short lines"
    selected = select(f"{menu}\n{GOOD}", "en")
    assert (selected.text, selected.reason) == (GOOD, None)


def test_chinese_is_judged_by_chinese_limits() -> None:
    text = (
        "私塾是中国古代的一种教育机构，由先生在家中或祠堂里教授学生读书写字。\n"
        "学生的年龄从五六岁到十几岁不等，每天要背诵经书，也要练习书法和对联。\n"
        "先生的收入来自学生家庭的学费，有时也收粮食和布匹，日子并不宽裕。\n"
        "到了近代，新式学堂渐渐取代了私塾，但是在一些偏远的乡村，它们仍然存在了很久。\n"
        "今天人们谈起这种学校，既记得它的严厉，也记得它为许多孩子打开了书本的世界。\n"
    )
    assert select(text, "zh-Hans").reason is None
    assert select(text, "en").reason is not None, "English limits on words by spaces"
    assert select(text * 3, "zh-Hans").reason == "duplicate lines"
    assert gopher(measure(text, words(text, chinese=True), CHINESE), CHINESE) is None


@pytest.mark.parametrize("language", ["de", "ja", ""])
def test_a_language_without_limits_is_not_judged_by_others(language: str) -> None:
    assert select(GOOD, language) == (GOOD, "no limits for this language")


@pytest.mark.parametrize("text", ["...", "#", "a", "私", "\n.\n", "\x0b"])
def test_the_least_of_texts_are_measured(text: str) -> None:
    assert select(text, "en").reason and select(text, "zh").reason


GERMAN = """Die Fähre legte im Morgengrauen mit elf Fahrgästen, zwei Ziegen und einem alten Klavier ab.
Der Nebel lag so dicht über dem Fluss, dass der Kapitän nach den Glocken der Kirchen steuerte.
Gegen Mittag hob er sich, und das Tal war zu sehen: Weinberge, ein Turm, die weiße Straße nach Linz.
Ein Junge fragte, wie weit es noch sei, und niemand an Bord wusste es mit Sicherheit zu sagen.
Am Abend brannten am anderen Ufer schon die Lampen, und der Hund des Fährmanns lief ihnen entgegen.
"""


def test_limits_can_be_changed_one_by_one() -> None:
    assert limits_with({}) == dict(BY_LANGUAGE)
    found = limits_with({"en": {"min_words": 200}, "zh": {"max_mean_word": 6}})
    assert found["en"] == ENGLISH.model_copy(update={"min_words": 200})
    assert found["zh"] == CHINESE.model_copy(update={"max_mean_word": 6.0})
    assert select(GOOD, "en").reason is None
    assert select(GOOD, "en", found).reason == "few words"


def test_further_languages_are_judged_by_limits_of_their_own() -> None:
    assert select(GERMAN, "de").reason == "no limits for this language"
    assert select(GERMAN, "de", limits_with({"de": {}})).reason is None
    german = {"stop_words": ["der", "und", "die"], "min_stop_words": 2}
    assert select(GERMAN, "de", limits_with({"de": german})).reason is None
    assert select(GOOD, "de", limits_with({"de": german})).reason == "few stop words"
    assert select(GERMAN, "de", limits_with({"de": {"min_words": 1000}})).reason == "few words"


def test_limits_are_by_language_and_not_by_script() -> None:
    with pytest.raises(ValueError, match="'zh-Hans' is no code of a language"):
        limits_with({"zh-Hans": {"min_words": 3}})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"min_word": 3}, "no limit 'min_word'; did you mean 'min_words'"),
        ({"min_words": "many"}, "min_words"),
        ({"max_top_ngram": [0.1, 0.2]}, "max_top_ngram"),
    ],
)
def test_limits_that_do_not_exist_are_told(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        limits_with({"en": values})
