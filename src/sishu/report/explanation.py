"""What became of a document, told in the terminal (`sishu corpus explain`)."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sishu.console import UserError, counted, progress, show_table
from sishu.corpus.look.explain import UNKNOWN, Account, Outcome, explain
from sishu.corpus.look.lookup import Row
from sishu.corpus.pipeline.buckets import ADDRESS
from sishu.report.wording import number_words, shown

SHOWN_LINES = 6
"""Changed lines of a step that are shown."""
WIDTH = 100
"""Characters of each."""
MOST_LINES = 200
"""Lines around the first change that are compared, so that no text takes long."""
_BEFORE = 30
_SIDES = {"train": "for training", "validation": "held out for validation"}


def show(run: Path, name: str, step: str | None = None) -> None:
    """Tells what became of the documents of one id or URL, or prints their text after one step.

    Raises:
        UserError: see `explain` and `text_after`.
    """
    with progress("looking for it", None, "documents") as bar:
        accounts = explain(run, name, bar.advance)
    if step is None:
        tell(accounts)
        return
    text = text_after(accounts, step)
    # a terminal obeys what is hidden in a text; a file is to get it as it is
    print(shown(text) if sys.stdout.isatty() else text)


def tell(accounts: Sequence[Account]) -> None:
    """Prints the accounts one after the other."""
    if len(accounts) > 1:
        print(f"{len(accounts)} documents have this URL.\n")
    for account in accounts:
        _tell_one(account)


def text_after(accounts: Sequence[Account], step: str) -> str:
    """The whole text after a step, of several documents one below the other.

    Raises:
        UserError: none of them has left that step as text.
    """
    taken = [outcome for account in accounts for outcome in account.steps]
    texts = [o.after for o in taken if o.step == step and o.decoded and o.after not in (None, UNKNOWN)]
    if texts:
        return "\n\n".join(text for text in texts if text is not None)
    names = list(dict.fromkeys(o.step for o in taken if o.decoded and o.left is not None))
    hint = f"there is text after {', '.join(names)}" if names else "it was refused before there was any text"
    raise UserError(f"There is no text after a step “{shown(step)}”: {hint}.")


def _tell_one(account: Account) -> None:
    print(shown(account.url))
    about = [f"id {account.id}", f"from {shown(account.source)}"]
    about += [shown(account.date)] if account.date else []
    about += [f"language {account.language} ({account.language_score:.2f})"] if account.language else []
    about += [f"quality {account.quality_score:.2f}"] if account.quality_score is not None else []
    print(f"  {', '.join(about)}")
    for note in account.notes:
        print(f"  Note: {shown(note)}")
    if account.steps:
        rows = [(o.step, _size(o, o.arrived, o.body is not None), *_after(o)) for o in account.steps]
        show_table("", ["step", "characters in", "out", "outcome"], rows)
    for outcome in account.steps:
        if lines := list(_changes(outcome)):
            print(f"{outcome.step}:")
            print("\n".join(f"  {line}" for line in lines))
    if len(account.verdicts) > 1:
        print("Which of these it was cannot be told:")
    for verdict in account.verdicts:
        print(_verdict(account, verdict))
    if not account.verdicts and account.steps[-1].after is None:
        print(f"Refused by “{account.steps[-1].step}”: {account.steps[-1].reason}.")
    if account.end:
        print(f"The last {counted(len(account.end.text), 'character')} are held out for validation.")
    print()


def _after(outcome: Outcome) -> tuple[str, str]:
    size = _size(outcome, outcome.left, not outcome.decoded)
    if outcome.after is None:
        return size, f"refused: {outcome.reason}"
    return size, "changed" if outcome.changed else "let through"


def _size(outcome: Outcome, size: int | None, undecoded: bool) -> str:
    return number_words(size) + (" bytes" if undecoded and size is not None else "")


def _verdict(account: Account, row: Row) -> str:
    if row.split:
        return f"Kept, {_SIDES.get(row.split, row.split)}."
    said = f"Refused by “{row.step}”: {row.reason}."
    if row.original == row.id:
        return f"{said}\n  It repeats another document of this URL."
    if row.original:
        of = account.originals.get(row.original, [])
        url = shown(of[0].url) if of else "a document that is not in the corpus"
        return f"{said}\n  It repeats {url} (id {row.original}), which was {_fate(of)}."
    if row.step == ADDRESS:
        return f"{said}\n  The newest page of this address was kept instead."
    if row.reason == "nothing new":
        return f"{said}\n  Too little was left when what other documents say before it had been cut out."
    return said


def _fate(rows: Sequence[Row]) -> str:
    if kept := next((row for row in rows if row.split), None):
        return f"kept, {_SIDES.get(kept.split, kept.split)}"
    return next((f"refused later by “{row.step}”" for row in rows), "lost")


def _changes(outcome: Outcome) -> Iterator[str]:
    """The first changed lines; of a text that was made from something else, how it begins."""
    if outcome.after is None or outcome.after == UNKNOWN or not outcome.decoded:
        return
    if outcome.body is not None:
        yield from _begins(outcome.after)
        return
    if not outcome.changed:
        return
    before, after = outcome.before.split("\n"), outcome.after.split("\n")
    if not {line.strip() for line in before if line.strip()} & {line.strip() for line in after}:
        yield from _begins(outcome.after) if len(before) > 1 else _pair(before[0], after[0])
        return
    start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
    before, after = before[start : start + MOST_LINES], after[start : start + MOST_LINES]
    lines = _differences(before, after)
    for number, line in enumerate(lines):
        if number == SHOWN_LINES:
            yield "…"
            return
        yield line


def _differences(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after).get_opcodes():
        if kind == "replace" and b - a == d - c:
            for one, other in zip(before[a:b], after[c:d], strict=True):
                yield from _pair(one, other)
        elif kind != "equal":
            yield from (f"- {_clip(line, 0)}" for line in before[a:b])
            yield from (f"+ {_clip(line, 0)}" for line in after[c:d])


def _pair(before: str, after: str) -> Iterator[str]:
    """A changed line, from shortly before its first change."""
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
    start = max(0, same - _BEFORE)
    yield f"- {_clip(before, start)}"
    yield f"+ {_clip(after, start)}"


def _begins(text: str) -> Iterator[str]:
    lines = [line for line in text[: WIDTH * WIDTH].split("\n") if line.strip()]
    yield from (f"| {_clip(line, 0)}" for line in lines[: SHOWN_LINES // 2])


def _clip(line: str, start: int) -> str:
    piece = line[start : start + WIDTH]
    cut = "…" if start + WIDTH < len(line) else ""
    return ("…" if start else "") + shown(piece.replace("\t", " ")) + cut
