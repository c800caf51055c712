"""`sishu scaling --emergence` on real small models: what it prints, writes and skips."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from sishu import cli
from sishu.config import build
from sishu.console import UserError
from sishu.scaling.emergence import Emergence, EmergenceSettings, Size, accuracy_table, emergence

WORDS = ["widths=[32,8]", "seeds=2", "digits=1", "questions=20", "model.depth=1", "train.steps=60"]


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sishu", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_sizes_are_compared_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert command(monkeypatch, "scaling", "--emergence", *WORDS, "--run", folder, "-q") == 0
    said = capsys.readouterr().out
    assert "Sums of two numbers of 1 digit, 3,840 examples each" in said.replace("\n", " ")
    found = json.loads((folder / "emergence.json").read_text())
    assert [size["width"] for size in found["sizes"]] == [8, 32] and found["questions"] == 20
    small, large = found["sizes"]
    assert small["weights"] < large["weights"]
    assert sum(small["log_likelihood"]) < sum(large["log_likelihood"]) < 0
    for size in found["sizes"]:
        assert len(set(size["log_likelihood"])) == 2, "another seed is another model"
        for seed, exact in enumerate(size["exact"], 1):
            place = folder / f"width-{size['width']:04d}-seed-{seed}" / "addition" / "manifest.json"
            assert json.loads(place.read_text())["figures"]["exact_match"] == exact
        assert size["independent"] == sum(share**2 for share in size["digits"]) / 2
    page = (folder / "emergence.html").read_text(encoding="utf-8")
    assert "<script" not in page and page.count("<svg") == 4
    assert not re.search(r"(?:src|href)\s*=|url\(\s*['\"]?http|@import", page)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    assert emergence(WORDS, folder).sizes[1].exact == large["exact"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")} == before


def test_means_and_ranges_are_of_the_seeds() -> None:
    sizes = [Size(8, 1234, [0.0, 0.5], [0.5, 1.0], [-1.0, -0.25])]
    found = Emergence(digits=2, examples=64, questions=10, sizes=sizes)
    assert found.independent(sizes[0]) == (0.125 + 1) / 2
    row = accuracy_table(found).rows[0]
    assert list(row) == ["8", "1,234", "25%", "0%–50%", "56%", "75%", "-0.6250"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["widths=[4]"], "widths.0"),
        (["widths=[8,8]"], "give different numbers"),
        (["digit=3"], "unknown key 'digit' (did you mean 'digits'?)"),
        (["digits=10"], "digits"),
        (["seeds=0"], "seeds"),
    ],
)
def test_mistakes_are_told(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        emergence(words, tmp_path)


def test_what_is_given_in_part_keeps_the_rest() -> None:
    s = build(EmergenceSettings, {"train": {"steps": 5}, "model": {"depth": 1}}, "the task")
    assert s.train.batch == 64 and s.train.matrix_learning_rate is not None and s.model.context_length == 32
