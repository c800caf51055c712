"""A corpus as one long row of tokens, and windows cut from it for next-token training."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sishu.batches.batch import Batch, Stateless, draw, shuffled
from sishu.files import whole, write_atomic
from sishu.tokenizer.tokenizer import Tokenizer

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

TEXTS_AT_ONCE = 1000
"""Texts encoded together."""


def document_start(tokenizer: Tokenizer) -> int:
    """The token before each document: the one that begins a text, or, where a foreign tokenizer has none, the
    one that ends the text before. Raises UserError where it has neither."""
    return tokenizer.end if tokenizer.bos_id is None else tokenizer.bos_id


def write_tokens(texts: Iterable[str], tokenizer: Tokenizer, path: Path) -> int:
    """Write `<bos> text <bos> text …` as flat little-endian uint16 (uint32 above 65,536 tokens) at `path`
    and the documents' ends as uint64 beside it (`.ends`); `<bos>` is what `document_start` says. Returns the
    number of tokens. Texts are taken a few at a time, so that only the ends are held in memory."""
    kind = "<u2" if tokenizer.vocabulary_size <= 2**16 else "<u4"
    ends, total, start = [], 0, document_start(tokenizer)
    waiting = iter(texts)
    with whole(path) as unfinished, unfinished.open("wb") as file:
        while some := list(islice(waiting, TEXTS_AT_ONCE)):
            rows = [[start, *ids] for ids in tokenizer.encode_batch(some)]
            np.fromiter((i for row in rows for i in row), dtype=kind).tofile(file)
            for row in rows:
                total += len(row)
                ends.append(total)
    write_atomic(path.with_suffix(".ends"), np.array(ends, "<u8").tobytes())
    return total


def read_tokens(path: Path, vocabulary: int) -> Ids:
    """The tokens written by `write_tokens`, mapped into memory."""
    return np.memmap(path, dtype="<u2" if vocabulary <= 2**16 else "<u4", mode="r")


def read_documents(path: Path, vocabulary: int) -> list[Ids]:
    """The same tokens, one array a document, each starting with its `<bos>`."""
    ends = read_ends(path).tolist()
    tokens = read_tokens(path, vocabulary)
    return [tokens[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def read_ends(path: Path) -> npt.NDArray[np.int64]:
    """Where each document that `write_tokens` wrote ends, (D,)."""
    return np.fromfile(path.with_suffix(".ends"), dtype="<u8").astype(np.int64)


class Windows(Stateless):
    """Windows of `context_length` + 1 tokens, in a fresh order and from a fresh offset every epoch.

    The corpus is a ring: it may be shorter than one window, and no token is left out.
    """

    def __init__(
        self,
        tokens: Ids,
        context_length: int,
        batch: int,
        micro_batch: int,
        seed: int,
        share: float = 1.0,
    ) -> None:
        self.tokens, self.context_length = tokens, context_length
        self.batch, self.micro_batch = batch, min(micro_batch, batch)
        self.seed, self.share = seed, share
        self.per_epoch = -(-len(tokens) // context_length)

    def batches(self, step: int) -> list[Batch]:
        """Batches with `ids` and `targets`, both (B, T) int64."""
        span = np.arange(self.context_length + 1)
        rows = []
        for place, window in enumerate(draw(self.per_epoch, self.batch, step, "windows", self.seed)):
            epoch = (step * self.batch + place) // self.per_epoch
            offset = _offset(self.context_length, self.seed, epoch)
            at = (offset + window * self.context_length + span) % len(self.tokens)
            rows.append(self.tokens[at])
        ids = torch.from_numpy(np.stack(rows).astype(np.int64))
        return [
            Batch(
                {"ids": part[:, :-1], "targets": part[:, 1:]},
                share=self.share * len(part) / len(ids),
                kind="tokens",
            )
            for part in torch.split(ids, self.micro_batch)
        ]


@lru_cache(maxsize=16)
def _offset(context_length: int, seed: int, epoch: int) -> int:
    """Where the first window of an epoch begins."""
    return shuffled(context_length, "offset", seed, epoch)[0]
