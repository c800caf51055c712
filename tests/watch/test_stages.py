"""What is told of a run from outside: states, how far, how long still, which curves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sishu.console import UserError
from sishu.watch.stages import RunWatch
from tests.watch.written import Written, line, lines


def told(watch: RunWatch) -> dict[str, dict[str, Any]]:
    return {stage["name"]: stage for stage in watch.overview()["stages"]}


def states(watch: RunWatch) -> dict[str, str]:
    return {name: stage["state"] for name, stage in told(watch).items()}


def dead() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_stages_wait_run_stop_go_on_and_finish(written: Written) -> None:
    watch = RunWatch(written.folder)
    assert states(watch) == {"corpus": "waiting", "pretrain": "waiting", "sft": "waiting"}
    written.begin("corpus")
    assert states(watch) == {"corpus": "running", "pretrain": "waiting", "sft": "waiting"}
    written.finish("corpus")
    written.begin("pretrain").write_bytes(lines(range(3)))
    assert states(watch) == {"corpus": "finished", "pretrain": "running", "sft": "waiting"}
    written.begin("pretrain", owner=dead())
    assert states(watch)["pretrain"] == "stopped"
    written.begin("pretrain")
    assert states(watch)["pretrain"] == "running"
    (written.folder / ".owner").unlink()
    assert states(watch)["pretrain"] == "stopped"
    written.finish("pretrain")
    assert states(watch) == {"corpus": "finished", "pretrain": "finished", "sft": "waiting"}
    assert watch.overview()["run"] == "demo"


def test_only_the_stage_begun_last_is_running(written: Written) -> None:
    written.begin("pretrain")
    written.begin("sft")
    os.utime(written.folder / "pretrain" / "begun.json", ns=(1, 1))
    assert states(RunWatch(written.folder)) == {"corpus": "waiting", "pretrain": "stopped", "sft": "running"}


def test_how_far_and_how_long_still(written: Written) -> None:
    metrics = written.begin("sft", steps=100)
    metrics.write_bytes(lines(range(20), validation_loss=2.5))
    watch = RunWatch(written.folder)
    sft = told(watch)["sft"]
    assert (sft["steps"], sft["total"], sft["seconds"], sft["seconds_left"]) == (20, 100, 29.0, 80.0)
    assert (sft["loss"], sft["validation_loss"]) == (8 / 20, 2.5)
    written.begin("sft", steps=100, owner=dead())
    assert told(watch)["sft"]["seconds_left"] is None
    written.finish("sft")
    sft = told(watch)["sft"]
    assert (sft["steps"], sft["total"], sft["seconds"], sft["seconds_left"]) == (20, 20, 3.0, None)


def test_steps_and_tokens_out_of_the_settings(written: Written) -> None:
    written.begin("pretrain").write_bytes(lines(range(2)))
    config = written.folder / "pretrain" / "config.yaml"
    config.write_text("model: {context_length: 512}\ntrain: {steps: 40, batch: 4}\n")
    watch = RunWatch(written.folder)
    assert told(watch)["pretrain"]["total"] == 40
    charts = watch.charts("pretrain")
    assert charts is not None
    throughput = next(c for c in charts["charts"] if c["name"] == "tokens_per_second")
    assert throughput["lines"][0]["points"] == [(0, 4096.0), (1, 4096.0)]


def test_charts_in_the_order_a_reader_wants_them(written: Written) -> None:
    more = {"entropy": 0.5, "last_entropy": 0.4, "memory_bytes": 9, "validation_bits_per_byte": 2.0}
    written.begin("pretrain").write_bytes(line(0, **more) + line(1, validation_loss=1.5, sample="学"))
    watch = RunWatch(written.folder)
    charts = watch.charts("pretrain")
    assert charts is not None
    assert [(c["name"], [drawn["name"] for drawn in c["lines"]]) for c in charts["charts"]] == [
        ("loss", ["loss", "validation_loss"]),
        ("bits_per_byte", ["validation_bits_per_byte"]),
        ("steps_per_second", ["steps_per_second"]),
        ("learning_rate", ["learning_rate"]),
        ("gradient_norm", ["gradient_norm"]),
        ("memory_bytes", ["memory_bytes"]),
        ("entropy", ["entropy", "last_entropy"]),
    ]
    assert charts["samples"] == [{"step": 1, "name": "sample", "text": "学"}]
    assert watch.charts("pretrain", charts["version"]) is None
    assert json.dumps(charts)


def test_a_stage_that_the_recipe_does_not_name_is_shown_when_it_comes(written: Written) -> None:
    watch = RunWatch(written.folder)
    with pytest.raises(KeyError):
        watch.charts("extra")
    written.begin("extra").write_bytes(line(0))
    assert list(states(watch)) == ["corpus", "pretrain", "sft", "extra"]
    assert watch.charts("extra") is not None


def test_half_written_files_of_a_run_are_no_trouble(written: Written) -> None:
    written.begin("pretrain").write_bytes(line(0)[:9])
    for name in ("begun.json", "config.yaml"):
        (written.folder / "pretrain" / name).write_text('{"a": ')
    (written.folder / ".owner").write_text("")
    assert states(RunWatch(written.folder))["pretrain"] == "waiting"
    (written.folder / "recipe.yaml").write_text("stages: [")
    assert list(states(RunWatch(written.folder))) == ["pretrain"]


def test_watching_writes_nothing(written: Written) -> None:
    written.begin("pretrain").write_bytes(lines(range(3)))
    before = sorted(written.folder.rglob("*"))
    watch = RunWatch(written.folder)
    watch.overview()
    watch.charts("pretrain")
    assert sorted(written.folder.rglob("*")) == before


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        RunWatch(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no run folder"):
        RunWatch(tmp_path)


def test_what_the_lines_say_of_speed_is_taken_as_it_is(written: Written) -> None:
    more = {"tokens_per_second": 5.0, "model_flops_utilisation": 0.25, "eta_seconds": 9.0, "tokens": 100}
    written.begin("pretrain").write_bytes(line(0, **more))
    charts = RunWatch(written.folder).charts("pretrain")
    assert charts is not None
    drawn = {c["name"]: c["lines"][0]["points"] for c in charts["charts"]}
    assert drawn["tokens_per_second"] == [(0, 5.0)] and drawn["model_flops_utilisation"] == [(0, 0.25)]
    assert "eta_seconds" not in drawn


def test_norms_of_layers_share_a_chart(written: Written) -> None:
    norms = {f"layer_gradient_norm/blocks.{n}": 0.1 * n for n in range(3)}
    written.begin("pretrain").write_bytes(line(0, **norms))
    charts = RunWatch(written.folder).charts("pretrain")
    assert charts is not None
    drawn = {c["name"]: [x["name"] for x in c["lines"]] for c in charts["charts"]}
    assert drawn["layer_gradient_norm"] == list(norms)
