"""What a cleaning step earns: the same small model trained on the corpus with it and without, several times.

Both corpora come from the same input; both models have the same shape, tokenizer, number of tokens and seeds,
and are examined on the same text, of which neither has read anything nearly the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from sishu.config import build, merge, parse_overrides
from sishu.console import UserError, counted, say, show_table
from sishu.corpus.document import Document
from sishu.corpus.duplicates.dedup import band_keys
from sishu.corpus.look.lookup import place_of_input
from sishu.corpus.pipeline.split import TAIL
from sishu.corpus.table import read_split, write_documents
from sishu.files import dump_json, write_atomic
from sishu.road import RECIPE_FILE, Recipe, load_recipe, make, outside
from sishu.run import Input, Run, external_input
from sishu.stages import corpus, pretrain, tokenizer

WITHOUT: dict[str, dict[str, Any]] = {
    "language": {"languages": [], "min_language_score": 0.0},
    "paragraphs": {"foreign_paragraphs": "keep"},
    "quality": {"quality": "none", "min_characters": 1},
    "quality-model": {"quality_model": None},
    "bad-words": {"bad_words": False},
    "repeated-passages": {"repeated_passages": False},
    "near-duplicates": {"near_duplicates": False},
}
"""The settings that leave a step out."""
SMALL = {"model": {"depth": 2, "context_length": 256}, "train": {"steps": 300, "evaluate_every": 300}}
"""The model, unless `pretrain.…` says otherwise."""
MIN_TEXT = 2000
"""Characters for training and for the examination below which a difference would say nothing."""
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, two-sided 95 %, for 1 to 9 degrees of freedom."""


class Difference(NamedTuple):
    """Held-out bits per byte without the step less those with it; above 0 the step earns something."""

    mean: float
    half_width: float
    """Of the 95 % confidence interval over seeds, by Student's t on pairs of one seed; NaN for one seed."""


def ablate(run: Path, words: Sequence[str], seeds: int) -> Difference:
    """Compares the corpus of a finished run with what it would be after a change, and shows a table.

    What is made stays in RUN/ablations/CHANGE: killed and started again it goes on; asked again it answers
    at once.

    Args:
        run: a run's folder with a finished corpus stage.
        words: a step of `WITHOUT`, or settings of the corpus stage such as `quality=none`; besides them
            `pretrain.…` for the model and its training.
        seeds: how many times to train each model.

    Raises:
        UserError: no corpus there, an input that is gone or has changed since, no change, or too little text.
    """
    recipe, change = _read(run, words)
    settings = build(corpus.CorpusSettings, merge(recipe.corpus.model_dump(), change), "the change")
    folder = run / "ablations" / _slug(words)
    documents = Run(run).input_from("corpus", "documents.parquet")
    changed = _corpus(settings, recipe.seed, folder, run)
    ours, theirs, examined = _texts(documents.path, changed.path, folder)
    learnt = _tokenizer(recipe, folder, ours)
    results: dict[str, list[float]] = {}
    for arm, texts in (("with", ours), ("without", theirs)):
        for seed in range(1, seeds + 1):
            inputs = {"documents": texts, "tokenizer": learnt}
            done = make(pretrain.STAGE, recipe.pretrain, folder / f"{arm}-{seed}", inputs, seed)
            figures = done.manifest("pretrain")
            assert figures
            results.setdefault(arm, []).append(figures["figures"]["validation_bits_per_byte"])
    difference = _compare(results)
    report = {
        "change": change,
        "results": results,
        "mean": difference.mean,
        "half_width": difference.half_width,
    }
    write_atomic(folder / "ablation.json", dump_json(report | {"examined_characters": examined}))
    _show([word for word in words if not word.startswith("pretrain.")], results, difference, examined)
    return difference


def _read(run: Path, words: Sequence[str]) -> tuple[Recipe, dict[str, Any]]:
    """The run's recipe with the small model, and what is to be changed in its corpus."""
    if not (run / RECIPE_FILE).is_file():
        raise UserError(f"{run} is no run folder: give one whose corpus is made, with --run.")
    named = [word for word in words if "=" not in word]
    for word in named:
        if word not in WITHOUT:
            raise UserError(
                f"There is no step {word!r} to leave out: name one of {', '.join(WITHOUT)}, or give a "
                "setting of the corpus, such as quality=none."
            )
    given = parse_overrides([word for word in words if "=" in word])
    training = given.pop("pretrain", {})
    change: dict[str, Any] = {}
    for part in (*(WITHOUT[word] for word in named), given):
        change = merge(change, part)
    if not change:
        raise UserError(f"Nothing is to be changed: name a step ({', '.join(WITHOUT)}) or give a setting.")
    return load_recipe(str(run), {"pretrain": merge(SMALL, training)}), change


def _slug(words: Sequence[str]) -> str:
    """A folder's name for the change."""
    letters = "_".join(words)
    return "".join(c if c.isalnum() or c in "-_.=" else "-" for c in letters)[:100].lstrip(".")


def _corpus(settings: corpus.CorpusSettings, seed: int, folder: Path, run: Path) -> Input:
    """The corpus after the change, from the input of the run's own."""
    manifest = Run(run).manifest("corpus")
    assert manifest
    made_from = manifest["inputs"]["data"]
    places = outside(corpus.STAGE, settings)
    places["data"] = place_of_input(run, made_from["path"], made_from["digest"])
    inputs = {name: external_input(place) for name, place in places.items()}
    done = make(corpus.STAGE, settings, folder, inputs, seed)
    return done.input_from("corpus", "documents.parquet")


def _tokenizer(recipe: Recipe, folder: Path, texts: Input) -> Input:
    """One tokenizer for all, learnt from the corpus as it is."""
    done = make(tokenizer.STAGE, recipe.tokenizer, folder, {"documents": texts}, recipe.seed)
    return done.input_from("tokenizer", "tokenizer.json")


def _texts(with_step: Path, without: Path, folder: Path) -> tuple[Input, Input, int]:
    """What both models read and are examined on: the held-out documents of the corpus as it is, and of both
    corpora those training documents that are not nearly the same as one of these."""
    examined = list(read_split(with_step, "validation"))
    if any(document.url.endswith(TAIL) for document in examined):
        raise UserError(
            "Of so small a corpus the end of a document is held out, which the other corpus would have in "
            "its training text: give one of more documents, or a larger corpus.held_out."
        )
    held_ids = {document.id for document in examined}
    bands = {key for document in examined for key in enumerate(band_keys(document.text).tolist())}
    places = []
    for name, path in (("with", with_step), ("without", without)):
        every = chain(read_split(path, "train"), read_split(path, "validation"))
        train = [document for document in _unlike(every, bands) if document.id not in held_ids]
        if min(_size(train), _size(examined)) < MIN_TEXT:
            raise UserError(
                f"The corpus {name} the step leaves {_size(train):,} characters to train on and "
                f"{_size(examined):,} to examine on: at least {MIN_TEXT:,} of each are needed."
            )
        place = folder / f"documents-{name}.parquet"
        write_documents(place, {"train": train, "validation": examined})
        places.append(external_input(place))
    return places[0], places[1], _size(examined)


def _unlike(documents: Iterable[Document], bands: set[tuple[int, int]]) -> Iterable[Document]:
    words: dict[str, int] = {}
    for document in documents:
        if bands.isdisjoint(enumerate(band_keys(document.text, words).tolist())):
            yield document


def _size(documents: Sequence[Document]) -> int:
    return sum(len(document.text) for document in documents)


def _compare(results: Mapping[str, Sequence[float]]) -> Difference:
    differences = [w - o for o, w in zip(results["with"], results["without"], strict=True)]
    if len(differences) < 2:
        return Difference(differences[0], math.nan)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return Difference(statistics.mean(differences), _T95[min(len(differences) - 2, len(_T95) - 1)] * error)


def _show(
    words: Sequence[str], results: Mapping[str, Sequence[float]], difference: Difference, examined: int
) -> None:
    rows = [
        (
            name,
            *(f"{value:.4f}" for value in values),
            f"{statistics.mean(values):.4f}",
            f"{statistics.stdev(values):.4f}" if len(values) > 1 else "–",
        )
        for name, values in (("as it is", results["with"]), (" ".join(words), results["without"]))
    ]
    seeds = [f"seed {number}" for number in range(1, len(results["with"]) + 1)]
    show_table(
        f"Bits per byte of {counted(examined, 'held-out character')}",
        ["corpus", *seeds, "mean", "deviation"],
        rows,
    )
    sure = abs(difference.mean) > difference.half_width
    verdict = "no difference that so few seeds can tell"
    if sure:
        verdict = "the corpus as it is teaches more" if difference.mean > 0 else "the change teaches more"
    spread = "" if math.isnan(difference.half_width) else f" ± {difference.half_width:.4f} (95 %)"
    say(f"Difference {difference.mean:+.4f}{spread} bits per byte: {verdict}.")
