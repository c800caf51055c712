"""Each rule refuses what it is for; documentation, code and both kinds of script pass."""

import pytest

from sishu.corpus.judge import quality
from sishu.corpus.judge.quality import Thresholds, judge

PROSE = """The lighthouse keeper climbed the stairs every evening before dusk and trimmed the wick.
From the gallery he could see the fishing boats return, one after another, past the sandbar.
In winter the storms shook the tower so hard that the lamp had to be steadied by hand.
He wrote it all down in a ledger which nobody read until many years after his death."""

CHINESE = """我们将学习大规模部署系统，而非仅仅安装单台计算机。本章以不同的视角回到之前的几个方面。
守塔人每天傍晚登上楼梯，修剪灯芯，看渔船一只接一只地绕过沙洲归来。
冬天的风暴摇撼着高塔，他不得不用手扶住灯。这一切他都记在账簿里，死后多年才有人读到。"""

DOCUMENTATION = """class JSONDecoder(builtins.object)
JSONDecoder(*, object_hook=None, parse_float=None, parse_int=None, strict=True)

Simple JSON <https://json.org> decoder

+---------------+-------------------+
| JSON          | Python            |
+===============+===================+
| array         | list              |
| true          | True              |
+---------------+-------------------+

    >>> import json
    >>> json.loads('["foo", {"bar": ["baz", null, 1.0, 2]}]')
    ['foo', {'bar': ['baz', None, 1.0, 2]}]

decode(self, s, _w=<built-in method match of re.Pattern object at 0x…>)
Return the Python representation of ``s`` (a ``str`` instance
containing a JSON document)."""


@pytest.mark.parametrize("text", [PROSE, CHINESE, DOCUMENTATION])
def test_good_text_passes(text: str) -> None:
    assert judge(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n \n", "empty"),
        (PROSE + "\nLorem ipsum dolor sit amet", "lorem ipsum"),
        ("\n".join(f"- item number {i} of many" for i in range(30)), "bullet lines"),
        ("\n".join(f"Read about thing {i}..." for i in range(30)), "ellipsis lines"),
        ("\n".join([PROSE] * 3), "duplicate lines"),
        ("a b c d e f g h i j k l m n o p", "word length"),
        (" ".join("x" * 40 + str(i) for i in range(20)), "word length"),
        (" ".join(str(i) for i in range(1000, 1100)), "few alphabetic words"),
        ("#one #two #three four five six", "symbols"),
        ("cheap watches online " * 50, "repeated words"),
        ("buy the very best cheap watch " * 80 + "now", "repeated words"),
        ("澳门赌场最新网址" * 60, "repeated characters"),
        ("中！？！？！？！？。。。。。。。", "few letters"),
    ],
)  # fmt: skip
def test_each_rule_refuses(text: str, reason: str) -> None:
    assert judge(text) == reason


def test_long_cycles_are_refused() -> None:
    cycle = " ".join(f"{a}{b}" for a in ("red", "old", "wet", "far", "sea") for b in "abcdef")
    assert judge((cycle + " ") * 100) == "few distinct words"


def test_values() -> None:
    assert quality.mean_length(["ab", "abcd"]) == 3
    assert quality.alphabetic_words(["a1", "2", "="]) == pytest.approx(1 / 3)
    assert quality.symbol_words("# a ... b…", 6) == 0.5
    assert quality.bullet_lines(["- a", "1. b", "c", "-d"]) == 0.5
    assert quality.ellipsis_lines(["a...", "b… ", "c."]) == pytest.approx(2 / 3)
    assert quality.duplicate_lines(["a", " a", "b", "a"]) == 0.5
    assert quality.letters("ab 中1") == 0.75
    assert quality.top_run(["a", "b", "a", "b", "cc"], 2) == pytest.approx(4 / 6)
    assert quality.top_run(["a", "b", "c"], 2) == 0
    assert quality.top_run("中中国国", 1) == 0.5
    assert quality.distinct(["a", "a"]) == 0.5


def test_thresholds_decide_and_know_their_names() -> None:
    assert judge(PROSE, Thresholds(max_mean_word=4)) == "word length"
    with pytest.raises(ValueError, match="max_mean_wrod"):
        Thresholds(max_mean_wrod=4)  # type: ignore[call-arg]
