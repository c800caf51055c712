"""Paragraphs in another language: the unwanted ones go, and nothing else does."""

from __future__ import annotations

import random
import textwrap
import zipfile
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.corpus.judge import paragraphs
from sishu.corpus.judge.paragraphs import keep_languages
from tests.shared_data import shared_data

EN = [
    "The committee will publish its findings next month, after a final reading of all the letters.",
    "Nobody expected the river to rise so quickly, and the bridge was closed before the evening.",
    "A second report describes how the houses along the shore were built, and by whom, long ago.",
]
ZH = [
    "委员会将在下个月公布调查结果，在此之前还要把收到的所有来信再读一遍。",
    "谁也没有想到河水会涨得这么快，傍晚的车流还没有开始，大桥就已经关闭了。",
    "另一份报告说明了岸边的房屋是怎样建造的，又是谁在两百年前建造了它们。",
]
HANT = [
    "委員會將在下個月公佈調查結果，在此之前還要把收到的所有來信再讀一遍。",
    "誰也沒有想到河水會漲得這麼快，傍晚的車流還沒有開始，大橋就已經關閉了。",
]
DE = [
    "Der Ausschuss wird seine Ergebnisse im nächsten Monat veröffentlichen, wenn alle Briefe gelesen sind.",
    "Niemand hatte erwartet, dass der Fluss so schnell steigt, und die Brücke wurde am Abend geschlossen.",
]
JA = ["委員会は来月、受け取ったすべての手紙をもう一度読んでから、調査の結果を発表することになっている。"]
RU = ["Комиссия опубликует свои выводы в следующем месяце, после того как все письма будут прочитаны."]


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
@pytest.mark.parametrize(
    ("own", "other", "language", "code"),
    [
        (EN, ZH, "en", "zh-Hans"),
        (EN, HANT, "en", "zh-Hant"),
        (EN, DE, "en", "de"),
        (DE, EN, "de", "en"),
        (ZH, EN, "zh-Hans", "en"),
        (ZH, JA, "zh-Hans", "ja"),
        (EN, RU, "en", "ru"),
        (ZH, RU, "zh-Hans", "ru"),
    ],
)
def test_a_paragraph_of_another_language_goes(
    own: list[str], other: list[str], language: str, code: str, separator: str
) -> None:
    text = separator.join([own[0], other[0], *own[1:]])
    kept = keep_languages(text, [language])
    assert kept.text == separator.join(own) and kept.language == language
    assert kept.cut == {code: len(other[0])}
    size = sum(map(len, own)) + len(other[0])
    assert kept.shares == pytest.approx({language: sum(map(len, own)) / size, code: len(other[0]) / size})
    assert list(kept.shares) == [language, code]


def test_in_both_languages_both_stay_if_both_are_wanted() -> None:
    text = "\n\n".join(part for pair in zip(EN, ZH, strict=True) for part in pair)
    for wanted in (["en", "zh"], ["en", "zh-Hans"], []):
        kept = keep_languages(text, wanted)
        assert kept.text == text and kept.cut == {}
        assert kept.shares["en"] + kept.shares["zh-Hans"] == pytest.approx(1)
    assert keep_languages(text, ["en"], "en").text == "\n\n".join(EN)
    assert keep_languages(text, ["zh"], "zh-Hans").text == "\n\n".join(ZH)


def test_the_chinese_scripts_are_one_language_or_two() -> None:
    text = "\n\n".join([ZH[0], HANT[1], ZH[2]])
    kept = keep_languages(text, ["zh"])
    assert kept.text == text and set(kept.shares) == {"zh-Hans", "zh-Hant"}
    assert keep_languages(text, ["zh-Hans"]).text == "\n\n".join([ZH[0], ZH[2]])
    quoting = "他说「頭髮」两个字的简体是头发，这里说的只是汉字，不是语言。而「於」字有时也写作「于」。"
    odd = "於是他们在山上住了一天，又到海上去看日出，看了三天三夜才回去。"
    assert keep_languages(f"{ZH[0]}\n{quoting}\n{odd}", ["zh-Hans"]).cut == {}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        (
            "zh-Hans",
            f"{ZH[0]}\n用 Python 的 asyncio 模块和 multiprocessing.Pool 可以同时读文件。\n{ZH[1]}",
        ),
        (
            "zh-Hans",
            f"{ZH[0]}\nApache Kafka, Redis, PostgreSQL, Elasticsearch, Kubernetes, Docker\n{ZH[1]}",
        ),
        ("zh-Hans", f"{ZH[0]}\n\n    for name in sorted(files): print(name, len(files[name]))\n\n{ZH[1]}"),
        (
            "zh-Hans",
            f"{ZH[0]}\n\n```\nprint every line of the file that is not empty or blank\n```\n\n{ZH[1]}",
        ),
        ("zh-Hans", f"{ZH[0]}\nHello World\n{ZH[1]}"),
        ("en", f"{EN[0]}\nThe word 语言 means language, and 文字 means writing, as everybody knew.\n{EN[1]}"),
        ("en", f"{EN[0]}\n王小明、李大海、张三丰、赵子龙、刘备、关羽、张飞、诸葛亮、周瑜、曹操\n{EN[1]}"),
        ("en", f"{EN[0]}\n| 名称 | 说明 | 默认值 | 类型 | 备注与其他说明 |\n{EN[1]}"),
        ("en", f"{EN[0]}\nJürgen Habermas, Günter Grass, Heinrich Böll, Max Weber, Karl Jaspers\n{EN[1]}"),
        ("en", f"{EN[0]}\n北京\n{EN[1]}"),
        ("en", f"{EN[0]}\n12.5 13.7 99.1 1024 2048 4096 8192 16384 32768 65536 131072 262144 5 6\n{EN[1]}"),
        ("ja", f"{JA[0]}\n東京都港区六本木六丁目十番一号森塔四十二階第三会議室\n{JA[0]}"),
    ],
)
def test_what_is_left_alone(language: str, text: str) -> None:
    kept = keep_languages(text, [language], language)
    assert kept.text == text and kept.cut == {} and sum(kept.shares.values()) == pytest.approx(1)


def test_short_paragraphs_go_with_those_around_them() -> None:
    text = "\n\n".join([EN[0], "简介", ZH[0], "2", "第二", ZH[1], "The end", EN[1]])
    kept = keep_languages(text, ["en"], "en")
    assert kept.text == "\n\n".join([EN[0], "2", "The end", EN[1]])
    assert set(kept.cut) == {"zh-Hans"}


def test_lines_broken_to_a_width_are_judged_together() -> None:
    for own, other in ((EN, DE), (DE, EN), (EN, RU)):
        broken = "\n".join(textwrap.wrap(f"{other[0]} {other[-1]}", 60))
        assert broken.count("\n") > 1
        text = f"{own[0]}\n\n{broken}\n\n{own[1]}\n\n{own[0]}"
        assert keep_languages(text, ["it"]).text == f"{own[0]}\n\n{own[1]}\n\n{own[0]}"


def test_a_code_fence_that_is_never_closed_hides_nothing() -> None:
    text = f"{EN[0]}\n\n```\n\n{ZH[0]}\n\n{EN[1]}"
    assert ZH[0] not in keep_languages(text, ["en"]).text


@pytest.mark.parametrize("text", ["", "\n\n", "123 456\n\n---", "   "])
def test_no_words(text: str) -> None:
    assert keep_languages(text, ["en"]) == (text, "", {}, {})


def test_near_languages_are_not_told_apart() -> None:
    norwegian = "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter, og bør handle."
    danish = "Alle mennesker er født frie og lige i værdighed og rettigheder, og de bør handle mod hverandre."
    assert keep_languages(f"{norwegian}\n\n{danish}\n\n{norwegian}", ["no"], "no").cut == {}


PIECE = st.sampled_from(
    [*EN, *ZH, *HANT, *DE, *JA, *RU, "", "```", "Note", "注意", "x = [1]", "\ud800", "  "]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(PIECE, max_size=12), st.sampled_from([["en"], ["zh"], ["en", "zh"], []]))
def test_only_whole_lines_go_and_the_count_is_right(pieces: list[str], wanted: list[str]) -> None:
    text = "\n".join(pieces)
    kept = keep_languages(text, wanted)
    before, after = (Counter(line for line in t.split("\n") if line.strip()) for t in (text, kept.text))
    assert after <= before
    assert sum(kept.cut.values()) == sum(len(line) for line in (before - after).elements())
    if kept.shares:
        assert sum(kept.shares.values()) == pytest.approx(1)
    assert all(code.partition("-")[0] not in wanted for code in kept.cut)
    if not kept.cut:
        assert kept.text == text


def test_a_paragraph_as_long_as_a_book_is_judged_by_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join([EN[0], ZH[0] * 3000, EN[1]])
    asked: list[int] = []
    real = paragraphs.identify

    def watched(text: str) -> tuple[str, float]:
        asked.append(len(text))
        return real(text)

    monkeypatch.setattr(paragraphs, "identify", watched)
    assert keep_languages(text, ["en"], "en").text == f"{EN[0]}\n{EN[1]}"
    assert keep_languages("\n".join([ZH[0], EN[0] * 3000]), ["zh"], "zh-Hans").text == ZH[0]
    assert max(asked) <= paragraphs.MOST_CHARACTERS


DECLARATION = {"eng": "en", "cmn_hans": "zh-Hans", "cmn_hant": "zh-Hant", "deu": "de", "fra": "fr",
               "spa": "es", "rus": "ru", "jpn": "ja", "kor": "ko", "ita": "it", "nld": "nl"}  # fmt: skip


def test_the_declaration_of_human_rights_in_two_languages() -> None:
    """Nothing of a document in one language goes; of mixed ones what is long enough to tell."""
    with zipfile.ZipFile(shared_data("nltk-corpora/udhr2.zip")) as archive:
        texts = {
            code: [
                line.strip()
                for line in archive.read(f"udhr2/{name}.txt").decode().split("\n")
                if line.strip()
            ]
            for name, code in DECLARATION.items()
            if f"udhr2/{name}.txt" in archive.namelist()
        }
    assert len(texts) >= 11
    rng = random.Random(0)
    right = wrong = missed = 0
    for own, lines in texts.items():
        assert keep_languages("\n\n".join(lines), [own]).cut == {}
        for other in texts.keys() - {own}:
            mixed = [(line, False) for line in lines]
            for line in rng.sample(texts[other], 12):
                mixed.insert(rng.randrange(3, len(mixed)), (line, True))
            left = Counter(
                keep_languages("\n\n".join(line for line, _ in mixed), [own], own).text.split("\n")
            )
            for line, foreign in mixed:
                stays = left[line] > 0
                left[line] -= stays
                right += len(line) * (foreign and not stays)
                wrong += len(line) * (not foreign and not stays)
                missed += len(line) * (foreign and stays)
    assert right / (right + wrong) > 0.99 and right / (right + missed) > 0.95
