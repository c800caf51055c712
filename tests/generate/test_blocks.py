"""Blocks: nobody's is given away, what is kept is found, a home is a run of neighbours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sishu.generate.blocks import Blocks, key_of


@given(st.integers(1, 24), st.lists(st.integers(0, 10**6), min_size=10, max_size=200))
def test_books_balance(count: int, choices: list[int]) -> None:
    """Texts come, grow, share and leave at random: a block in use is never allotted, and the numbers of users
    and of free blocks are those that a plain count gives."""
    blocks = Blocks(count)
    texts: list[tuple[list[int], range]] = []
    named = 0
    for choice in choices:
        kind = choice % 4
        if kind == 0 or not texts:
            texts.append(([], blocks.settle(1 + choice % 5)))
        elif kind == 1:
            mine, home = texts[choice % len(texts)]
            used = {b for held, _ in texts for b in held}
            block = blocks.allot(home)
            assert (block is None) == (len(used) == count)
            if block is not None:
                assert block not in used
                mine.append(block)
        elif kind == 2 and texts[choice % len(texts)][0]:
            block = texts[choice % len(texts)][0][-1]
            key = key_of(b"", [named])
            blocks.name(block, key)
            named += 1
            found = blocks.find(key)
            if found is not None:
                blocks.share(found)
                texts.append(([found], range(0)))
        else:
            held, home = texts.pop(choice % len(texts))
            for block in reversed(held):
                blocks.release(block)
            blocks.leave(home)
        for block in range(count):
            assert blocks.users(block) == sum(held.count(block) for held, _ in texts)
        assert blocks.free == sum(blocks.users(block) == 0 for block in range(count))


def test_what_is_kept_longest_unused_goes_first() -> None:
    blocks = Blocks(3)
    keys = [key_of(b"", [n]) for n in range(3)]
    for key in keys:
        block = blocks.allot(range(0))
        assert block is not None
        blocks.name(block, key)
    for key in (keys[1], keys[0], keys[2]):
        found = blocks.find(key)
        assert found is not None
        blocks.release(found)
    blocks.allot(range(0))
    assert [blocks.find(key) is None for key in keys] == [False, True, False]
    found = blocks.find(keys[0])
    assert found is not None
    blocks.share(found)
    blocks.allot(range(0))
    assert [blocks.find(key) is None for key in keys] == [False, True, True]
    assert blocks.allot(range(0)) is None and blocks.free == 0


def test_keys_tell_what_stands_before() -> None:
    one, other = key_of(b"", [1, 2]), key_of(b"", [1, 3])
    assert key_of(one, [4]) != key_of(other, [4]) and key_of(one, [4]) == key_of(one, [4])


def test_texts_settle_side_by_side() -> None:
    blocks = Blocks(10)
    first, second = blocks.settle(4), blocks.settle(4)
    assert (list(first), list(second)) == ([0, 1, 2, 3], [4, 5, 6, 7])
    grown = []
    for _ in range(4):
        grown += [(blocks.allot(first), blocks.allot(second))]
    assert grown == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert list(blocks.settle(5)) == [8, 9], "the longest there is"

    assert blocks.allot(range(0)) in (8, 9)
