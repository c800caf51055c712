"""What is shown while waiting, and `metrics.jsonl` over a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sishu import console
from sishu.console import Metrics, counted, progress, say, set_quiet, show_table, warn


@pytest.fixture(autouse=True)
def not_quiet() -> None:
    set_quiet(False)


class Clock:
    """Stands in for the time module, so that waiting takes no time."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_one_is_no_plural() -> None:
    said = [counted(number, "document") for number in (0, 1, 2, 2000)]
    assert said == ["0 documents", "1 document", "2 documents", "2,000 documents"]


def test_off_a_terminal_progress_is_a_plain_line_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("pretrain", 1000, "steps") as bar:
        clock.now += 1
        bar.advance(10)
        assert capsys.readouterr().out == ""  # nothing in the first moments
        for _ in range(39):  # 39 s
            clock.now += 1
            bar.advance(10, "loss 3.210")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "pretrain: 150/1,000 steps, 10.0 steps/s, 85 s left, loss 3.210",
        "pretrain: 300/1,000 steps, 10.0 steps/s, 70 s left, loss 3.210",
    ]


def test_the_last_unit_is_always_told_once_there_was_a_wait(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("short", 2, "steps") as bar:
        bar.advance()
        bar.advance()
    assert capsys.readouterr().out == ""
    with progress("longer", 2, "steps") as bar:
        bar.advance()
        clock.now += 4
        bar.advance()
    assert capsys.readouterr().out == "longer: 2/2 steps, 0.5 steps/s, 0 s left\n"


def test_the_rate_of_resumed_work_counts_only_what_was_done_now(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("sft", 1000, "steps", done=900) as bar:
        clock.now += 20
        bar.advance(20)
    assert capsys.readouterr().out == "sft: 920/1,000 steps, 1.0 steps/s, 80 s left\n"


def test_work_of_unknown_length_has_no_remaining_time(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("crawl", None, "pages") as bar:
        clock.now += 20
        bar.advance(5, "http://a/[b]")
    assert capsys.readouterr().out == "crawl: 5 pages, 0.2 pages/s, http://a/[b]\n"


def test_quiet_silences_all_but_results_and_warnings(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    set_quiet(True)
    say("not told")
    with progress("work", 10, "steps") as bar:
        clock.now += 60
        bar.advance(10)
    assert capsys.readouterr() == ("", "")
    show_table("Result", ["", "bits"], [("x[1]", "2.5")])
    warn("mind this")
    out, err = capsys.readouterr()
    assert "x[1]" in out and "2.5" in out
    assert err == "mind this\n"


def test_markup_in_a_text_is_shown_and_long_lines_are_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]私塾[/bold] " + "word " * 60 + "[/]"
    say(text)
    assert capsys.readouterr().out == text + "\n"


def test_output_in_an_ascii_locale_does_not_break_on_chinese() -> None:
    code = "from sishu.console import *; say('私塾 →'); warn('私塾 →'); show_table('表', ['甲'], [('乙',)])"
    environment = os.environ | {"LC_ALL": "C", "LANG": "C"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "私塾 →".encode() in done.stdout


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_metrics_are_on_disk_as_soon_as_written(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write({"step": 0, "loss": 2.5, "note": "学"})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 2.5, "note": "学"}]
    assert metrics.offset() == (tmp_path / "metrics.jsonl").stat().st_size
    metrics.close()


def test_resumed_metrics_are_cut_back_so_that_no_step_is_told_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.write({"step": 0})
    offset = metrics.offset()
    metrics.write({"step": 1})
    metrics.close()
    path.open("ab").write(b'{"step": 2, "lo')  # a kill in the middle of a line
    again = Metrics(path, offset)
    assert again.offset() == offset
    again.write({"step": 1, "again": True})
    again.close()
    assert lines(path) == [{"step": 0}, {"step": 1, "again": True}]


def test_metrics_without_an_offset_start_afresh(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 7}\n')
    Metrics(path).close()
    assert path.read_bytes() == b""
    path.unlink()
    Metrics(path, 100).close()  # the file is gone: nothing to cut back
    assert path.read_bytes() == b""
