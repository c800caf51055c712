"""Which models a run has to offer, under which names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sishu.config import read_yaml
from sishu.console import UserError
from sishu.files import read_json
from sishu.generate.engine import Engine
from sishu.models.open import gguf_at
from sishu.run import MANIFEST, Run

STAGES = {"pretrain": "base", "continue_pretrain": "continued", "sft": "sft", "ppo": "ppo"}
"""Stages that make a model that generates, in the road's order, and what their models are called."""
RECIPE, MODEL, MODEL_CONFIG = "recipe.yaml", "model", "config.json"


def models_of(path: Path) -> dict[str, Path]:
    """Model folders by what they are called, the furthest along the road last.

    A run has `base`, `continued`, `sft` and `ppo`, as far as it has finished those stages. A model folder has
    the one name its stage gives it; where no manifest beside it tells, it is offered as `base` and as `chat`,
    because both ways of talking to it may be meant.

    Raises UserError when `path` is neither, and for a run without a finished model.
    """
    if (path / RECIPE).is_file():
        run = Run(path)
        found = {
            name: path / stage / MODEL
            for stage, name in STAGES.items()
            if run.manifest(stage) is not None and (path / stage / MODEL / MODEL_CONFIG).is_file()
        }
        if not found:
            raise UserError(f"{path} has no finished model yet: train one with `sishu run {path}`.")
        return found
    if gguf_at(path) is not None:
        return {"base": path, "chat": path}
    if (path / MODEL_CONFIG).is_file():
        stage = _stage_beside(path)
        return {STAGES[stage]: path} if stage in STAGES else {"base": path, "chat": path}
    raise UserError(
        f"{path} is neither a run's folder nor a model's nor a GGUF file: give one such as runs/quickstart "
        "or runs/quickstart/sft/model."
    )


def model_at(path: Path, stage: str | None = None) -> Path:
    """The model that a user means: a GGUF file, a model's folder, or the furthest (or the named) stage of a
    run. Raises UserError where there is none."""
    models = models_of(path)
    if stage is not None and stage not in models:
        raise UserError(f"{path} has no model {stage!r}: it has {', '.join(models)}.")
    return models[stage or list(models)[-1]]


def _stage_beside(folder: Path) -> str:
    manifest = folder.resolve().parent / MANIFEST
    return str(read_json(manifest).get("stage", "")) if manifest.is_file() else ""


def engines_of(path: Path) -> tuple[dict[str, Callable[[], Engine]], str]:
    """Names for clients to ask for, with functions that load the engines, and the name of the furthest.

    A run called quickstart offers `quickstart-base`, `quickstart-sft` and `quickstart-ppo`; a model folder
    offers its own name. Raises UserError as `models_of` does.
    """
    models = models_of(path)
    if (path / RECIPE).is_file():
        run = read_yaml(path / RECIPE).get("name", path.resolve().name)
        folders = {f"{run}-{name}": folder for name, folder in models.items()}
    else:
        folders = {path.resolve().name.removesuffix(".gguf"): path}
    return {name: partial(Engine.load, folder) for name, folder in folders.items()}, list(folders)[-1]
