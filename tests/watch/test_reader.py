"""Reading metrics while they are written, cut back and written again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sishu.console import Metrics
from sishu.watch import reader
from sishu.watch.reader import MetricsFile
from tests.watch.written import line, lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def steps(file: MetricsFile, name: str = "loss") -> list[int]:
    return [step for step, _ in file.curves[name].points()] if name in file.curves else []


def test_a_file_is_read_on_and_says_when_there_is_something_new(path: Path) -> None:
    file = MetricsFile(path)
    file.read()
    assert (file.steps, file.curves, file.share) == (0, {}, 1.0)
    versions = [file.version]
    for count in (3, 5):
        path.write_bytes(lines(range(count)))
        file.read()
        assert steps(file) == list(range(count)) and file.steps == count
        assert file.version not in versions
        versions.append(file.version)
    file.read()
    assert file.version == versions[-1]
    assert file.curves["loss"].points()[1] == (1, 4.0)
    assert (file.seconds(), file.seconds_a_step(), file.last("loss")) == (14.0, 1.0, 1.6)


def test_half_a_line_waits_for_its_other_half(path: Path) -> None:
    file, last = MetricsFile(path), line(2)
    path.write_bytes(lines(range(2)) + last[:20])
    file.read()
    assert steps(file) == [0, 1]
    with path.open("ab") as out:
        out.write(last[20:])
    file.read()
    assert steps(file) == [0, 1, 2]


def test_a_killed_run_that_goes_on_takes_its_last_steps_back(path: Path) -> None:
    metrics = Metrics(path)
    for step in range(10):
        metrics.write({"step": step, "seconds": step * 1.01, "loss": 5.0})
        if step == 5:
            offset = metrics.offset()
    metrics.close()
    path.open("ab").write(b'{"step": 10, "lo')
    file = MetricsFile(path)
    file.read()
    assert steps(file) == list(range(10))
    again = Metrics(path, offset)
    file.read()  # shorter than it was
    assert steps(file) == list(range(6))
    again.write({"step": 6, "seconds": 7.02, "loss": 5.0})
    again.close()
    file.read()
    assert steps(file) == list(range(7))


def test_a_file_cut_back_and_written_beyond_its_old_length_between_two_looks(path: Path) -> None:
    file = MetricsFile(path)
    path.write_bytes(lines(range(10)))
    file.read()
    path.write_bytes(lines(range(6)) + lines(range(6, 30), seconds=99.5))
    file.read()
    assert steps(file) == list(range(30))
    assert file.seconds() == 99.5


def test_a_stage_made_afresh_is_read_afresh(path: Path) -> None:
    file = MetricsFile(path)
    path.write_bytes(lines(range(10)))
    file.read()
    path.unlink()
    before = file.version
    file.read()
    assert (file.curves, file.steps) == ({}, 0) and file.version != before
    path.write_bytes(lines(range(2)))
    file.read()
    assert steps(file) == [0, 1]


def test_lines_that_are_no_metrics_are_passed_over(path: Path) -> None:
    odd = [b"", b"{", b"[1]", b"7", b'{"loss": 1}', b'{"step": -1}', b'{"step": true, "loss": 1}']
    odd += [b'{"step": 1, "loss": NaN}', b'{"step": 2, "loss": 1e999, "k": 2}', b"\xff\xfe", b'{"step": "3"}']
    odd += [b'{"step": 4, "loss": ' + b"9" * 400 + b"}"]
    path.write_bytes(b"\n".join(odd) + b"\n" + line(5))
    file = MetricsFile(path)
    file.read()
    assert steps(file) == [5] and steps(file, "k") == [2]


def test_throughput_is_in_tokens_where_these_are_known(path: Path) -> None:
    path.write_bytes(lines(range(2)))
    plain, counted = MetricsFile(path), MetricsFile(path)
    counted.step_tokens = 1024
    for file in (plain, counted):
        file.read()
    assert plain.curves["steps_per_second"].points() == [(0, 2.0), (1, 2.0)]
    assert counted.curves["tokens_per_second"].points() == [(0, 2048.0), (1, 2048.0)]
    path.write_bytes(lines([0], tokens=50))
    counted.read()
    assert counted.curves["tokens_per_second"].points() == [(0, 100.0)]


def test_texts_are_samples(path: Path) -> None:
    path.write_bytes(line(0, sample="一") + line(1, samples=["二", "三"]))
    file = MetricsFile(path)
    file.read()
    assert list(file.samples) == [(0, "sample", "一"), (1, "samples", "二"), (1, "samples", "三")]


def test_a_long_file_is_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "READ_AT_ONCE", 1 << 16)
    path.write_bytes(lines(range(5000)))
    file, shares = MetricsFile(path), []
    while file.steps < 5000:
        file.read()
        shares.append(file.share)
    assert shares == sorted(shares) and shares[0] < 0.2 and shares[-1] == 1.0
    assert len(shares) >= path.stat().st_size >> 16
    assert (steps(file)[0], steps(file)[-1]) == (0, 4999)
