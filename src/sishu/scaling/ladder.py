"""`sishu scaling`: a ladder of small models, the law of their losses, and a larger model that puts it to the
test.

Every rung is a run of its own with a pretrain stage, so that a finished one is left out and a killed one goes
on. The prediction is written down before the larger model is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from sishu.config import Section, build, parse_overrides
from sishu.console import UserError, counted, say
from sishu.corpus.table import read_split
from sishu.files import dump_json, write_atomic
from sishu.models.decoder import DecoderConfig
from sishu.models.flops import forward
from sishu.road import RECIPE_FILE, Recipe, load_recipe, make, needed, walk
from sishu.run import Input, Run
from sishu.scaling.law import KINDS, Law, Measured, best_choice, fit, interval
from sishu.stages import pretrain
from sishu.stages.shape import derive_shape
from sishu.stages.units import si
from sishu.tokenizer.tokenizer import Tokenizer

FACTOR = 4
"""How many times the weights of the ladder's largest the model of the test has."""
GRAIN, WIDEST = 32, 16_384
"""Widths that are looked at for a number of weights or operations."""
BUDGETS = (1, 10, 100)
"""What is allocated, in times the operations of the model of the test."""


class ScalingSettings(Section):
    """The ladder."""

    widths: list[Annotated[int, Field(ge=8)]] = Field([64, 96, 128, 160, 192], min_length=KINDS)
    """Of the models; their depth, and everything else, is the recipe's (`pretrain.…`)."""
    tokens: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=KINDS)
    """What each of them learns from, once for each number; when not given, a quarter, a half and the whole of
    two passes over the corpus, or of 12 tokens a weight of the widest where that is less."""

    @field_validator("widths", "tokens")
    @classmethod
    def _rising(cls, values: list[int] | None) -> list[int] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError("give different numbers")
        return values and sorted(values)


@dataclass(frozen=True)
class Rung:
    """One trained model."""

    width: int
    weights: int
    """Outside the embedding (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""
    tokens: int
    loss: float
    """Bits per byte of held-out text."""

    @property
    def measured(self) -> Measured:
        """The same for the law."""
        return Measured(self.weights, self.tokens, self.loss)


@dataclass(frozen=True)
class Prediction:
    """What a law says of a model, and what was found."""

    width: int
    weights: int
    tokens: int
    predicted: float
    low: float
    high: float
    """The interval of 95 %."""
    measured: float | None = None

    @property
    def error(self) -> float | None:
        """The measured loss over the predicted one, less 1."""
        return None if self.measured is None else self.measured / self.predicted - 1


@dataclass(frozen=True)
class Allocation:
    """How the law would spend a number of operations."""

    flops: float
    width: int
    weights: int
    tokens: float
    predicted: float


@dataclass(frozen=True)
class Scaling:
    """All that was found."""

    corpus_tokens: int
    depth: int
    rungs: list[Rung]
    law: Law
    backtest: Prediction | None
    """The ladder's largest model, by a law of the others, where these are enough."""
    test: Prediction
    allocations: list[Allocation]

    def as_json(self) -> dict[str, Any]:
        """Plain data, the test's error with it."""
        data = asdict(self)
        for name, prediction in (("backtest", self.backtest), ("test", self.test)):
            if prediction is not None:
                data[name]["error"] = prediction.error
        return data


def scaling(what: str, words: Sequence[str], folder: Path | None) -> tuple[Path, Scaling]:
    """Trains the ladder, fits, predicts, and trains the model of the test.

    Args:
        what: a run's folder whose corpus and tokenizer are made, or a recipe, of which they are made first.
        words: settings of the ladder, and of the recipe (for a run's folder, only `pretrain.…`).
        folder: the run's folder, for a recipe; by default runs/NAME.

    Returns:
        The folder of the ladder, in the run's, with scaling.json and the rungs; and what was found.

    Raises:
        UserError: a setting is wrong, the run is not that far, or the losses determine no law.
    """
    given = parse_overrides(words)
    own = {key: given.pop(key) for key in list(given) if key not in Recipe.model_fields}
    s = build(ScalingSettings, own, "the ladder")
    ladder = _Ladder(*_corpus(what, given, folder), s)
    width = ladder.width_of(FACTOR * ladder.shape(s.widths[-1]).parameters(embedding=False))
    ladder.announce(s.widths, width)
    rungs = [ladder.rung(width, tokens) for tokens in ladder.tokens for width in s.widths]
    measured = [rung.measured for rung in rungs]
    law, largest = fit(measured), ladder.tokens[-1]
    test = ladder.predict(law, measured, width, largest)
    found = Scaling(
        corpus_tokens=ladder.corpus_tokens,
        depth=ladder.shape(width).layers,
        rungs=rungs,
        law=law,
        backtest=ladder.backtest(rungs),
        test=test,
        allocations=ladder.allocate(law, [times * ladder.flops(width) * test.tokens for times in BUDGETS]),
    )
    write_atomic(ladder.folder / "scaling.json", dump_json(found.as_json()))
    say(
        f"Predicted for width {width}, {test.weights:,} weights and {test.tokens:,} tokens: "
        f"{test.predicted:.4f} bits per byte ({test.low:.4f} to {test.high:.4f})."
    )
    found = _with_test(found, ladder.rung(width, largest))
    write_atomic(ladder.folder / "scaling.json", dump_json(found.as_json()))
    return ladder.folder, found


def _with_test(found: Scaling, rung: Rung) -> Scaling:
    test = Prediction(**asdict(found.test) | {"measured": rung.loss})
    return Scaling(**vars(found) | {"test": test})


def _corpus(what: str, given: Mapping[str, Any], folder: Path | None) -> tuple[Recipe, Run]:
    """The recipe, and the run with its corpus and tokenizer."""
    if not (Path(what) / RECIPE_FILE).is_file():
        recipe = load_recipe(what, given)
        folder = folder or Path("runs") / recipe.name
        return recipe, walk(recipe, folder, needed("tokenizer", recipe, Run(folder)))
    if folder is not None:
        raise UserError("--run is for a recipe: the ladder of a run stays in the run's folder.")
    if settled := [key for key in given if key != "pretrain"]:
        raise UserError(
            f"{settled[0]} cannot be changed in a run that is made: give settings of pretrain alone, or a "
            "recipe and --run."
        )
    return load_recipe(what, given), Run(Path(what))


class _Ladder:
    """Models of many widths on one corpus, all else alike."""

    def __init__(self, recipe: Recipe, run: Run, s: ScalingSettings) -> None:
        self.recipe, self.folder = recipe, run.folder / "scaling"
        self.inputs: dict[str, Input] = {
            "documents": run.input_from("corpus", "documents.parquet"),
            "tokenizer": run.input_from("tokenizer", "tokenizer.json"),
        }
        tokenizer = Tokenizer.load(self.inputs["tokenizer"].path.parent)
        self.vocabulary = tokenizer.vocabulary_size
        texts = [document.text for document in read_split(self.inputs["documents"].path, "train")]
        self.corpus_tokens = sum(1 + len(ids) for ids in tokenizer.encode_batch(texts))
        whole = min(2 * self.corpus_tokens, 12 * self.shape(s.widths[-1]).parameters(embedding=False))
        self.tokens = s.tokens or [whole // 4, whole // 2, whole]
        self._check_tokens()

    @property
    def step(self) -> int:
        """Tokens of one step."""
        return self.recipe.pretrain.train.batch * self.recipe.pretrain.model.context_length

    def _check_tokens(self) -> None:
        steps = [self.steps(tokens) for tokens in self.tokens]
        if len(set(steps)) < len(steps):
            raise UserError(
                f"tokens={self.tokens} are {steps} steps of {counted(self.step, 'token')}, which are not all "
                "different: give numbers further apart, a smaller pretrain.train.batch, or a larger corpus."
            )

    def steps(self, tokens: int) -> int:
        """How many steps come nearest."""
        return max(1, round(tokens / self.step))

    def settings(self, width: int, tokens: int) -> pretrain.PretrainSettings:
        """The recipe's, at another width, for another number of tokens; looked at on held-out text once."""
        model = {"width": width, "heads": None, "kv_heads": None, "hidden": None}
        train = {"steps": self.steps(tokens), "evaluate_every": self.steps(tokens)}
        s = self.recipe.pretrain
        return s.model_copy(
            update={"model": s.model.model_copy(update=model), "train": s.train.model_copy(update=train)}
        )

    def shape(self, width: int) -> DecoderConfig:
        """The decoder of a width."""
        return derive_shape(self.settings(width, 1).model, self.vocabulary)[0]

    def width_of(self, weights: float) -> int:
        """The narrowest with as many weights outside the embedding."""
        return next(width for width, has in self.family() if has >= weights)

    def family(self) -> Iterator[tuple[int, int]]:
        """Widths, and their weights outside the embedding; those left out that a preset's proportions do not
        go with."""
        for width in range(GRAIN, WIDEST + 1, GRAIN):
            with suppress(UserError):
                yield width, self.shape(width).parameters(embedding=False)

    def flops(self, width: int) -> float:
        """Operations of training for one token."""
        shape = self.shape(width)
        return 3 * forward(shape, 1, shape.context_length, 1).total

    def announce(self, widths: Sequence[int], test: int) -> None:
        """Say what will be trained."""
        tokens = sum(self.steps(tokens) for tokens in self.tokens) * self.step
        work = tokens * sum(map(self.flops, widths))
        last = self.flops(test) * self.steps(self.tokens[-1]) * self.step
        say(
            f"{len(widths) * len(self.tokens)} models of widths {', '.join(map(str, widths))} after "
            f"{', '.join(f'{self.steps(t) * self.step:,}' for t in self.tokens)} tokens, {si(work)} "
            f"operations; then one of width {test}, {si(last)}."
        )

    def rung(self, width: int, tokens: int) -> Rung:
        """A trained model; trained now where it is not."""
        folder = self.folder / f"width-{width:04d}-steps-{self.steps(tokens):06d}"
        settings = self.settings(width, tokens)
        manifest = make(pretrain.STAGE, settings, folder, self.inputs, self.recipe.seed).manifest("pretrain")
        assert manifest
        figures = manifest["figures"]
        weights = self.shape(width).parameters(embedding=False)
        return Rung(width, weights, figures["tokens_seen"], figures["validation_bits_per_byte"])

    def predict(self, law: Law, measured: Sequence[Measured], width: int, tokens: int) -> Prediction:
        """What a law of `measured` says of a model."""
        seen = (
            self.steps(tokens) * self.recipe.pretrain.train.batch * self.recipe.pretrain.model.context_length
        )
        weights = self.shape(width).parameters(embedding=False)
        low, high = interval(law, measured, weights, seen)
        return Prediction(width, weights, seen, law.loss(weights, seen), low, high)

    def backtest(self, rungs: Sequence[Rung]) -> Prediction | None:
        """The widest rung with the most tokens by a law of all narrower ones; None where these are too few or
        determine none."""
        last = max(rungs, key=lambda rung: (rung.width, rung.tokens))
        measured = [rung.measured for rung in rungs if rung.width < last.width]
        try:
            found = self.predict(fit(measured), measured, last.width, last.tokens)
        except UserError:
            return None
        return Prediction(**asdict(found) | {"measured": last.loss})

    def allocate(self, law: Law, budgets: Sequence[float]) -> list[Allocation]:
        """The best width of the family, and its tokens, for each number of operations."""
        family = list(self.family())
        sizes = [(float(weights), self.flops(width)) for width, weights in family]
        found = [(flops, best_choice(law, sizes, flops)) for flops in budgets]
        return [Allocation(flops, *family[c.size], c.tokens, c.loss) for flops, c in found]
