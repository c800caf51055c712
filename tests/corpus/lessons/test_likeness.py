"""How near an answer comes to another, by the words they share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.lessons.likeness import Likeness

DOCUMENTED = [
    "`json.dumps`: Return the object as a string.",
    "`wave.open`: Return the file as a reader.",
    "`queue.Queue.put`: Return the item.",
    "`socket.SocketHandler.send`: 返回发送的字节数。",
]
LIKENESS = Likeness(DOCUMENTED)


@pytest.mark.parametrize(
    ("nearer", "farther"),
    [
        ("`json.dumps`: Return the object as a string.", "`json.dumps`: Return an object as a string."),
        ("`json.dumps`: Strings, objects.", "`json.dumps`: Return the."),
        ("`json.dumps`: Return the file.", "`json.loads`: Return the file."),
        ("`json.dumps`: Return.", "`json.dumps`: Return a thing which nobody has asked about."),
        ("`json.dumps`: Returns.", ""),
    ],
)
def test_rare_words_tell_most_and_idle_ones_cost(nearer: str, farther: str) -> None:
    assert LIKENESS(nearer, DOCUMENTED[0]) > LIKENESS(farther, DOCUMENTED[0])


def test_chinese_is_compared_by_characters() -> None:
    near, far = (f"`socket.SocketHandler.send`: {said}" for said in ("返回字节数。", "关闭连接。"))
    assert 1 > LIKENESS(near, DOCUMENTED[3]) > LIKENESS(far, DOCUMENTED[3]) > 0


@given(st.text(), st.text())
def test_it_is_a_share_and_the_same_both_ways(one: str, other: str) -> None:
    assert 0 <= LIKENESS(one, other) <= 1
    assert LIKENESS(one, other) == pytest.approx(LIKENESS(other, one))
    assert LIKENESS(one, one) in (0, pytest.approx(1))


def test_the_share_by_hand() -> None:
    """Of two documented answers both hold `get`, which weighs nothing; `item` and `file` weigh ln(3 / 2), a
    word that neither holds ln 3."""
    likeness = Likeness(["get item", "get file"])
    assert likeness("get file", "get item") == likeness("get", "get item") == 0
    assert likeness("item", "getItem") == pytest.approx(1)
    ratio = 0.36907024643  # ln(3 / 2) / ln 3
    assert likeness("other item", "get item") == pytest.approx(2 * ratio / (1 + 2 * ratio))
