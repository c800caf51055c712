"""Documents packed into rows: nothing wasted, and each as if it were alone."""

from __future__ import annotations

import copy
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.batches.packed import Packed, Packing, pack
from sishu.models.decoder import Decoder
from sishu.native import training
from sishu.native.build import library
from sishu.objectives.language import next_token

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def ends_of(sizes: list[int]) -> np.ndarray:
    return np.cumsum(sizes).astype(np.int64)


def pieces(packing: Packing) -> list[tuple[int, int]]:
    return list(zip(packing.starts.tolist(), packing.sizes.tolist(), strict=True))


def fewest(sizes: list[int], length: int) -> int:
    """Pieces where none is cut that fits."""
    return sum(-(-size // length) for size in sizes)


def naive_rows(sizes: list[int], length: int) -> int:
    """Rows that best fit, the longest first, takes, by looking at each."""
    rooms: list[int] = []
    for size in sorted(((s - 1) % length + 1 for s in sizes), reverse=True):
        fitting = [n for n, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda n: rooms[n])] -= size
        else:
            rooms.append(length - size)
    return len(rooms) + sum((size - 1) // length for size in sizes)


@given(SIZES, st.integers(1, 20), st.integers(0, 3), st.integers(0, 3))
def test_every_token_is_there_and_nothing_is_wasted(
    sizes: list[int], length: int, seed: int, epoch: int
) -> None:
    ends = ends_of(sizes)
    total, packing = int(ends[-1]), pack(ends_of(sizes), length, seed, epoch)
    rows = len(packing.begins) - 1
    assert rows == -(-total // length)
    seen = Counter(at for start, size in pieces(packing) for at in range(start, start + size))
    assert set(seen) == set(range(total))
    assert sum(seen.values()) == rows * length, "no padding; less than a row comes twice"
    for number in range(rows):
        assert packing.row(number)[1].sum() == length
    for start, size in pieces(packing):
        document = int(np.searchsorted(ends, start, side="right"))
        assert size >= 1 and start + size <= ends[document], "no piece goes beyond its document"


@given(SIZES, st.integers(1, 20))
def test_documents_are_cut_only_where_room_would_be_wasted(sizes: list[int], length: int) -> None:
    ends = ends_of(sizes)
    packing = pack(ends, length, 0, 0)
    needed, best_fit = -(-sum(sizes) // length), naive_rows(sizes, length)
    assert best_fit >= needed
    begins = Counter(start for start, _ in pieces(packing))
    starts = {0, *ends[:-1].tolist()}
    inner = sum(count for start, count in begins.items() if start not in starts)
    if best_fit == needed:
        assert inner == fewest(sizes, length) - len(sizes)


def test_short_documents_that_fit_are_whole() -> None:
    chance = random.Random(0)
    sizes = [chance.randrange(1, 60) for _ in range(5000)]
    packing = pack(ends_of(sizes), 64, 0, 0)
    whole = set(zip([0, *ends_of(sizes)[:-1].tolist()], sizes, strict=True))
    assert len(packing.begins) - 1 == -(-sum(sizes) // 64)
    assert len(whole - set(pieces(packing))) <= 0.01 * len(sizes), "one in a hundred is cut to leave no room"


def test_rows_too_large_for_two_are_taken_apart() -> None:
    """No two of these fit a row: by best fit alone two fifths of every row would be padding."""
    packing = pack(ends_of([60] * 50), 100, 0, 0)
    assert len(packing.begins) - 1 == 30
    assert sorted(Counter(packing.sizes.tolist())) == [20, 40, 60]


def test_a_long_document_is_cut_elsewhere_in_another_epoch() -> None:
    cuts = [tuple(sorted(pack(ends_of([250, 40]), 100, 0, epoch).starts.tolist())) for epoch in range(8)]
    assert len(set(cuts)) > 1
    for starts in cuts:
        assert {0, 250} <= set(starts) and len(starts) <= 6


def a_corpus(seed: int = 0, count: int = 40, most: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Documents that each begin with token 1 and hold it nowhere else."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most, count)
    tokens = rng.integers(6, 300, sizes.sum()).astype(np.uint16)
    ends = np.cumsum(sizes)
    tokens[[0, *ends[:-1]]] = 1
    return tokens, ends


def test_batches_are_a_pure_function_and_micro_batches_only_cut_them() -> None:
    tokens, ends = a_corpus()
    whole, cut = Packed(tokens, ends, 16, 8, 8, seed=3), Packed(tokens, ends, 16, 8, 3, seed=3)
    for step in (40, 0, 11, 40):  # also back from a later epoch
        parts = cut.batches(step)
        for name in ("ids", "targets", "documents"):
            joined = torch.cat([b[name] for b in parts])
            assert torch.equal(whole.batches(step)[0][name], joined) and joined.dtype == torch.int64
        assert [b.share for b in parts] == pytest.approx([3 / 8, 3 / 8, 2 / 8])
    fresh = Packed(tokens, ends, 16, 8, 8, seed=3)
    assert torch.equal(fresh.batches(11)[0]["ids"], whole.batches(11)[0]["ids"]), "no step needs another"
    other = Packed(tokens, ends, 16, 8, 8, seed=4)
    assert not torch.equal(whole.batches(0)[0]["ids"], other.batches(0)[0]["ids"])
    assert whole.state() == {}


def test_the_order_is_fixed_for_all_machines() -> None:
    source = Packed(np.arange(30, dtype=np.uint16), ends_of([3, 9, 2, 5, 11]), 8, 4, 4, seed=1)
    (batch,) = source.batches(0)
    assert batch["ids"].tolist() == [
        [14, 15, 16, 17, 18, 0, 1, 2],
        [19, 20, 21, 22, 23, 24, 25, 26],
        [4, 5, 6, 7, 8, 9, 10, 11],
        [27, 28, 29, 12, 13, 3, 14, 15],
    ]
    assert batch["documents"].tolist() == [[0] * 5 + [1] * 3, [0] * 8, [0] * 8, [0] * 3 + [1] * 2 + [2, 3, 3]]


def test_a_target_is_the_next_token_and_the_last_one_learns_the_next_beginning() -> None:
    tokens, ends = a_corpus()
    source, seen = Packed(tokens, ends, 16, 4, 4, seed=0), Counter[tuple[int, int]]()
    for step in range(-(-source.per_epoch // 4)):
        for batch in source.batches(step):
            for ids, targets, documents in zip(
                *(batch[n] for n in ("ids", "targets", "documents")), strict=True
            ):
                for (a, b), same in zip(pairwise(range(16)), documents[1:] == documents[:-1], strict=True):
                    assert not same or targets[a] == ids[b]
                seen.update(zip(ids.tolist(), targets.tolist(), strict=True))
    following = Counter(zip(tokens.tolist(), np.roll(tokens, -1).tolist(), strict=True))
    assert set(following) <= set(seen) and following[(1, 1)] > 0, "an empty document is one token"


@pytest.mark.parametrize("sizes", [[1], [3], [16], [17], [5, 1, 1]])
def test_a_corpus_may_be_smaller_than_a_row(sizes: list[int]) -> None:
    tokens = np.arange(sum(sizes), dtype=np.uint16)
    source = Packed(tokens, ends_of(sizes), 16, 3, 2, seed=0)
    for step in range(3):
        batches = source.batches(step)
        assert [tuple(b["ids"].shape) for b in batches] == [(2, 16), (1, 16)]
        assert torch.equal(batches[0]["targets"], (batches[0]["ids"] + 1) % sum(sizes))


def test_small_corpora_take_turns_in_filling_a_row() -> None:
    packing = pack(ends_of([3, 3, 3]), 24, 0, 0)
    assert sorted(Counter(packing.starts.tolist()).values()) == [2, 3, 3]
    assert set(packing.sizes.tolist()) == {3}


def gradients(model: Decoder, batches: list[Batch], bf16: bool) -> tuple[float, dict[str, Tensor]]:
    model, total = copy.deepcopy(model).train(), 0.0
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = next_token(model, batch).total * batch.share
        loss.backward()
        total += float(loss.detach())
    return total, {n: w.grad for n, w in model.named_parameters() if w.grad is not None}


def alone(batches: list[Batch]) -> list[Batch]:
    """Each document of each row in a batch of its own, weighted by its tokens."""
    count = sum(b["ids"].numel() for b in batches)
    found = []
    for batch in batches:
        for ids, targets, documents in zip(*(batch[n] for n in ("ids", "targets", "documents")), strict=True):
            for number in documents.unique():
                own = documents == number
                tensors = {"ids": ids[own][None], "targets": targets[own][None]}
                found.append(Batch(tensors, share=int(own.sum()) / count))
    return found


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bf16", [False, True])
def test_packed_is_separate(
    tiny_decoder: Decoder, compiled: bool, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of packed rows are those of each document alone."""
    if compiled and library() is None:
        pytest.skip("needs a C++ compiler")
    if not compiled:
        monkeypatch.setattr(training, "knows", lambda *_: False)
    tokens, ends = a_corpus()
    batches = Packed(tokens, ends, 64, 6, 4, seed=0).batches(0)
    assert all(int(b["documents"].max()) >= 1 for b in batches)
    loss_a, a = gradients(tiny_decoder, batches, bf16)
    loss_b, b = gradients(tiny_decoder, alone(batches), bf16)
    assert loss_a == pytest.approx(loss_b, rel=2e-3 if bf16 else 1e-6)
    assert a.keys() == b.keys() and len(a) > 10
    for name in a:
        if bf16:  # one rounding here and another there
            assert (a[name] - b[name]).norm() < 0.02 * b[name].norm(), name
        else:
            torch.testing.assert_close(
                a[name], b[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
            assert (a[name] - b[name]).abs().max() <= 1e-5
    together = [Batch({k: v for k, v in x.tensors.items() if k != "documents"}, x.share) for x in batches]
    loss_c, _ = gradients(tiny_decoder, together, bf16)
    assert abs(loss_c - loss_b) > 1e-3, "documents that see each other have another loss"
