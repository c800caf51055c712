"""Language identification: right on plain cases, deterministic, silent on wordless text."""

import pytest

from sishu.corpus.language import identify, is_unsegmented


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The committee will publish its findings next month, after a final reading.", "en"),
        ("我们将学习大规模部署系统，而非仅仅安装单台计算机。", "zh"),
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
    assert identify(english + chinese * 50)[0] == "zh"
    assert identify("hello\nworld\r\nagain") == identify("hello world again")


@pytest.mark.parametrize("text", ["", "  \n", "123 456", "--- !!! ---"])
def test_no_words_no_language(text: str) -> None:
    assert identify(text) == ("", 0.0)


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
