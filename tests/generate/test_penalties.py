"""Penalties and biases, by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sishu.generate.penalties import TokenCounts, bias, penalise
from sishu.generate.sampling import Sampling


def test_penalties_worked_out_by_hand() -> None:
    """Prompt 0 0 1, completion 1 2 2 2: the repetition penalty counts both, the others the completion."""
    counts = TokenCounts([0, 0, 1], [1, 2, 2, 2])
    row = [[2.0, -2.0, 4.0, 1.0]]

    def after(**way: float) -> list[float]:
        logits = torch.tensor(row)
        penalise(logits, [Sampling(**way)], [counts])  # type: ignore[arg-type]  # all are numbers
        return logits[0].tolist()

    assert after(repetition_penalty=2.0) == [1.0, -4.0, 2.0, 1.0]
    assert after(presence_penalty=0.5) == [2.0, -2.5, 3.5, 1.0]
    assert after(frequency_penalty=0.5) == [2.0, -2.5, 2.5, 1.0]
    assert after(frequency_penalty=0.5, presence_penalty=1.0) == [2.0, -3.5, 1.5, 1.0]
    assert after(presence_penalty=-1.0) == [2.0, -1.0, 5.0, 1.0]
    assert after(repetition_penalty=2.0, frequency_penalty=0.5) == [1.0, -4.5, 0.5, 1.0]


def test_each_row_has_its_own_penalties_and_counts() -> None:
    logits = torch.ones(4, 3)
    ways = [
        Sampling(presence_penalty=1.0),
        Sampling(),
        Sampling(frequency_penalty=0.5),
        Sampling(repetition_penalty=4),
    ]
    counts = [TokenCounts([2], [0]), TokenCounts([], [0, 1, 2]), TokenCounts([], [1, 1]), TokenCounts([0, 2])]
    penalise(logits, ways, counts)
    assert logits.tolist() == [[0, 1, 1], [1, 1, 1], [1, 0, 1], [0.25, 1, 0.25]]


def test_biases_add_up_and_minus_100_excludes() -> None:
    logits = torch.zeros(3, 4)
    bias(
        logits, [Sampling(logit_bias=((0, 1.5), (2, -100.0))), Sampling(), Sampling(logit_bias=((3, 100.0),))]
    )
    assert logits.tolist() == [[1.5, 0, -torch.inf, 0], [0] * 4, [0, 0, 0, 100.0]]


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 200), max_size=300))
def test_counts_are_those_of_the_whole_text(prompt: list[int], completion: list[int]) -> None:
    grown = TokenCounts(prompt)
    half = TokenCounts(prompt)
    for place, token in enumerate(completion):
        if place == len(completion) // 2:
            half = grown.copy()
        grown.add(token)
    assert sorted(grown.ids.tolist()) == sorted({*prompt, *completion})
    times = dict(zip(grown.ids.tolist(), grown.times.tolist(), strict=True))
    assert all(times[token] == completion.count(token) for token in times)
    if completion:  # a copy goes its own way
        assert sum(half.times) == len(completion) // 2
