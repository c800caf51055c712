"""Rows of whole documents, which do not see each other."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sishu.batches.batch import Batch, Stateless, draw, shuffled
from sishu.batches.tokens import Ids

Numbers = npt.NDArray[np.int64]
Piece = tuple[int, int]
"""Where it starts among the tokens, and how many it has."""


@dataclass(frozen=True)
class Packing:
    """An epoch's rows: row r holds the pieces `begins[r]` to `begins[r + 1]`, each of neighbouring tokens."""

    starts: Numbers
    sizes: Numbers
    begins: Numbers

    def row(self, number: int) -> tuple[Numbers, Numbers]:
        """Starts and sizes of a row's pieces."""
        some = slice(self.begins[number], self.begins[number + 1])
        return self.starts[some], self.sizes[some]


class Packed(Stateless):
    """Rows of `context_length` tokens made of documents, each of which is to see itself alone.

    A document longer than a row is cut into as few pieces as it can be, at other places from epoch to epoch;
    what is shorter than a row is packed by best fit, the longest first (Ding et al. 2024, arXiv:2404.10830).
    Where that leaves more room than a row, the emptiest rows are taken apart and cut to fill the others. So
    an epoch has no more rows than its tokens need, every token is in it, and no padding: the room that is
    left, less than a row in all, is filled with beginnings of documents that come once more.

    A token's target is the one that follows it; a document's last one learns the token that begins the next.
    Everything is a function of the seed and the step.
    """

    def __init__(
        self, tokens: Ids, ends: Numbers, context_length: int, batch: int, micro_batch: int, seed: int
    ) -> None:
        """`ends` are the documents' ends, (D,), as `read_ends` has them."""
        self.tokens, self.ends, self.context_length = tokens, ends, context_length
        self.batch, self.micro_batch, self.seed = batch, min(micro_batch, batch), seed
        self.per_epoch = -(-len(tokens) // context_length)
        self._packings: dict[int, Packing] = {}

    def batches(self, step: int) -> list[Batch]:
        """Batches with `ids`, `targets` and `documents` (numbered within a row), all (B, T) int64."""
        places, documents = [], []
        for place, number in enumerate(draw(self.per_epoch, self.batch, step, "packed", self.seed)):
            starts, sizes = self._packing((step * self.batch + place) // self.per_epoch).row(number)
            within = np.arange(self.context_length) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            places.append(np.repeat(starts, sizes) + within)
            documents.append(np.repeat(np.arange(len(sizes)), sizes))
        at = np.stack(places)
        ids, targets = (self.tokens[(at + ahead) % len(self.tokens)].astype(np.int64) for ahead in (0, 1))
        whole = {"ids": ids, "targets": targets, "documents": np.stack(documents)}
        cut = [range(self.batch)[i : i + self.micro_batch] for i in range(0, self.batch, self.micro_batch)]
        return [
            Batch(
                {name: torch.from_numpy(x[rows.start : rows.stop]) for name, x in whole.items()},
                share=len(rows) / self.batch,
                kind="tokens",
            )
            for rows in cut
        ]

    def _packing(self, epoch: int) -> Packing:
        """An epoch's rows, kept for the steps that follow; a step may reach into the next epoch."""
        if epoch not in self._packings:
            self._packings = {e: p for e, p in self._packings.items() if abs(e - epoch) == 1}
            self._packings[epoch] = pack(self.ends, self.context_length, self.seed, epoch)
        return self._packings[epoch]


def pack(ends: Numbers, length: int, seed: int, epoch: int) -> Packing:
    """Rows of `length` tokens for an epoch; see `Packed`."""
    whole, short = _cut(ends, length, seed, epoch)
    wanted = -(-int(ends[-1]) // length) - len(whole)
    rows = sorted(_best_fit(short, length), key=lambda row: row.left)
    rows, emptiest = rows[:wanted], rows[wanted:]
    _fill(rows, [piece for row in emptiest for piece in row.pieces])
    _repeat(rows, ends, seed, epoch)
    pieces = [piece for row in rows for piece in row.pieces]
    both = np.array(pieces, dtype=np.int64).reshape(-1, 2)
    counts = np.array([1] * len(whole) + [len(row.pieces) for row in rows])
    return Packing(
        np.concatenate([whole, both[:, 0]]),
        np.concatenate([np.full(len(whole), length), both[:, 1]]),
        np.concatenate([[0], np.cumsum(counts)]),
    )


@dataclass
class _Row:
    pieces: list[Piece]
    left: int
    """Room for so many more tokens."""


def _cut(ends: Numbers, length: int, seed: int, epoch: int) -> tuple[Numbers, list[Piece]]:
    """Starts of the pieces that fill a row, and all others, the longest first. The one piece of a document
    that does not fill a row may be any of its pieces."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    sizes = ends - starts
    counts = -(-sizes // length)
    rest = sizes - (counts - 1) * length
    chance = random.Random(f"cut/{seed}/{epoch}")
    before = np.zeros_like(counts)  # how many full pieces stand before the one that is none
    for document in np.flatnonzero(counts > 1).tolist():
        before[document] = chance.randrange(int(counts[document]))
    full = np.repeat(np.arange(len(ends)), counts - 1)
    number = np.arange(len(full)) - np.repeat(np.cumsum(counts - 1) - (counts - 1), counts - 1)
    whole = starts[full] + number * length + np.where(number >= before[full], rest[full], 0)
    left = starts + before * length
    whole = np.concatenate([whole, left[rest == length]])
    order = np.array(shuffled(len(ends), "pack", seed, epoch))
    order = order[rest[order] < length]
    order = order[np.argsort(-rest[order], kind="stable")]
    return whole, list(zip(left[order].tolist(), rest[order].tolist(), strict=True))


def _best_fit(pieces: list[Piece], length: int) -> list[_Row]:
    """Each piece into the fullest row that has room for it."""
    rows: list[_Row] = []
    by_room: list[list[_Row]] = [[] for _ in range(length + 1)]
    rooms = 0  # bit n is set where there is a row with room for n tokens
    for piece in pieces:
        size = piece[1]
        if enough := rooms >> size:
            room = size + (enough & -enough).bit_length() - 1
            row = by_room[room].pop()
            rooms ^= 0 if by_room[room] else 1 << room
        else:
            row = _Row([], length)
            rows.append(row)
        row.pieces.append(piece)
        row.left -= size
        if row.left:
            by_room[row.left].append(row)
            rooms |= 1 << row.left
    return rows


def _fill(rows: list[_Row], pieces: list[Piece]) -> None:
    """Put pieces into the rows, the most room first, and cut those that there is no room for."""
    rooms = [(-row.left, number) for number, row in enumerate(rows) if row.left]
    heapq.heapify(rooms)
    for start, size in pieces:
        while size:
            row = rows[rooms[0][1]]
            some = min(size, row.left)
            row.pieces.append((start, some))
            row.left -= some
            start, size = start + some, size - some
            if row.left:
                heapq.heapreplace(rooms, (-row.left, rooms[0][1]))
            else:
                heapq.heappop(rooms)


def _repeat(rows: list[_Row], ends: Numbers, seed: int, epoch: int) -> None:
    """Fill what room is left with beginnings of documents, each in its turn."""
    turns, turn = shuffled(len(ends), "again", seed, epoch), 0
    for row in rows:
        while row.left:
            document = turns[turn % len(turns)]
            start = int(ends[document - 1]) if document else 0
            some = min(row.left, int(ends[document]) - start)
            row.pieces.append((start, some))
            row.left -= some
            turn += 1
