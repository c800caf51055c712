"""Sums are written as they are read, what is asked is never taught, and exact means exact."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sishu.batches.batch import IGNORED
from sishu.models.decoder import Decoder
from sishu.road import make
from sishu.scaling.addition import (
    EQUALS,
    PLUS,
    STAGE,
    VOCABULARY,
    Accuracy,
    Additions,
    AdditionSettings,
    accuracy,
    encode,
    held_out,
    question_length,
)
from sishu.stages.shape import derive_shape

TINY = AdditionSettings.model_validate(
    {
        "digits": 1,
        "questions": 20,
        "model": {"depth": 1, "width": 32},
        "train": {"steps": 150, "batch": 32, "micro_batch": 32, "evaluate_every": 50},
    }
)


def read(row: list[int]) -> tuple[int, int, int]:
    """A row as a person reads it, the answer backwards."""
    plus, equals = row.index(PLUS), row.index(EQUALS)
    parts = (row[:plus], row[plus + 1 : equals], row[:equals:-1])
    a, b, answer = (int("".join(map(str, part))) for part in parts)
    return a, b, answer


@given(digits=st.integers(1, 9), data=st.data())
def test_a_row_says_what_the_sum_is(digits: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, 10**digits - 1)) for _ in range(2))
    row = encode(np.array([[a, b], [0, 0]]), digits)[0].tolist()
    assert read(row) == (a, b, a + b)
    assert len(row) == 3 * digits + 3 and row[question_length(digits) - 1] == EQUALS
    assert max(row) < VOCABULARY


@pytest.mark.parametrize(
    ("digits", "questions", "kept"), [(1, 1000, 50), (1, 20, 20), (2, 500, 500), (6, 70, 70)]
)
def test_no_question_is_taught(digits: int, questions: int, kept: int) -> None:
    held = held_out(digits, questions, 0)
    asked = set(map(tuple, held.tolist()))
    assert len(asked) == len(held) == kept
    assert held.min() >= 0 and held.max() < 10**digits
    source = Additions(digits, held, batch=64, micro_batch=48, seed=3)
    taught = [pair for step in range(30) for pair in map(tuple, source.pairs(step).tolist())]
    assert len(taught) == 30 * 64 and asked.isdisjoint(taught)
    if digits == 1:
        assert set(taught) | asked == {(a, b) for a in range(10) for b in range(10)}


def test_batches_depend_on_seed_and_step_alone() -> None:
    held = held_out(2, 10, 0)
    source, same, other = (Additions(2, held, 8, 6, seed) for seed in (1, 1, 2))
    for first, second in zip(source.batches(5), same.batches(5), strict=True):
        assert torch.equal(first["ids"], second["ids"]) and torch.equal(first["targets"], second["targets"])
    assert not torch.equal(source.batches(5)[0]["ids"], source.batches(6)[0]["ids"])
    assert not torch.equal(source.batches(5)[0]["ids"], other.batches(5)[0]["ids"])
    batches = source.batches(5)
    assert [len(batch["ids"]) for batch in batches] == [6, 2]
    assert sum(batch.share for batch in batches) == pytest.approx(1)
    whole = encode(source.pairs(5), 2)
    targets = torch.cat([batch["targets"] for batch in batches])
    assert (targets[:, : question_length(2) - 1] == IGNORED).all()
    assert targets[:, question_length(2) - 1 :].tolist() == whole[:, question_length(2) :].tolist()


@torch.no_grad()
def by_writing(model: Decoder, pairs: np.ndarray, digits: int) -> float:
    """The share of answers that come out right when the likeliest token is taken, one after the other."""
    rows = torch.from_numpy(encode(pairs, digits))
    ids = rows[:, : question_length(digits)]
    for _ in range(digits + 1):
        ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return float((ids == rows).all(-1).double().mean())


def test_a_model_learns_and_is_judged_as_if_it_wrote(tmp_path: Path) -> None:
    """Half learnt, so that some answers are right and some wrong; judged as by writing them."""
    shape = derive_shape(TINY.model, VOCABULARY)[0]
    model, pairs = Decoder(shape), held_out(1, 50, 0)
    model.initialise(0)
    nothing = accuracy(model.eval(), pairs, 1)
    assert nothing.exact < 0.1 and nothing.log_likelihood < -math.log(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    seen = []
    for step in range(120):
        rows = torch.from_numpy(encode(Additions(1, pairs[:0], 64, 64, 0).pairs(step), 1))
        logits = model(rows[:, :-1])[:, question_length(1) - 1 :]
        torch.nn.functional.cross_entropy(logits.mT, rows[:, question_length(1) :]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            found = accuracy(model, pairs, 1)
            assert found.exact == by_writing(model, pairs, 1)
            assert found.exact <= found.digits
            seen.append(found)
    assert any(0.1 < found.exact < 0.9 for found in seen)
    assert seen[-1].log_likelihood > nothing.log_likelihood + 1


def test_the_stage_learns_and_comes_out_the_same(tmp_path: Path) -> None:
    figures = []
    for name in ("one", "two"):
        manifest = make(STAGE, TINY, tmp_path / name, {}, 1).manifest("addition")
        assert manifest
        figures.append(manifest["figures"])
    assert figures[0] == figures[1]
    found = Accuracy(*(figures[0][name] for name in ("exact_match", "digit_accuracy", "log_likelihood")))
    assert found.log_likelihood > -1.5 and found.digits > 0.5
    assert figures[0]["examples"] == 150 * 32 and not (tmp_path / "one" / "addition" / "checkpoint").exists()
