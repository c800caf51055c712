"""Tokens on disk and the windows cut from them."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.batches.tokens import Windows, document_start, read_documents, read_tokens, write_tokens
from sishu.console import UserError
from sishu.tokenizer.tokenizer import Tokenizer

TEXTS = ["The school opens.", "", "学而时习之 🙂", "<|bos|> is text here\n" * 5]


class Wide:
    """A tokenizer whose vocabulary does not fit 16 bits, with ids at its far end."""

    vocabulary_size, bos, bos_id = 70_000, 69_999, 69_999

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[69_000 + b for b in text.encode()] for text in texts]


@pytest.mark.parametrize("wide", [False, True])
def test_round_trip(tmp_path: Path, tiny_tokenizer: Tokenizer, wide: bool) -> None:
    tokenizer = Wide() if wide else tiny_tokenizer
    path = tmp_path / "train.bin"
    count = write_tokens(TEXTS, tokenizer, path)  # type: ignore[arg-type]
    expected = [[tokenizer.bos, *ids] for ids in tokenizer.encode_batch(TEXTS)]
    tokens = read_tokens(path, tokenizer.vocabulary_size)
    assert tokens.tolist() == [i for row in expected for i in row] and count == len(tokens)
    assert tokens.dtype == (np.uint32 if wide else np.uint16)
    assert path.stat().st_size == count * (4 if wide else 2)
    documents = read_documents(path, tokenizer.vocabulary_size)
    assert [d.tolist() for d in documents] == expected


def test_without_a_token_that_begins_a_text_documents_begin_with_the_end_of_the_last(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    foreign = copy.copy(tiny_tokenizer)
    foreign.bos_id = None
    write_tokens(TEXTS[:2], foreign, tmp_path / "train.bin")
    documents = read_documents(tmp_path / "train.bin", foreign.vocabulary_size)
    assert [d.tolist()[0] for d in documents] == [foreign.end, foreign.end]
    foreign.end_id = None
    with pytest.raises(UserError, match="no token that ends a text"):
        document_start(foreign)


@given(count=st.integers(1, 60), context=st.integers(1, 12), batch=st.integers(1, 5), micro=st.integers(1, 6))
@settings(deadline=None)
def test_an_epoch_of_windows_covers_every_token(count: int, context: int, batch: int, micro: int) -> None:
    tokens = np.arange(count, dtype=np.uint16)
    source = Windows(tokens, context, batch, micro, seed=0)
    rows: list[list[int]] = []
    for step in range(-(-source.per_epoch // batch)):
        batches = source.batches(step)
        assert sum(b.share for b in batches) == pytest.approx(1.0)
        assert max(len(b["ids"]) for b in batches) <= min(micro, batch)
        for b in batches:
            assert b["ids"].dtype == torch.int64 and b["ids"].shape == b["targets"].shape
            assert torch.equal(b["targets"], (b["ids"] + 1) % count), "the target is the next token of a ring"
            rows += b["ids"].tolist()
    inputs = Counter(i for row in rows[: source.per_epoch] for i in row)
    assert set(inputs) == set(range(count))
    assert max(inputs.values()) <= -(-source.per_epoch * context // count)


def test_the_offset_changes_from_epoch_to_epoch() -> None:
    tokens = np.arange(64, dtype=np.uint16)
    source = Windows(tokens, 16, 4, 4, seed=0)
    starts = [tuple(sorted(source.batches(step)[0]["ids"][:, 0].tolist())) for step in range(6)]
    assert len(set(starts)) > 2


def test_batches_are_a_pure_function_and_micro_batches_only_cut_them() -> None:
    tokens = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint16)
    whole, cut = Windows(tokens, 16, 8, 8, seed=3), Windows(tokens, 16, 8, 3, seed=3, share=0.5)
    for step in (5, 0, 5):
        assert torch.equal(whole.batches(step)[0]["ids"], torch.cat([b["ids"] for b in cut.batches(step)]))
    assert [b.share for b in cut.batches(0)] == pytest.approx([0.5 * 3 / 8, 0.5 * 3 / 8, 0.5 * 2 / 8])
    other = Windows(tokens, 16, 8, 8, seed=4)
    assert not torch.equal(whole.batches(0)[0]["ids"], other.batches(0)[0]["ids"])
