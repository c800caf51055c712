"""Reading a run folder: resumed metrics, broken lines, samples of the rejects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from sishu.report.figures import number, read_run

Run = Callable[..., Path]


def test_resumed_metrics_are_merged_and_broken_lines_passed_over(make_run: Run) -> None:
    run = make_run(steps=5)
    lines = [
        '{"step": 0, "seconds": 1, "loss": 9}',
        '{"step": 10, "seconds": 2, "loss": 5}',
        '{"step": 20, "seconds": 3, "loss": 99}',
        '{"step": 10, "seconds": 2, "validation_loss": 6}',
        '{"step": 20, "seconds": 4, "loss": 4}',
        '{"step": 30, "seconds": 5, "loss": NaN}',
        "[1, 2]",
        '{"step": "x", "loss": 1}',
        '{"step": 40, "lo',
    ]
    (run / "pretrain" / "metrics.jsonl").write_text("\n".join(lines))
    stage = read_run(run).stages["pretrain"]
    assert stage.curve("loss") == [(0, 9), (10, 5), (20, 4)]
    assert stage.curve("validation_loss") == [(10, 6)]


def test_stages_stand_in_the_order_of_the_road(make_run: Run) -> None:
    run = make_run(steps=5)
    for name in ("dpo", "report", "notes"):
        (run / name).mkdir()
    (run / "dpo" / "manifest.json").write_text("{}")
    (run / "report" / "manifest.json").write_text("{}")
    names = [
        "crawl",
        "corpus",
        "tokenizer",
        "pretrain",
        "sft",
        "reward",
        "ppo",
        "eval",
        "dpo",
    ]
    stages = read_run(run).stages
    assert list(stages) == names
    assert [stage.number for stage in stages.values()] == list(range(1, 10))


def test_rejects_are_the_first_few_of_each_reason(make_run: Run) -> None:
    figures = read_run(make_run(steps=5))
    reasons = [reject["reason"] for reject in figures.rejects]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == {
        "too short": 2,
        "mostly symbols": 2,
        "repeated lines": 2,
    }


def test_number_takes_numbers_only() -> None:
    data = json.loads('{"a": {"b": 2}, "t": true, "s": "3", "n": NaN, "i": -Infinity}')
    data["huge"] = 10**400
    assert number(data, "a", "b") == 2
    for path in (
        ("t",),
        ("s",),
        ("n",),
        ("i",),
        ("huge",),
        ("a",),
        ("a", "b", "c"),
        ("zz",),
    ):
        assert number(data, *path) is None
    assert number(math.pi) == math.pi
