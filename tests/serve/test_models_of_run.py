"""What a run or a model folder offers, by the folders that are really there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sishu.console import UserError
from sishu.serve.models_of_run import engines_of, models_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / "recipe.yaml").write_text("name: 私塾\n", encoding="utf-8")
    return tmp_path / "walk"


def finish(run: Path, stage: str, model: Path | None = None) -> Path:
    """A stage folder as a finished stage leaves it."""
    folder = run / stage / "model"
    folder.parent.mkdir()
    if model is not None:
        shutil.copytree(model, folder)
    (run / stage / "manifest.json").write_text(json.dumps({"stage": stage, "outputs": {}}))
    return folder


def test_a_run_offers_what_it_has_finished_the_furthest_by_default(
    run: Path, tiny_model_folder: Path
) -> None:
    finish(run, "ppo", tiny_model_folder)
    finish(run, "pretrain", tiny_model_folder)
    unfinished = finish(run, "sft", tiny_model_folder)
    (unfinished.parent / "manifest.json").unlink()
    assert list(models_of(run).items()) == [("base", run / "pretrain/model"), ("ppo", run / "ppo/model")]
    engines, default = engines_of(run)
    assert list(engines) == ["私塾-base", "私塾-ppo"] and default == "私塾-ppo"
    assert engines[default]().context_length == 128


def test_a_model_folder_is_known_by_its_manifest_or_offered_both_ways(
    run: Path, tiny_model_folder: Path
) -> None:
    model = finish(run, "pretrain", tiny_model_folder)
    assert models_of(model) == {"base": model}
    assert models_of(tiny_model_folder) == {"base": tiny_model_folder, "chat": tiny_model_folder}
    engines, default = engines_of(tiny_model_folder)
    assert list(engines) == [default] == [tiny_model_folder.name]


@pytest.mark.parametrize("stage", ["tokenizer", "reward", "pretrain"])
def test_a_run_without_a_model_to_talk_to_is_refused(run: Path, stage: str) -> None:
    finish(run, stage)
    with pytest.raises(UserError, match=r"no finished model yet: .*sishu run"):
        engines_of(run)


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="neither a run's folder nor a model's"):
            models_of(path)
