"""Conversations and ranked answers as padded tensors."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sishu.batches.batch import IGNORED, Batch, Stateless, draw, pad_right
from sishu.console import UserError
from sishu.tokenizer.chat import Conversation
from sishu.tokenizer.tokenizer import Tokenizer


def read_conversations(path: Path) -> list[dict[str, Any]]:
    """Conversations from JSONL (also .gz), one object with `messages` a line.

    Raises UserError naming the first line that is not one, and when there is none.
    """
    found: list[dict[str, Any]] = []
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # not splitlines(), which also cuts at U+2028 and U+0085: JSON may hold both inside a string
        lines = data.decode("utf-8-sig").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if "\\ud" in line.lower():
                write_conversations([item]).encode()  # raises ValueError for half a surrogate pair
            good = isinstance(item["messages"], list) and item["messages"][-1]["role"] == "assistant"
        except (ValueError, KeyError, TypeError, IndexError):
            good = False
        if not good:
            raise UserError(
                f'Line {number} of {path} is no conversation: it must be {{"messages": [{{"role": …, '
                '"content": …}, …]} ending with the assistant.'
            )
        found.append(item)
    if not found:
        raise UserError(f"{path} holds no conversations.")
    return found


def write_conversations(items: Sequence[Mapping[str, Any]]) -> str:
    """The JSONL text of conversations."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def encode_all(
    items: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, context_length: int
) -> list[Conversation]:
    """Encoded conversations that fit the context; longer ones are left out, never cut."""
    encoded = (tokenizer.encode_conversation(item["messages"]) for item in items)
    return [e for e in encoded if len(e.ids) <= context_length + 1]


def learning_batch(rows: Sequence[Conversation], pad: int, share: float) -> Batch:
    """`ids` and `targets`, both (B, T): targets are ignored outside answers and padding."""
    ids = pad_right([row.ids for row in rows], pad)
    targets = pad_right(
        [[i if m else IGNORED for i, m in zip(r.ids, r.mask, strict=True)] for r in rows],
        IGNORED,
    )
    tokens = sum(len(row.ids) - 1 for row in rows)
    return Batch({"ids": ids[:, :-1], "targets": targets[:, 1:]}, share, kind="tokens", tokens=tokens)


def in_micro_batches(
    rows: Sequence[Conversation], pad: int, micro_batch: int, share: float = 1.0
) -> list[Batch]:
    """One step's conversations, like lengths together, each micro-batch weighted by the tokens it learns."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    total = sum(sum(row.mask) for row in ordered)
    parts = [ordered[i : i + micro_batch] for i in range(0, len(ordered), micro_batch)]
    return [learning_batch(p, pad, share * sum(sum(r.mask) for r in p) / total) for p in parts]


class Conversations(Stateless):
    """Conversations for supervised fine-tuning: loss on the assistant's words only."""

    def __init__(
        self,
        rows: Sequence[Conversation],
        pad: int,
        batch: int,
        micro_batch: int,
        seed: int,
    ) -> None:
        self.rows, self.pad = rows, pad
        self.batch, self.micro_batch, self.seed = batch, micro_batch, seed

    def batches(self, step: int) -> list[Batch]:
        chosen = draw(len(self.rows), self.batch, step, "conversations", self.seed)
        return in_micro_batches([self.rows[i] for i in chosen], self.pad, self.micro_batch)


class Rankings(Stateless):
    """Answers to one prompt ranked best first, all K of a prompt in one element of the batch."""

    def __init__(
        self,
        prompts: Sequence[Sequence[list[int]]],
        pad: int,
        batch: int,
        micro_batch: int,
        seed: int,
    ) -> None:
        self.prompts, self.pad = prompts, pad
        self.batch, self.micro_batch, self.seed = batch, micro_batch, seed

    def batches(self, step: int) -> list[Batch]:
        """`ids` (B·K, T) in rank order within each prompt, `last` (B·K,) the index of each row's end."""
        chosen = [self.prompts[i] for i in draw(len(self.prompts), self.batch, step, "ranks", self.seed)]
        return [
            ranking_batch(part, self.pad, len(part) / len(chosen))
            for i in range(0, len(chosen), self.micro_batch)
            if (part := chosen[i : i + self.micro_batch])
        ]


def ranking_batch(prompts: Sequence[Sequence[list[int]]], pad: int, share: float) -> Batch:
    """See `Rankings.batches`; every prompt must have the same number of answers."""
    rows = [row for prompt in prompts for row in prompt]
    return Batch(
        {
            "ids": pad_right(rows, pad),
            "last": torch.tensor([len(row) - 1 for row in rows]),
        },
        share,
        kind=f"ranking of {len(prompts[0])}",
        tokens=sum(map(len, rows)),
    )
