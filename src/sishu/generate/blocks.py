"""Who owns which block of the cache: allotting, sharing what begins alike, giving back.

Memory for keys and values is cut into blocks of a few positions (Kwon et al. 2023, arXiv:2309.06180). A block
that is full is known by what it holds and all that stands before it, so that a text that begins like another
one takes its blocks instead of reading the beginning again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

Key = bytes
"""What a full block holds and everything before it, as a digest."""


def key_of(before: Key, ids: Sequence[int]) -> Key:
    """The key of a full block of these ids behind a block with the key `before` (b"" for the first)."""
    return blake2b(before + b"".join(i.to_bytes(4, "little") for i in ids), digest_size=16).digest()


class Blocks:
    """Counts the users of `count` blocks.

    A block without users whose contents have a key is kept until the room is needed, the longest unused
    first. Blocks of one text are allotted side by side where there is room (its home), because a run of
    neighbours is read without gathering.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._users = [0] * count
        self._keys: list[Key | None] = [None] * count
        self._by_key: dict[Key, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._home = [0] * count  # texts that expect to grow into this block
        self.free = count

    def users(self, block: int) -> int:
        """How many texts hold this block."""
        return self._users[block]

    def find(self, key: Key) -> int | None:
        """The block that holds what `key` stands for, if there is one."""
        return self._by_key.get(key)

    def share(self, block: int) -> None:
        """One more text holds this block."""
        if self._users[block] == 0:
            self._kept.pop(block, None)
            self.free -= 1
        self._users[block] += 1

    def allot(self, home: range) -> int | None:
        """A block for new contents, from `home` if one is free there; None where all are in use."""
        if self.free == 0:
            return None
        block = next((b for b in home if self._users[b] == 0), None)
        if block is None:
            block = self._anywhere()
        self._forget(block)
        self._users[block] = 1
        self.free -= 1
        return block

    def name(self, block: int, key: Key) -> None:
        """The block is full and holds what `key` stands for; a block that did so before keeps the name."""
        if key not in self._by_key and self._keys[block] is None:
            self._by_key[key] = block
            self._keys[block] = key

    def release(self, block: int) -> None:
        """One text less holds this block."""
        self._users[block] -= 1
        if self._users[block] == 0:
            self.free += 1
            if self._keys[block] is not None:
                self._kept[block] = None

    def settle(self, size: int) -> range:
        """A home: `size` neighbouring blocks that are free and nobody's home, those without kept contents
        first; the longest there is where none is long enough."""
        for kept_too in (False, True):
            best = range(0)
            start = 0
            for block in range(self.count + 1):
                if block < self.count and self._open(block, kept_too):
                    if block + 1 - start >= size:
                        return self._claim(range(start, block + 1))
                    continue
                if block - start > len(best):
                    best = range(start, block)
                start = block + 1
            if kept_too:
                return self._claim(best)
        raise AssertionError("one of the two passes returns")

    def leave(self, home: range) -> None:
        """A text that has ended needs its home no more."""
        for block in home:
            self._home[block] -= 1

    def _open(self, block: int, kept_too: bool) -> bool:
        return self._users[block] == 0 and not self._home[block] and (kept_too or self._keys[block] is None)

    def _claim(self, home: range) -> range:
        for block in home:
            self._home[block] += 1
        return home

    def _anywhere(self) -> int:
        """A free block: nobody's home and empty, else empty, else the one kept unused longest."""
        empty = [b for b in range(self.count) if self._users[b] == 0 and self._keys[b] is None]
        if empty:
            return next((b for b in empty if not self._home[b]), empty[0])
        return next(iter(self._kept))

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._by_key[key]
            self._keys[block] = None
        self._kept.pop(block, None)
