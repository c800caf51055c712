"""Alarms ring when a policy has been collapsing for a while, once, and go on after a kill."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.generate.alarms import CollapseAlarms, distinct, repeats, sameness

FINE = {"repetition": 0.05, "distinct": 0.9, "length": 20.0, "entropy": 2.0, "kl": 3.0}


def watched(figures: list[dict[str, float]], alarms: CollapseAlarms | None = None) -> list[list[str]]:
    alarms = alarms or CollapseAlarms(kl_limit=9.0)
    return [alarms.watch(step, FINE | f) for step, f in enumerate(figures)]


@pytest.mark.parametrize(
    ("name", "bad", "bearable"),
    [
        ("repetition", 0.16, 0.14),
        ("distinct", 0.67, 0.68),
        ("length", 9.9, 10.0),
        ("length", 40.1, 40.0),
        ("entropy", 0.19, 0.21),
        ("kl", 9.1, 9.0),
    ],
)
def test_each_sign_rings_after_three_steps_and_once(name: str, bad: float, bearable: float) -> None:
    rung = watched([{}] + [{name: bad}] * 6)
    assert [len(r) for r in rung] == [0, 0, 0, 1, 0, 0, 0]
    assert rung[3][0].startswith(f"step 3: {name} is {bad:.3g} (")
    assert not any(watched([{}] + [{name: bearable}] * 6))


def test_patience_starts_again_when_all_is_well() -> None:
    bad = {"kl": 20.0}
    rung = watched([{}, bad, bad, {}, bad, bad, {}, bad, bad, bad, {}, bad, bad, bad])
    assert [step for step, r in enumerate(rung) if r] == [9, 13]


def test_several_ring_together_and_all_are_kept() -> None:
    alarms = CollapseAlarms(kl_limit=9.0, patience=1)
    watched([{}, {"kl": 10.0, "entropy": 0.0}], alarms)
    assert [sentence.split()[2] for sentence in alarms.rung] == ["entropy", "kl"]


@pytest.mark.parametrize("cut", range(6))
def test_going_on_after_a_kill_rings_the_same(cut: int) -> None:
    figures = [{}, {"kl": 10.0}, {"kl": 10.0, "length": 1.0}, *[{"kl": 10.0, "length": 1.0}] * 3]
    whole = CollapseAlarms(kl_limit=9.0)
    expected = watched(figures, whole)
    first = CollapseAlarms(kl_limit=9.0)
    rung = watched(figures[:cut], first)
    kept = json.loads(json.dumps([first.first, first.wrong, first.rung]))
    second = CollapseAlarms(9.0, 3, *kept)
    rung += [second.watch(cut + i, FINE | f) for i, f in enumerate(figures[cut:])]
    assert rung == expected and second.rung == whole.rung and len(whole.rung) == 2


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_repeats_is_what_a_slow_search_finds(ids: list[int], size: int, times: int) -> None:
    places = range(len(ids) - size + 1)
    most = max((sum(ids[j : j + size] == ids[i : i + size] for j in places) for i in places), default=0)
    assert repeats(ids, size, times) == (most >= times)


def test_a_normal_answer_does_not_repeat() -> None:
    assert not repeats(list(range(100))) and not repeats([]) and not repeats([1, 2, 3, 4] * 2)
    assert repeats([1, 2, 3, 4] * 3) and repeats([7] * 6)


def test_distinct_counts_different_runs_over_all_answers() -> None:
    assert distinct([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]], 4) == 3 / 4  # 1234 2345 | 2345 3456
    assert distinct([[1, 2, 3, 4]] * 10) == 0.1
    assert distinct([[1], [], [2, 3, 4]]) == 1.0
    assert distinct([[i, i + 100, i + 200, i + 300] for i in range(50)]) == 1.0


def test_sameness_is_the_share_of_other_prompts_that_get_the_same() -> None:
    everyone = sameness([[1, 2, 3, 4, 5]] * 5, range(5))
    assert everyone == [1.0] * 5
    half = sameness([[1, 2, 3, 4, 5], [1, 2, 3, 4, 9], [6, 7, 8, 9], [1, 2, 3]], range(4))
    assert half == pytest.approx([0.5 / 3, 0.5 / 3, 0.0, 0.0])  # one of two runs, one of three prompts
    assert sameness([[1, 2, 3, 4]] * 4, [0, 0, 0, 0]) == [0.0] * 4, "one prompt's own answers may be alike"
    assert sameness([[1, 2, 3, 4]] * 4, [0, 0, 1, 2]) == [1.0] * 4
    assert sameness([[1, 2, 3, 4] * 9, [1, 2, 3, 4]], [0, 1]) == pytest.approx([1 / 4, 1.0])
    assert sameness([[], [1]], [0, 1]) == [0.0, 0.0] and sameness([], []) == []
