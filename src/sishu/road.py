"""The road: recipes, and walking the stages they name."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from sishu.config import Section, build, merge, read_yaml, to_yaml
from sishu.console import UserError, say, show_table
from sishu.evaluate import eval as eval_stage
from sishu.files import write_atomic
from sishu.processes import ALONE, Processes, joined
from sishu.report import report as report_stage
from sishu.run import BEGUN, EVENTS, Input, Run, StageContext, check_external, external_input, stage_key
from sishu.stages import continue_pretrain as continue_stage
from sishu.stages import corpus as corpus_stage
from sishu.stages import crawl as crawl_stage
from sishu.stages import lengthen as lengthen_stage
from sishu.stages import ppo as ppo_stage
from sishu.stages import pretrain as pretrain_stage
from sishu.stages import reward as reward_stage
from sishu.stages import sft as sft_stage
from sishu.stages import tokenizer as tokenizer_stage
from sishu.stages.stage import Need, Stage
from sishu.track import Tracker, check_trackers, follow_stage

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (
        crawl_stage,
        corpus_stage,
        tokenizer_stage,
        pretrain_stage,
        continue_stage,
        lengthen_stage,
        sft_stage,
        reward_stage,
        ppo_stage,
        eval_stage,
        report_stage,
    )
}
ASKED_FOR = ("continue_pretrain", "lengthen")
"""Stages that only a recipe which names them walks."""
USUAL = [name for name in STAGES if name not in ASKED_FOR]
"""The stages of a recipe that does not say which."""
RECIPE_FILE = "recipe.yaml"
PATIENCE = 60.0
"""Seconds that a file system over a network may take to show one machine what another wrote."""


class Recipe(Section):
    """A whole road: which stages, and the settings of each."""

    name: str = "run"
    """Names the run's folder under `runs/` and the served models."""
    seed: int = 1
    """Everything random follows from it."""
    stages: list[str] = USUAL
    """The stages to walk, in the road's order."""
    price_per_hour: float | None = Field(None, ge=0)
    """What an hour of this machine costs, in any currency, for the report."""
    tensor_parallel: int = Field(1, ge=1)
    """How many of the processes that a launcher such as torchrun started share every micro-batch, each with
    some of the heads; it changes no result but for rounding."""
    track: list[Tracker] = []
    """Who gets the metrics too, besides TensorBoard, which gets them where it is installed."""
    crawl: crawl_stage.CrawlSettings = crawl_stage.CrawlSettings()
    corpus: corpus_stage.CorpusSettings = corpus_stage.CorpusSettings()
    tokenizer: tokenizer_stage.TokenizerSettings = tokenizer_stage.TokenizerSettings()
    pretrain: pretrain_stage.PretrainSettings = pretrain_stage.PretrainSettings()
    continue_pretrain: continue_stage.ContinuePretrainSettings = continue_stage.ContinuePretrainSettings()
    lengthen: lengthen_stage.LengthenSettings = lengthen_stage.LengthenSettings()
    sft: sft_stage.SftSettings = sft_stage.SftSettings()
    reward: reward_stage.RewardSettings = reward_stage.RewardSettings()
    ppo: ppo_stage.PpoSettings = ppo_stage.PpoSettings()
    eval: eval_stage.EvalSettings = eval_stage.EvalSettings()
    report: report_stage.ReportSettings = report_stage.ReportSettings()

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: list[str]) -> list[str]:
        for name in stages:
            if name not in STAGES:
                near = difflib.get_close_matches(name, STAGES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(STAGES)}"
                raise ValueError(f"there is no stage {name!r} ({hint})")
        return [name for name in STAGES if name in stages]

    @field_validator("track", mode="before")
    @classmethod
    def _one_or_several(cls, track: Any) -> Any:
        return [track] if isinstance(track, str) else track

    @model_validator(mode="after")
    def _one_split(self) -> Recipe:
        """Held-out questions concern modules that pretraining has not read, and the held-out text modules
        that fine-tuning has not taught."""
        text, questions = self.corpus.held_out, self.sft.held_out
        if self.corpus.held_out_group and self.sft.data is None and text != questions:
            raise ValueError(
                f"corpus.held_out is {text:g} and sft.held_out {questions:g}: give both the same, "
                "or one stage teaches what the other examines"
            )
        return self


def recipe_names() -> list[str]:
    """The recipes that come with sishu."""
    folder = resources.files("sishu") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe by the name of one that comes with sishu, a YAML file, or a run folder, with overrides.

    Raises UserError for a name that is none of them, naming the nearest.
    """
    path = Path(name)
    if path.is_dir() and (path / RECIPE_FILE).is_file():
        data = read_yaml(path / RECIPE_FILE)
    elif path.suffix in (".yaml", ".yml"):
        data = read_yaml(path)
    elif name in recipe_names():
        data = read_yaml(Path(str(resources.files("sishu") / "recipes" / f"{name}.yaml")))
    else:
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"those that come with sishu are {recipe_names()}"
        raise UserError(f"There is no recipe {name!r}: give a .yaml file, a run folder, or a name ({hint}).")
    return build(Recipe, merge(data, overrides), f"recipe {name}")


def stage_overrides(stage: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a single-stage command: keys belong to that stage unless they name another one or
    something of the whole recipe; text for a tokenizer or a model goes through the corpus stage first."""
    general = {"seed", "name", "price_per_hour", "tensor_parallel", "track", "stages", *STAGES}
    fields = STAGES[stage].settings.model_fields
    result: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in overrides.items():
        # `sishu ppo reward=FOLDER` is ppo's own setting, `sishu ppo reward.prompts=9` the reward stage's
        mine = key not in general or (key in fields and not isinstance(value, Mapping))
        (own if mine else result)[key] = value
    if stage in ("tokenizer", "pretrain", *ASKED_FOR) and "data" in own:
        result = merge(result, {"corpus": {"data": own.pop("data")}})
    return merge(result, {stage: own}) if own else result


def needed(stage: str, recipe: Recipe, run: Run) -> list[str]:
    """The stage and every earlier one it needs, in order: needs met by a path outside the run are not
    followed; optional ones only where the run has them."""
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        met = outside(STAGES[name], getattr(recipe, name))
        for need in STAGES[name].needs:
            wanted = not need.optional or run.manifest(need.stage) is not None
            if need.name not in met and wanted:
                waiting.append(source_of(need, name, recipe))
    return [name for name in STAGES if name in found]


def source_of(need: Need, stage: str, recipe: Recipe) -> str:
    """The stage that meets a need of `stage`: for the stages behind it, the model of the last of `ASKED_FOR`
    that the recipe names takes the place of the pretrained one."""
    before = list(STAGES)[: list(STAGES).index(stage)]
    later = [name for name in ASKED_FOR if name in recipe.stages and name in before]
    return later[-1] if later and (need.stage, need.path) == ("pretrain", "model") else need.stage


def walk(recipe: Recipe, folder: Path, stages: Sequence[str]) -> Run:
    """Walk stages in order, leaving out those that stand as asked for; holds the run's lock throughout. Where
    a launcher started several processes all of them call it, and go by the recipe of the first."""
    run = Run(folder)
    with joined() as processes:
        told = processes.tell({"recipe": recipe.model_dump(mode="json"), "stages": list(stages)})
        if not processes.first:
            recipe = Recipe.model_validate(told["recipe"])
            for name in told["stages"]:
                _help(STAGES[name], recipe, run, processes)
            return run
        check_trackers(recipe.track)
        for name in stages:  # before the first hour of work, and before the run's recipe is changed
            for path in outside(STAGES[name], getattr(recipe, name)).values():
                check_external(path)
        with run.lock():
            write_atomic(folder / RECIPE_FILE, to_yaml(recipe))
            for name in stages:
                _do(STAGES[name], recipe, run, stages, processes)
    return run


def outside(stage: Stage, settings: Section) -> dict[str, Path]:
    """Paths outside the run: of needs that a setting meets, and of other files that the settings name."""
    paths = {n.name: getattr(settings, n.setting) for n in stage.needs if n.setting}
    for name in stage.files:
        given = attrgetter(name)(settings)
        paths |= (
            {f"{name}.{i}": path for i, path in enumerate(given)}
            if isinstance(given, list)
            else {name: given}
        )
    return {name: Path(path) for name, path in paths.items() if path is not None}


def _do(stage: Stage, recipe: Recipe, run: Run, walked: Sequence[str], processes: Processes) -> None:
    settings: Section = getattr(recipe, stage.name)
    inputs = _inputs(stage, recipe, run, walked)
    key = stage_key(stage.name, settings, inputs, recipe.seed)
    if run.finished(stage.name, key):
        say(f"{stage.name}: done before, nothing it depends on has changed")
        processes.tell(None)
        return
    name = f"{run.folder.resolve().name}-{stage.name}"
    config = settings.model_dump(mode="json")
    follow = follow_stage(run.folder / stage.name, EVENTS, recipe.track, name, config)
    team, shared = (processes, recipe.tensor_parallel) if stage.together else (ALONE, 1)
    with run.begin(stage.name, key, settings, inputs, recipe.seed, follow, team, shared) as (
        context,
        figures,
    ):
        say(f"{stage.name}: {'going on where it stopped' if context.resumed else stage.purpose}")
        paths = {name: str(path) for name, path in context.inputs.items()}
        processes.tell({"inputs": paths, "resumed": context.resumed})
        figures |= stage.work(settings, context)
        if recipe.price_per_hour is not None:
            figures["cost"] = round(context.seconds() / 3600 * recipe.price_per_hour, 6)


def _help(stage: Stage, recipe: Recipe, run: Run, processes: Processes) -> None:
    """What `_do` is for all processes but the first. Raises UserError where this one cannot see what the
    first one writes."""
    told = processes.tell(None)
    if told is None or not stage.together:
        return
    folder, began = run.folder / stage.name, time.monotonic()
    while not (folder / BEGUN).is_file():
        if time.monotonic() - began > PATIENCE:
            raise UserError(
                f"Process {processes.rank} does not see {folder}: put the run's folder where all machines "
                "read and write it, and start all processes in the same working folder."
            )
        time.sleep(0.1)
    context = StageContext(
        stage.name,
        folder,
        recipe.seed,
        {name: Path(path) for name, path in told["inputs"].items()},
        told["resumed"],
        processes=processes,
        tensor_parallel=recipe.tensor_parallel,
    )
    stage.work(getattr(recipe, stage.name), context)


def make(stage: Stage, settings: Section, folder: Path, inputs: Mapping[str, Input], seed: int) -> Run:
    """One stage in a run of its own, beside the road, unless it stands there as asked for."""
    run = Run(folder)
    with run.lock():
        key = stage_key(stage.name, settings, inputs, seed)
        if not run.finished(stage.name, key):
            say(f"{folder.name}: {stage.name}")
            with run.begin(stage.name, key, settings, inputs, seed) as (context, figures):
                figures |= stage.work(settings, context)
    return run


def _inputs(stage: Stage, recipe: Recipe, run: Run, walked: Sequence[str]) -> dict[str, Input]:
    found = {name: external_input(path) for name, path in outside(stage, getattr(recipe, stage.name)).items()}
    for need in stage.needs:
        source = source_of(need, stage.name, recipe)
        made = source in walked and run.manifest(source) is not None
        if need.name not in found and (made or not need.optional):
            found[need.name] = run.input_from(source, need.path)
    return found


def show_times(run: Run, stages: Sequence[str]) -> None:
    """The closing table: every stage's working time."""
    rows, total = [], 0.0
    for name in stages:
        manifest = run.manifest(name)
        if manifest is not None:
            total += manifest["seconds"]
            again = str(manifest["resumed"]) if manifest["resumed"] else ""
            rows.append((name, f"{manifest['seconds']:,.1f}", again))
    rows.append(("total", f"{total:,.1f}", ""))
    show_table("Working time", ["stage", "seconds", "resumed"], rows)
