"""`sishu few-shot` and `sishu long-context`: what a model does with examples, and with long texts."""

from __future__ import annotations

import difflib
import math
import random
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from sishu.console import UserError, progress, say, show_table
from sishu.evaluate.few_shot import Answering, Examples, answers, learning_curve, read_examples
from sishu.evaluate.long_context import DEPTHS, binned, loss_by_position, needle_grid
from sishu.files import write_atomic
from sishu.generate.batching import BatchingEngine
from sishu.report.findings import Finding, curve_finding, findings_page, needle_finding, perplexity_finding
from sishu.report.shapes import Table
from sishu.serve.models_of_run import model_at

BINS = 16
"""Stretches of the context that the table and the plot tell apart."""

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run's folder, a model's folder, or a .gguf file.")
]
Out = Annotated[Path | None, typer.Option(help="An HTML page to write.", show_default=False)]


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between, in rising order; raises UserError for anything else."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 0:
        raise UserError(f"{option} is {text!r}; it must be whole numbers with commas between, such as 0,1,2.")
    return found


def prompt_names() -> list[str]:
    """The files of examples that come with sishu, by name."""
    folder = resources.files("sishu") / "recipes" / "prompts"
    return sorted(file.name for file in folder.iterdir() if file.name.endswith((".csv", ".jsonl")))


def examples_at(data: str) -> Examples:
    """A file of examples, or one that comes with sishu by its name; raises UserError where there is none."""
    if Path(data).is_file():
        return read_examples(Path(data))
    for name in prompt_names():
        if data in (name, name.rpartition(".")[0]):
            return read_examples(Path(str(resources.files("sishu") / "recipes" / "prompts" / name)))
    near = difflib.get_close_matches(data, prompt_names(), n=1, cutoff=0.4) or prompt_names()
    raise UserError(f"There is no file {data}: give one, or a name that comes with sishu, such as {near[0]}.")


def few_shot(
    model: Model,
    data: Annotated[
        str, typer.Argument(help="Examples: a .jsonl or .csv file, or a name such as sentiment.")
    ],
    shots: Annotated[str, typer.Option(help="Numbers of examples to show.")] = "0,1,2,4,8",
    ask: Annotated[
        list[str] | None, typer.Option(help="Only answer this behind all examples; repeatable.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Choose among the examples' answers.")] = False,
    per_token: Annotated[bool, typer.Option("--per-token", help="Compare labels per token.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Take out what the model answers to nothing.")
    ] = False,
    questions: Annotated[int, typer.Option(min=1, help="Examples kept to be asked.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Choices of examples.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides the choices.")] = 0,
    instruction: Annotated[
        str | None, typer.Option(help="Stands before the examples.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 64,
    out: Out = None,
) -> None:
    """Show a model a task by examples, and count right answers by how many it was shown."""
    counts, examples = numbers(shots, "--shots"), examples_at(data)
    if instruction is not None:
        examples = Examples(examples.items, instruction, examples.input_name, examples.output_name)
    how = Answering(examples.labels if labels else (), per_token, calibrate, max_tokens)
    if (per_token or calibrate) and not labels:
        raise UserError("--per-token and --calibrate compare labels: give --labels too.")
    engine = BatchingEngine.load(model_at(model))
    if ask:
        for answer in answers(engine, examples, ask, how):
            print(answer)
        return
    items = random.Random(f"{seed}/questions").sample(examples.items, len(examples.items))
    asked, pool = items[:questions], tuple(items[questions:])
    if len(pool) < counts[-1]:
        raise UserError(
            f"{data} has {len(items)} examples; {questions} questions leave {len(pool)} to show, and --shots "
            f"asks for {counts[-1]}: lower --questions or --shots."
        )
    shown = Examples(pool, examples.instruction, examples.input_name, examples.output_name)
    points = learning_curve(engine, shown, asked, counts, seed=seed, repeats=repeats, how=how)
    most = Counter(item.output for item in asked).most_common(1)[0][1] / len(asked)
    head = ["examples", "right", "± deviation", "worst", "best"]
    rows = [
        [str(p.shots), *(f"{x:.1%}" for x in (p.mean, p.spread, min(p.accuracies), max(p.accuracies)))]
        for p in points
    ]
    title = f"{len(asked)} questions of {data}; always the most frequent answer: {most:.1%}"
    show_table(title, head, rows)
    some = asked[:3]
    last = Examples(pool[: counts[-1]], examples.instruction, examples.input_name, examples.output_name)
    said = answers(engine, last, [item.input for item in some], how)
    for item, answer in zip(some, said, strict=True):
        say(f"{examples.input_name}: {item.input}\n  wanted: {item.output}\n  said:   {answer}")
    unit = f"right answers of {len(asked)}"
    _write(
        out,
        "few-shot",
        f"{model.resolve().name} on {Path(data).name}",
        [curve_finding(points, most, Table(head, rows), unit)],
    )


def long_context(
    model: Model,
    text: Annotated[Path, typer.Option(help="A text file, or a folder of .txt and .md files.")],
    lengths: Annotated[
        str | None, typer.Option(help="Lengths in tokens; default: the context's quarter, half and whole.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Stretches of text read for the loss.")] = 8,
    trials: Annotated[int, typer.Option(min=1, help="Numbers hidden at each depth of each length.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides what is hidden where.")] = 0,
    out: Out = None,
) -> None:
    """Measure the loss at every position of long texts, and whether numbers hidden in them are found."""
    engine = BatchingEngine.load(model_at(model))
    context = engine.context_length
    sizes = numbers(lengths, "--lengths") if lengths else sorted({context // 4, context // 2, context})
    if sizes[-1] > context or sizes[0] < 2:
        raise UserError(f"--lengths must be from 2 to {context:,}, the context of this model.")
    ids = engine.tokenizer.encode(read_text(text))
    if len(ids) <= sizes[-1]:
        raise UserError(
            f"{text} has {len(ids):,} tokens and a length of {sizes[-1]:,} was asked for: give more."
        )
    starts = np.linspace(0, len(ids) - sizes[-1] - 1, min(windows, (len(ids) - 1) // sizes[-1])).astype(int)
    begin = engine.tokenizer.begin([])
    rows_NT = torch.tensor([[*begin, *ids[a : a + sizes[-1] + 1 - len(begin)]] for a in starts.tolist()])
    losses = loss_by_position(engine.model, rows_NT)
    bins = [(a, b, math.exp(loss)) for a, b, loss in binned(losses, BINS)]
    by_position = Table(
        ["tokens before", "perplexity"],
        [[f"{a:,} to {b - 1:,}", f"{perplexity:.2f}"] for a, b, perplexity in bins],
    )
    show_table(f"Perplexity by position, {len(rows_NT)} texts", by_position.head, by_position.rows)
    with progress("hidden numbers", len(sizes) * len(DEPTHS) * trials, "texts") as bar:
        grid = needle_grid(engine, ids, sizes, trials=trials, seed=seed, advance=bar.advance)
    needles = Table(
        ["length", "depth", "said", "likeliest of 10", "probability of 10"],
        [[f"{n.length:,}", *(f"{x:.0%}" for x in (n.depth, n.hits, n.first, n.share))] for n in grid],
    )
    show_table(f"Hidden numbers, {trials} a cell; by chance 10%", needles.head, needles.rows)
    findings = [perplexity_finding(bins, by_position), needle_finding(grid, needles)]
    _write(out, "long context", model.resolve().name, findings)


def read_text(path: Path) -> str:
    """A text file, or all .txt and .md files of a folder in the order of their names; raises UserError where
    there are none or they are no text."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".txt", ".md"))
    try:
        text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from error
    if not text.strip():
        raise UserError(f"There is no text in {path}: give a text file, or a folder of .txt or .md files.")
    return text


def _write(out: Path | None, kind: str, name: str, findings: Sequence[Finding]) -> None:
    if out is not None:
        write_atomic(out, findings_page(kind, name, findings))
        print(out.resolve())
