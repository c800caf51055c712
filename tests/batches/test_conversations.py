"""Conversations from files to tensors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sishu.batches.batch import IGNORED
from sishu.batches.conversations import (
    Conversations,
    Rankings,
    encode_all,
    learning_batch,
    read_conversations,
    write_conversations,
)
from sishu.console import UserError
from sishu.tokenizer.chat import Conversation
from sishu.tokenizer.tokenizer import Tokenizer


def talk(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "group": "g",
    }


ITEMS = [talk("Hello?", "Hi 🙂"), talk("私塾？", "a\u2028b\u0085c\x0bd\x1ce\nf\r\n"), talk("", "")]


@pytest.mark.parametrize("name", ["talk.jsonl", "talk.jsonl.gz"])
@pytest.mark.parametrize("style", ["ours", "blank lines", "windows"])
def test_written_and_read(tmp_path: Path, name: str, style: str) -> None:
    text = write_conversations(ITEMS)
    assert "私塾" in text
    if style == "blank lines":
        text = "\n" + text.replace("\n", "\n\n \n")
    elif style == "windows":
        text = "\ufeff" + text.replace("\n", "\r\n")
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_conversations(tmp_path / name) == ITEMS


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "null",
        '{"messages": []}',
        '{"messages": "assistant"}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"text": "x"}',
        '{"messages": ["x"]}',
        '{"messages": [{"role": "assistant", "content": "half a pair: \\ud83d"}]}',
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(write_conversations(ITEMS[:1]) + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="Line 2 of"):
        read_conversations(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "not utf-8", "cut gzip", "bent gzip", "no gzip"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / ("talk.jsonl.gz" if "gzip" in damage else "talk.jsonl")
    packed = gzip.compress(write_conversations(ITEMS * 20).encode())
    contents = {
        "empty": b"\n",
        "not utf-8": b"\xff\xfe{}",
        "cut gzip": packed[:-20],
        "bent gzip": packed[:12] + b"\xff" * 30 + packed[42:],
        "no gzip": b"plain",
    }
    if damage != "missing":
        path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"talk\.jsonl"):
        read_conversations(path)


def test_what_does_not_fit_is_left_out_never_cut(tiny_tokenizer: Tokenizer) -> None:
    items = [talk("x" * n, "y") for n in range(30, 60)]
    lengths = [len(tiny_tokenizer.encode_conversation(i["messages"]).ids) for i in items]
    kept = encode_all(items, tiny_tokenizer, 40)
    # the last token is only ever a target, so one more than the context fits
    assert [len(k.ids) for k in kept] == [n for n in lengths if n <= 41]
    assert 41 in lengths and 42 in lengths
    assert learning_batch(kept, tiny_tokenizer.pad, 1.0)["ids"].shape[1] == 40


def test_targets_are_the_next_tokens_of_answers_only() -> None:
    rows = [
        Conversation([5, 6, 7, 8], [False, False, True, True]),
        Conversation([5, 9], [False, True]),
    ]
    batch = learning_batch(rows, pad=1, share=1.0)
    assert batch["ids"].tolist() == [[5, 6, 7], [5, 9, 1]]
    assert batch["targets"].tolist() == [[IGNORED, 7, 8], [9, IGNORED, IGNORED]]


def test_a_step_is_all_its_conversations_weighted_by_what_they_teach() -> None:
    rows = [Conversation([i] * (3 + i), [False, *[True] * (2 + i)]) for i in range(10)]
    source = Conversations(rows, pad=99, batch=4, micro_batch=3, seed=0)
    seen: list[int] = []
    for step in range(5):
        batches = source.batches(step)
        assert sum(b.share for b in batches) == pytest.approx(1.0)
        counted = [int((b["targets"] != IGNORED).sum()) for b in batches]
        assert [b.share for b in batches] == pytest.approx([c / sum(counted) for c in counted])
        seen += [int(i) for b in batches for i in b["ids"][:, 0]]
    assert sorted(seen[:8] + seen[8:10]) != seen[:10] and len(seen) == 20
    assert {seen.count(i) for i in range(10)} == {2}


def test_rankings_keep_the_order_of_ranks() -> None:
    prompts = [[[i, 10 + k, *[7] * k] for k in range(3)] for i in range(5)]
    source = Rankings(prompts, pad=99, batch=4, micro_batch=3, seed=0)
    batches = source.batches(0)
    assert [b.kind for b in batches] == ["ranking of 3"] * 2
    assert [b.share for b in batches] == pytest.approx([3 / 4, 1 / 4])
    for batch in batches:
        rows = batch["ids"].view(-1, 3, batch["ids"].shape[1])
        assert (rows[:, :, 0] == rows[:, :1, 0]).all() and (
            rows[:, :, 1] == 10 + rows.new_tensor(range(3))
        ).all()
        assert batch["last"].tolist() == [1, 2, 3] * len(rows)


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(talk("🙂", "🦉")) + "\n")
    assert read_conversations(tmp_path / "x.jsonl") == [talk("🙂", "🦉")]


def test_lines_are_json_objects() -> None:
    lines = write_conversations(ITEMS).rstrip("\n").split("\n")
    assert [json.loads(line) for line in lines] == ITEMS
