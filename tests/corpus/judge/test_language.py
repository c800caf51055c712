"""Language identification: right on plain cases, deterministic, silent on wordless text."""

from __future__ import annotations

import zipfile

import pytest

from sishu.corpus.judge.language import chinese_script, identify, is_one_of, is_unsegmented
from tests.shared_data import shared_data


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The committee will publish its findings next month, after a final reading.", "en"),
        ("我们将学习大规模部署系统，而非仅仅安装单台计算机。", "zh-Hans"),
        ("鑒於對人類家庭所有成員的固有尊嚴及其平等的和不移的權利的承認。", "zh-Hant"),
        ("父母对其子女所应受的教育的种类,有优先选择的权利。", "zh-Hans"),  # fastText alone says Japanese
        ("이 장에서는 앞에서 이미 설명한 몇 가지 측면을 다시 살펴봅니다.", "ko"),
        ("この章では、前章までに説明した一部の側面をもう一度取り上げます。", "ja"),
        ("Dieses Kapitel greift noch einmal einige Aspekte auf.", "de"),
        ("Эта глава возвращается к некоторым аспектам, уже описанным ранее.", "ru"),
    ],
)
def test_languages(text: str, code: str) -> None:
    found, score = identify(text)
    assert found == code
    assert 0.5 < score <= 1
    assert identify(text) == (found, score)


def test_the_whole_text_counts_and_line_ends_do_not() -> None:
    english, chinese = "one two three\n", "我们将学习大规模部署系统，而非仅仅安装单台计算机。\n"
    assert identify(english + chinese * 50)[0] == "zh-Hans"
    assert identify("hello\nworld\r\nagain") == identify("hello world again")


@pytest.mark.parametrize("text", ["", "  \n", "123 456", "--- !!! ---"])
def test_no_words_no_language(text: str) -> None:
    assert identify(text) == ("", 0.0)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("头发", "zh-Hans"),
        ("頭髮", "zh-Hant"),
        ("床前明月光", "zh"),  # the same in both
        ("他说「頭」字的简体是头，这里说的是汉字。", "zh-Hans"),
        ("", "zh"),
    ],
)
def test_chinese_scripts(text: str, script: str) -> None:
    assert chinese_script(text) == script


def test_chinese_is_wanted_in_any_script_or_in_one() -> None:
    assert (
        is_one_of("zh-Hant", ["en", "zh"]) and is_one_of("zh-Hant", ["zh-Hant"]) and is_one_of("en", ["en"])
    )
    assert (
        not is_one_of("zh-Hant", ["zh-Hans"]) and not is_one_of("en", ["zh"]) and not is_one_of("zhx", ["zh"])
    )


def test_broken_characters_do_not_raise() -> None:
    assert identify("hello \ud800 there \x00 friend, how are you today?")[0] == "en"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("床前明月光", True),
        ("ภาษาไทยไม่มีช่องว่าง", True),
        ("用 Python 的 json 模块读取文件，然后写回磁盘。", True),
        ("The word 中文 means Chinese, as everybody in the room knew.", False),
        ("한국어는 띄어쓰기를 한다", False),
        ("", False),
    ],
)
def test_unsegmented_scripts(text: str, expected: bool) -> None:
    assert is_unsegmented(text) is expected


DECLARATION = {  # files of the Universal Declaration of Human Rights, one language each
    "arb": "ar", "bul": "bg", "cat": "ca", "ces": "cs", "cmn_hans": "zh-Hans", "cmn_hant": "zh-Hant",
    "dan": "da", "deu": "de", "ell_monotonic": "el", "eng": "en", "fin": "fi", "fra": "fr", "heb": "he",
    "hin": "hi", "hrv": "hr", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl",
    "nob": "no", "pes_1": "fa", "pol": "pl", "por_BR": "pt", "ron": "ro", "rus": "ru", "spa": "es",
    "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip


def test_the_declaration_of_human_rights() -> None:
    """Every whole text, and nearly every paragraph: East Asian ones and the Chinese scripts told apart."""
    with zipfile.ZipFile(shared_data("nltk-corpora/udhr2.zip")) as archive:
        texts = {code: archive.read(f"udhr2/{name}.txt").decode() for name, code in DECLARATION.items()}
    assert {code: identify(text)[0] for code, text in texts.items()} == {code: code for code in texts}
    for code in ("zh-Hans", "zh-Hant", "ja", "ko"):
        paragraphs = [line for line in texts[code].split("\n") if len(line) > 30]
        right = sum(identify(line)[0] == code for line in paragraphs)
        assert len(paragraphs) > 35 and right == len(paragraphs), code
