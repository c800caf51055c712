"""A glance at a page's language: sure of what is not wanted, silent in doubt."""

import pytest

from sishu.corpus.judge import page_language
from sishu.corpus.judge.page_language import is_surely_foreign
from tests.corpus.prose import PROSE

GERMAN = (
    """Die Fähre legte im Morgengrauen mit elf Fahrgästen, zwei Ziegen und einem Klavier ab.
Der Nebel lag so dicht über dem Fluss, dass der Kapitän nach den Glocken der Kirchen an beiden Ufern steuerte.
Gegen Mittag hob er sich, und das Tal war zu sehen: Weinberge, ein alter Turm, die weiße Straße nach Linz.
"""
    * 4
)
CODE = (
    """The quick start guide of the library, for readers of the manual and of the source code.
def read(path): return open(path).read().splitlines()  # 读取文件的每一行并返回列表，供后面的步骤使用
class Reader: the reader of pages takes the path of the file and the number of bytes to read at once
"""
    * 6
)
CHINESE = "河边的小镇每到春天都要举行一次集市，附近村庄的人带着布匹、蜂蜜和新做的木器来到这里。" * 20


def page(text: str, head: str = "<html>") -> str:
    body = "".join(f"<p class='paragraph'>{line}</p>\n" for line in text.split("\n"))
    script = "<script>function the_reader(is) { return the.words.of.this.page; }</script>" * 20
    return f"<!doctype html>{head}<head><title>x</title>{script}</head><body>{script}{body}</body></html>"


@pytest.mark.parametrize(
    ("text", "wanted", "foreign"),
    [
        (GERMAN, ["en"], True),
        (GERMAN, ["en", "de"], False),
        (CHINESE, ["en"], True),
        (CHINESE, ["zh"], False),
        (CHINESE, ["zh-Hans"], False),
        (CHINESE, ["zh-Hant"], True),
        (PROSE, ["en"], False),
        (PROSE, ["zh"], True),
        (PROSE + GERMAN, ["en"], False),  # in doubt
        (GERMAN, ["en", "xx"], True),  # a language of which nothing is known
        (GERMAN, ["xx"], True),
        (CODE, ["zh"], False),  # Chinese among English code
        (CODE, ["ja"], False),
        (CODE, ["en", "zh"], False),
        ("Kurz gesagt.", ["en"], False),
        ("", ["en"], False),
        ("0 1 2 3 " * 200, ["en"], False),
    ],
)
def test_what_is_surely_in_another_language(text: str, wanted: list[str], foreign: bool) -> None:
    assert is_surely_foreign(page(text), wanted) is foreign


def test_a_page_that_says_it_is_wanted_is_not_glanced_at() -> None:
    for head in ('<html lang="en">', "<HTML dir=ltr LANG='en-GB'>", "<html xml:lang=en lang=en>"):
        assert not is_surely_foreign(page(GERMAN, head), ["en"])
    assert is_surely_foreign(page(GERMAN, '<html lang="de">'), ["en"])
    assert is_surely_foreign(page(GERMAN, '<html lang="enm">'), ["en"])
    assert not is_surely_foreign(page(CHINESE, '<html lang="zh-CN">'), ["zh-Hant"])


def test_hostile_pages_are_soon_done() -> None:
    for hostile in ("<script " * 100_000, "<html " + "a" * 10**6, "<" * 10**6, "&" * 10**6, "<body" * 10**5):
        assert not is_surely_foreign(hostile, ["en"])


def test_what_the_letters_tell_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(text: str) -> tuple[str, float]:
        raise AssertionError

    monkeypatch.setattr(page_language, "identify", never)
    assert is_surely_foreign(page(GERMAN), ["en"])
    assert is_surely_foreign(page(GERMAN), ["zh", "en"])
    assert not is_surely_foreign(page(PROSE * 3), ["en"])
    assert not is_surely_foreign(page(GERMAN), ["de"])


def test_pages_that_are_mostly_tags_are_looked_at_longer() -> None:
    cells = "".join(f"<td class='{'x' * 60}'><a href='{'y' * 60}'>{w}</a></td>" for w in GERMAN.split())
    assert is_surely_foreign(f"<html><body><table><tr>{cells}</tr></table></body></html>", ["en"])
