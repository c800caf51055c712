"""`sishu export`: a run's model, or anybody's, in the form that other software reads."""

from __future__ import annotations

from pathlib import Path

import torch

from sishu.console import UserError, say
from sishu.models.folder import save_model
from sishu.models.gguf.types import WRITTEN
from sishu.models.gguf.writing import save_gguf
from sishu.models.open import gguf_at, open_decoder
from sishu.serve.models_of_run import RECIPE, models_of

FORMS = ("hf", "gguf")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export(
    source: Path,
    form: str,
    kind: str = "F16",
    stage: str | None = None,
    dtype: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write the model of a run, of a model folder or of a GGUF file as `form` and return where it is.

    `kind` is the type of a GGUF file's numbers, `dtype` that of a folder's (None: as they are stored);
    `stage` says which of a run's models (None: the furthest). Raises UserError for what is not there, and
    for a model that the form cannot hold.
    """
    kind = kind.upper()
    if form not in FORMS:
        raise UserError(f"A model is exported --to {' or '.join(FORMS)}, not {form!r}.")
    if kind not in WRITTEN:
        raise UserError(f"--type must be one of {', '.join(WRITTEN)}, not {kind!r}.")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if form == "gguf" and dtype is not None:
        raise UserError("--dtype belongs to --to hf; a GGUF file takes --type.")
    place, name, model = _model(source, stage)
    target = out or place / (f"{name}-hf" if form == "hf" else f"{name}-{kind}.gguf")
    _check_target(target, form, model)
    decoder, tokenizer = open_decoder(model, None)
    try:
        if form == "hf":
            # GGUF files keep a few tensors in float32, which a folder cannot tell: all become alike
            stored = decoder.embedding.weight.dtype
            save_model(decoder, tokenizer, target, DTYPES[dtype] if dtype else stored)
        else:
            for told in save_gguf(decoder, tokenizer, target, kind):
                say(told)
    except ValueError as error:  # what a family's configuration has no words for
        raise UserError(f"{model} cannot be exported --to {form}: {error}.") from error
    return target


def _model(source: Path, stage: str | None) -> tuple[Path, str, Path]:
    """Where the export goes when nothing else is said, what it is called, and the folder or file it is made
    of. A run keeps its exports; of a model alone they stand beside it."""
    called = source.resolve().stem if source.is_file() else source.resolve().name
    beside = source.resolve().parent
    file = gguf_at(source) if source.exists() else None
    if file is not None and stage is None:
        return beside, called, file
    models = {} if file is not None else models_of(source)
    run = (source / RECIPE).is_file()
    if stage is not None and (stage not in models or not run):
        there = f"; finished are {', '.join(models)}" if run else ", because it is no run"
        raise UserError(f"{source} has no model of the stage {stage!r}{there}.")
    stage = stage or list(models)[-1]
    if run:
        return source / "export", f"{called}-{stage}", models[stage]
    return beside, called, models[stage]


def _check_target(target: Path, form: str, model: Path) -> None:
    if target.resolve() == model.resolve():
        raise UserError(f"{target} is the model itself: give another --out.")
    if form == "gguf" and target.is_dir():
        raise UserError(f"{target} is a folder: give a file, such as {target / 'model.gguf'}, as --out.")
    if form == "hf" and target.exists():
        if not target.is_dir():
            raise UserError(f"{target} is a file: give a folder as --out.")
        if any(target.iterdir()) and not (target / "config.json").is_file():
            raise UserError(f"{target} holds other things than a model: give an empty folder as --out.")
