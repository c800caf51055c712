"""`sishu scaling`: how the loss falls with size and tokens, and an ability with size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sishu.console import UserError, say, set_quiet, show_table
from sishu.files import write_atomic
from sishu.scaling.emergence import accuracy_table, emergence, emergence_page
from sishu.scaling.ladder import scaling as climb
from sishu.scaling.page import (
    allocation_table,
    beside_words,
    law_words,
    rung_table,
    scaling_page,
    verdict_table,
)


def scaling(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A run's folder with corpus and tokenizer, or a recipe, which makes them first.",
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings, such as widths=[64,96,128] or pretrain.model.depth=2."
        ),
    ] = None,
    emerge: Annotated[
        bool,
        typer.Option("--emergence", help="Instead: models of several sizes learn to add, without a recipe."),
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="The folder; default runs/NAME, or runs/emergence.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
) -> None:
    """Train a ladder of small models, fit a scaling law, predict a larger model and train it to check."""
    set_quiet(quiet)
    given = list(words or [])
    if emerge:
        _emergence([*([recipe] if recipe else []), *given], run or Path("runs") / "emergence")
        return
    if recipe is None or "=" in recipe:
        raise UserError(
            "Give a recipe or a run's folder, such as `sishu scaling quickstart`, or --emergence."
        )
    folder, found = climb(recipe, given, run)
    for title, table in (
        ("The ladder", rung_table(found)),
        (f"Predicted and measured after {found.test.tokens:,} tokens, bits per byte", verdict_table(found)),
        ("Operations spent best, by the law", allocation_table(found)),
    ):
        show_table(title, table.head, table.rows)
    say(beside_words(found))
    say(law_words(found))
    page = folder / "scaling.html"
    write_atomic(page, scaling_page(folder.resolve().parent.name, found))
    print(page.resolve())


def _emergence(words: list[str], folder: Path) -> None:
    found = emergence(words, folder)
    table = accuracy_table(found)
    show_table(found.title, table.head, table.rows)
    page = folder / "emergence.html"
    write_atomic(page, emergence_page(folder.resolve().name, found))
    print(page.resolve())
