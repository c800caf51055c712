"""Metrics beside `metrics.jsonl`: TensorBoard's own reader reads the event files; trackers are small modules
with the functions, and the names of the arguments, that the real packages document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sishu.config import Section
from sishu.console import Metrics, UserError
from sishu.road import load_recipe, stage_overrides, walk
from sishu.run import EVENTS, Run
from sishu.track import TRACKERS, TensorBoard, check_trackers, follow_stage, installed


class Settings(Section):
    rate: float = 0.5


def train(run: Run, trackers: Sequence[str], start: int, stop: int, kill: bool = False) -> None:
    """A stage that makes the steps from `start` to `stop`, with a checkpoint before each third."""
    folder = run.folder / "sft"
    follow = follow_stage(folder, EVENTS, trackers, "demo-sft", {"rate": 0.5})
    offsets = folder / "checkpoint"
    with run.begin("sft", "key", Settings(), {}, 1, follow) as (context, _):
        metrics = context.metrics(json.loads(offsets.read_text())[str(start)] if start else None)
        kept = {}
        for step in range(start, stop):
            if step % 3 == 0:
                kept[step] = metrics.offset()
                offsets.write_text(json.dumps(kept))
            # how long a step took is never the same twice
            metrics.write(
                {"step": step, "loss": 4.0 / (step + 1), "step_seconds": step + start, "word": "学"}
            )
        if kill:
            raise KeyboardInterrupt
        offsets.unlink()


# --- TensorBoard


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


needs_tensorboard = pytest.mark.skipif(not installed("tensorboard"), reason="needs tensorboard")


@needs_tensorboard
def test_a_killed_and_resumed_stage_leaves_one_curve(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(run, [], 0, 8, kill=True)
    assert [step for step, _ in events(tmp_path / "sft" / EVENTS)["loss"]] == list(range(8))
    with pytest.raises(KeyboardInterrupt):
        train(run, [], 6, 7, kill=True)
    train(run, [], 6, 10)
    curves = events(tmp_path / "sft" / EVENTS)
    assert set(curves) == {"loss", "step_seconds"}
    assert curves["loss"] == [(step, pytest.approx(4 / (step + 1))) for step in range(10)]
    assert curves["step_seconds"] == [(s, s + (6 if s >= 6 else 0)) for s in range(10)]


@needs_tensorboard
def test_after_a_kill_nothing_before_the_checkpoint_is_missing(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / EVENTS, 0)
    metrics = Metrics(tmp_path / "metrics.jsonl", None, lambda first, told: [board])
    for step in range(5):
        metrics.write({"step": step, "loss": 1.0})
    assert metrics.offset() > 0
    kept = sum(f.stat().st_size for f in (tmp_path / EVENTS).iterdir())
    assert [step for step, _ in events(tmp_path / EVENTS)["loss"]] == list(range(5))
    metrics.close()
    assert sum(f.stat().st_size for f in (tmp_path / EVENTS).iterdir()) == kept  # all was on the disk before


@needs_tensorboard
def test_a_stage_that_begins_anew_has_no_old_events(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(run, [], 0, 2, kill=True)
    train(run, [], 0, 1)  # resumed, but there was no checkpoint
    assert events(tmp_path / "sft" / EVENTS)["loss"] == [(0, 4.0)]


@needs_tensorboard
def test_event_files_are_no_artifacts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    train(run, [], 0, 3)
    manifest = run.manifest("sft")
    assert manifest is not None
    assert list((tmp_path / "sft" / EVENTS).iterdir())
    assert set(manifest["outputs"]) == {"config.yaml", "metrics.jsonl"}
    for file in (tmp_path / "sft" / EVENTS).iterdir():
        file.unlink()
    assert run.finished("sft", "key")


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # type: ignore[arg-type]
    train(Run(tmp_path), [], 0, 3)
    assert sorted(p.name for p in (tmp_path / "sft").iterdir()) == [
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
    ]


def test_a_folder_that_a_tracker_left_behind_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swanlab").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("swanlab")


# --- trackers

Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Calls]:
    """`pretend(package)` puts a module in its place that notes how it is called."""

    def put(name: str) -> Calls:
        calls: Calls = []
        module: Any = ModuleType(name)

        def log(data: dict[str, float], step: int | None = None) -> None:
            calls.append(("log", {"data": data, "step": step}))

        # the arguments that we give, and no others, as each package documents them
        def init_by_id(*, project: str, name: str, id: str, config: dict[str, Any], resume: str) -> None:
            calls.append(
                ("init", {"project": project, "name": name, "id": id, "config": config, "resume": resume})
            )

        def init_by_name(*, project: str, name: str, config: dict[str, Any], resume: str) -> None:
            calls.append(("init", {"project": project, "name": name, "config": config, "resume": resume}))

        ends: dict[str, Callable[..., None]] = {
            "wandb": lambda exit_code=None: calls.append(("finish", {"exit_code": exit_code})),
            "swanlab": lambda state="success", error=None: calls.append(("finish", {"state": state})),
            "trackio": lambda: calls.append(("finish", {})),
        }
        module.log, module.finish = log, ends[name]
        module.init = init_by_name if name == "trackio" else init_by_id
        monkeypatch.setitem(sys.modules, name, module)
        return calls

    monkeypatch.setitem(sys.modules, "tensorboard", None)  # type: ignore[arg-type]
    return put


GOOD = {"wandb": {"exit_code": 0}, "swanlab": {"state": "success"}, "trackio": {}}
BAD = {"wandb": {"exit_code": 1}, "swanlab": {"state": "aborted"}, "trackio": {}}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_gets_every_step_once(
    tmp_path: Path, pretend: Callable[[str], Calls], tracker: str
) -> None:
    calls, run = pretend(tracker), Run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(run, [tracker], 0, 8, kill=True)
    with pytest.raises(KeyboardInterrupt):
        train(run, [tracker], 6, 7, kill=True)
    train(run, [tracker], 6, 10)
    names = [name for name, _ in calls]
    assert names == ["init", *["log"] * 8, "finish", "init", "finish", "init", *["log"] * 2, "finish"]
    begun = [what for name, what in calls if name == "init"]
    assert begun[0] == begun[1] == begun[2]  # the same run of the tracker
    about = dict(begun[0])
    ident = about.pop("id", None)
    assert about.pop("name").startswith("demo-sft")
    assert about == {"project": "sishu", "config": {"rate": 0.5}, "resume": "allow"}
    assert (ident is None) == (tracker == "trackio")
    logged = [what for name, what in calls if name == "log"]
    assert [what["step"] for what in logged] == list(range(10))
    assert logged[1]["data"] == {"loss": 2.0, "step_seconds": 1.0}
    assert [what for name, what in calls if name == "finish"] == [BAD[tracker], BAD[tracker], GOOD[tracker]]
    manifest = run.manifest("sft")
    assert manifest is not None and set(manifest["outputs"]) == {"config.yaml", "metrics.jsonl"}


def test_a_stage_made_afresh_is_another_run_of_the_tracker(
    tmp_path: Path, pretend: Callable[[str], Calls]
) -> None:
    calls = pretend("trackio")
    for name in ("one", "two"):
        train(Run(tmp_path / name), ["trackio"], 0, 1)
    first, second = (what["name"] for name, what in calls if name == "init")
    assert first != second


def test_a_tracker_that_fails_in_the_middle_is_left_behind(
    tmp_path: Path, pretend: Callable[[str], Calls], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = pretend("wandb")

    def log(data: dict[str, float], step: int) -> None:
        raise ConnectionError("no\nroute")

    sys.modules["wandb"].log = log  # type: ignore[attr-defined]
    train(Run(tmp_path), ["wandb"], 0, 4)
    assert [name for name, _ in calls] == ["init"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "wandb failed and gets no more figures (ConnectionError: no route)" in err
    assert len((tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_tracker_that_cannot_begin_is_one_sentence(tmp_path: Path, pretend: Callable[[str], Calls]) -> None:
    pretend("swanlab")

    def init(**_: Any) -> None:
        raise RuntimeError("not logged in")

    sys.modules["swanlab"].init = init  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"swanlab could not begin .*not logged in"):
        train(Run(tmp_path), ["swanlab"], 0, 4)


# --- the recipe


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_package_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)  # type: ignore[arg-type]
    recipe = load_recipe("text", {"track": tracker})
    assert recipe.track == [tracker]
    with pytest.raises(
        UserError, match=f"asks for {tracker}, which is not installed: run `pip install {tracker}`"
    ):
        walk(recipe, tmp_path / "run", ["corpus"])
    assert not (tmp_path / "run").exists()
    check_trackers([])


def test_who_gets_the_metrics_is_the_whole_recipes_matter() -> None:
    assert stage_overrides("sft", {"track": ["wandb"], "epochs": 2}) == {
        "track": ["wandb"],
        "sft": {"epochs": 2},
    }
    assert load_recipe("text", {"track": ["wandb", "trackio"]}).track == ["wandb", "trackio"]
    with pytest.raises(UserError, match="track"):
        load_recipe("text", {"track": "mlflow"})


def test_a_walk_gives_the_metrics_of_its_training_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    module: Any = ModuleType("wandb")
    module.init = lambda **settings: calls.append(("init", settings))
    module.log = lambda data, step: calls.append(("log", data | {"step": step}))
    module.finish = lambda exit_code: calls.append(("finish", {"exit_code": exit_code}))
    monkeypatch.setitem(sys.modules, "wandb", module)
    text = tmp_path / "text.txt"
    text.write_bytes((Path(__file__).parents[1] / "LICENSE").read_bytes())  # prose that every checkout has
    settings = {
        "track": "wandb",
        "corpus": {"data": str(text), "min_characters": 1},
        "tokenizer": {"vocabulary": 300},
        "pretrain": {
            "model": {"depth": 1, "width": 32, "context_length": 32},
            "train": {"steps": 3, "batch": 2, "micro_batch": 2},
        },
    }
    run = walk(load_recipe("text", settings), tmp_path / "mine", ["corpus", "tokenizer", "pretrain"])
    lines = (run.folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [what for name, what in calls if name == "log"] == [json.loads(line) for line in lines]
    assert [calls[0][1]["name"], calls[0][1]["config"]["model"]["depth"]] == ["mine-pretrain", 1]
    assert calls[-1] == ("finish", {"exit_code": 0})
    if installed("tensorboard"):
        assert [step for step, _ in events(run.folder / "pretrain" / EVENTS)["loss"]] == [0, 1, 2]
