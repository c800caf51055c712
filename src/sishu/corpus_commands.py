"""What `sishu corpus` can do besides making one: explain, count, compare, train a model of quality."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sishu.ablate import WITHOUT
from sishu.ablate import ablate as what_it_earns
from sishu.console import say, set_quiet, show_table
from sishu.corpus.judge.quality_training import read_examples, train
from sishu.corpus.look.lookup import run_with_corpus
from sishu.corpus.pipeline.examples import examples_in
from sishu.report import corpus_tables, explanation


class CorpusGroup(TyperGroup):
    """A stage's command that has commands of its own: the first word decides which of them is meant."""

    _named = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperGroup`."""
        self._named = args[:1] != [] and args[0] in self.commands
        ctx.allow_interspersed_args = not self._named  # else options after the first setting are lost
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """See `TyperGroup`; the settings would take the name of the command for one of them."""
        params = super().get_params(ctx)
        return [one for one in params if one.param_type_name == "option"] if self._named else params


corpus_app = typer.Typer(cls=CorpusGroup, invoke_without_command=True, subcommand_metavar="| COMMAND …")

CorpusRun = Annotated[
    Path | None,
    typer.Option("--run", help="The run's folder; default: the only one in runs/.", show_default=False),
]


@corpus_app.command(
    help="What each step did to one document, kept or refused. "
    "Example: sishu corpus explain https://example.org/page --run runs/my"
)
def explain(
    document: Annotated[
        str,
        typer.Argument(metavar="DOC", help="Its URL, or its id of 16 hex digits; for a file, its name."),
    ],
    run: CorpusRun = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="Print the whole text after this step, and nothing else."),
    ] = None,
) -> None:
    explanation.show(run_with_corpus(run), document, text)


@corpus_app.command(
    help="What a finished corpus is made of: languages, domains, lengths, duplicates, refusals, tokens. "
    "Example: sishu corpus stats --run runs/my --json stats.json"
)
def stats(
    run: CorpusRun = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Whose tokens to count; default: the run's own, if it has one.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the numbers there too.", show_default=False)
    ] = None,
) -> None:
    corpus_tables.show(run_with_corpus(run), tokenizer, json)


@corpus_app.command(
    help="What a step earns: the same small model trained with it and without. "
    "Example: sishu corpus ablate near-duplicates --run runs/my"
)
def ablate(
    change: Annotated[
        list[str],
        typer.Argument(
            metavar="STEP|KEY=VALUE",
            help=f"A step to leave out ({', '.join(WITHOUT)}), or other settings of the corpus, such as "
            "quality=none; pretrain.KEY=VALUE for the model.",
        ),
    ],
    run: CorpusRun = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Models trained on each corpus.")] = 3,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
) -> None:
    set_quiet(quiet)
    what_it_earns(run_with_corpus(run), change, seeds)


@corpus_app.command(
    "train-quality",
    help="Train a model of good and bad text for quality_model. "
    "Example: sishu corpus train-quality --good wiki/ --bad spam.warc.gz --out quality",
)
def train_quality(
    out: Annotated[Path, typer.Option(help="The folder to write the model to.")],
    labelled: Annotated[
        list[Path] | None, typer.Option(help="Rows with `text` and `label` (.jsonl, .parquet).")
    ] = None,
    good: Annotated[list[str] | None, typer.Option(help="Texts or pages that are good.")] = None,
    bad: Annotated[list[str] | None, typer.Option(help="Texts or pages that are bad.")] = None,
) -> None:
    left_out: Counter[str] = Counter()

    def report(line: str) -> None:
        left_out[line.partition(": ")[0]] += 1

    sources = [*((data, True) for data in good or []), *((data, False) for data in bad or [])]
    examples = chain(
        *(read_examples(path, report) for path in labelled or []),
        *(examples_in(data, is_good, report) for data, is_good in sources),
    )
    model = train(examples)
    model.save(out)
    skipped = ", ".join(f"{reason} ({count})" for reason, count in sorted(left_out.items()))
    say(f"Left out: {skipped or 'nothing'}")
    known = model.card["held_out"]
    rows = [(code, *_quality_row(figures)) for code, figures in known["languages"].items()]
    columns = ["held out", "texts", "good", "area under the curve", "accuracy"]
    show_table(
        "A model of quality, on texts it had not seen", columns, [("all", *_quality_row(known)), *rows]
    )
    print(out.resolve())


def _quality_row(figures: dict[str, Any]) -> tuple[str, str, str, str]:
    auc = figures["auc"]
    shown = "–" if auc is None else f"{auc:.3f}"
    return f"{figures['texts']:,}", f"{figures['good']:,}", shown, f"{figures['accuracy']:.1%}"
