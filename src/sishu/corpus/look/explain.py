"""What became of one document: the input is gone back to, the steps are walked once more and watched, and
what the steps that compare documents said is looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sishu.config import build, read_yaml
from sishu.console import UserError
from sishu.corpus.document import Document, Page, Refused, document_id
from sishu.corpus.hashing import text_digest
from sishu.corpus.look.lookup import Row, find, place_of_input, rows_of
from sishu.corpus.pipeline.buckets import ADDRESS, EXACT, NEAR, PASSAGES
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.document_steps import DocumentSteps
from sishu.corpus.pipeline.funnel import Funnel
from sishu.corpus.pipeline.split import TAIL
from sishu.corpus.read.sources import list_inputs, read_input
from sishu.files import read_json
from sishu.run import CONFIG, MANIFEST, code_digest, stage_module

GIVEN_UP = ("took too long", "ended the process", "failed: MemoryError")
"""Reasons for which a document is not gone through again: nothing here would stop it."""
UNKNOWN = "\0"
"""Stands for a text of which only the corpus stage knew what was left; no text of a document holds NUL."""
_COMPARING = (ADDRESS, EXACT, PASSAGES, NEAR)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step did to a document."""

    step: str
    before: str
    after: str | None
    """None when the step refused it."""
    reason: str = ""
    body: int | None = None
    """Bytes of a page that came to the step undecoded."""
    decoded: bool = True
    """Whether what left the step was text."""

    @property
    def arrived(self) -> int | None:
        """Characters that came; of an undecoded page, bytes; None where nobody knows."""
        if self.before == UNKNOWN:
            return None
        return len(self.before) if self.body is None else self.body

    @property
    def left(self) -> int | None:
        """Characters that went on; of an undecoded page, bytes; None when it was refused, or nobody knows."""
        if self.after is None or self.after == UNKNOWN:
            return None
        return len(self.after) if self.decoded else self.body

    @property
    def changed(self) -> bool:
        """Whether a text left as another text."""
        return self.body is None and self.after not in (None, UNKNOWN, self.before)


@dataclass(slots=True)
class Account:
    """What became of one document."""

    id: str
    url: str
    source: str
    date: str = ""
    language: str = ""
    language_score: float = 0.0
    quality_score: float | None = None
    steps: list[Outcome] = field(default_factory=list)
    verdicts: list[Row] = field(default_factory=list)
    """What the corpus says of it; more than one where several documents of one URL cannot be told apart."""
    originals: dict[str, list[Row]] = field(default_factory=dict)
    """What became of those that it repeats, by id."""
    end: Row | None = None
    """The end of its text, where that alone is held out."""
    notes: list[str] = field(default_factory=list)


class _Watch(Funnel):
    """A funnel that remembers every outcome."""

    def __init__(self) -> None:
        super().__init__(0)
        self.outcomes: list[Outcome] = []

    def apply(
        self,
        name: str,
        document: Document,
        work: Callable[[], Document],
        body: int | None = None,
        is_text: tuple[bool, bool] = (True, True),
    ) -> Document | Refused:
        """See `Funnel.apply`."""
        outcome = super().apply(name, document, work, body, is_text)
        after, reason = (None, outcome.reason) if isinstance(outcome, Refused) else (outcome.text, "")
        decoded = body is None or outcome is not document
        self.outcomes.append(Outcome(name, document.text, after, reason, body, decoded))
        return outcome


def explain(run: Path, name: str, on_item: Callable[[], None] = lambda: None) -> list[Account]:
    """What each step did to the documents of one id or URL.

    Args:
        run: a run's folder with a finished corpus (see `run_with_corpus`).
        name: 16 hexadecimal digits, or a URL, or, for files of the user's, what stands for one.
        on_item: called for each item of the input that is passed over.

    Returns:
        One account for each document of that id, in the order of the input.

    Raises:
        UserError: there is no such document; the input is gone or has changed since.
    """
    folder = run / "corpus"
    manifest = read_json(folder / MANIFEST)
    rows = find(folder, name)
    stored = read_yaml(folder / CONFIG)
    wanted = {key: value for key, value in stored.items() if key in CleanSettings.model_fields}
    places = {
        name: place_of_input(run, one["path"], one["digest"]) for name, one in manifest["inputs"].items()
    }
    data = places.pop("data")
    for setting, place in places.items():
        if setting.partition(".")[0] in wanted:
            _put(wanted, setting.split("."), str(place))
    settings = build(CleanSettings, wanted, str(folder / CONFIG))
    accounts = _accounts(folder, rows, data, settings, on_item)
    if not accounts and rows[0].url.endswith(TAIL):  # the end of a document that is cut in two
        rows = rows_of(folder, document_id(rows[0].url.removesuffix(TAIL))) or rows
        accounts = _accounts(folder, rows, data, settings, on_item)
    same_program = code_digest(stage_module("corpus")) == manifest["code_digest"]
    wrong = _disagreement(accounts, rows)
    if wrong and same_program:
        raise UserError(f"{data} has changed since the corpus was made ({wrong}): run `sishu corpus` again.")
    if wrong:
        for account in accounts:
            account.notes.append(f"sishu has changed since the corpus was made: {wrong}")
    return accounts


def _put(settings: Any, keys: Sequence[str], place: str) -> None:
    """Names the place of a file of the settings, as in `block.domains.0`."""
    for key in keys[:-1]:
        settings = settings[int(key) if key.isdigit() else key]
    settings[int(keys[-1]) if keys[-1].isdigit() else keys[-1]] = place


def _accounts(
    folder: Path, rows: Sequence[Row], data: Path, settings: CleanSettings, on_item: Callable[[], None]
) -> list[Account]:
    sources = sorted({row.source for row in rows})
    inputs = {source.name: source for source in list_inputs(data)}
    accounts: list[Account] = []
    for name in sources:
        here = [row for row in rows if row.source == name]
        if name not in inputs:
            raise UserError(f"{name or 'The file it came from'} is no longer in {data}: put it back.")
        found: list[Page | Document] = []
        for item in read_input(inputs[name], lambda line: None):
            on_item()
            if document_id(item.url) == here[0].id:
                found.append(item)
                if len(found) == len(here):
                    break
        accounts += _walk(found, here, settings)
    _compared(folder, accounts, rows, settings)
    return accounts


def _walk(items: Iterable[Page | Document], rows: Sequence[Row], settings: CleanSettings) -> list[Account]:
    """The steps that take each document for itself."""
    first = rows[0]
    if any(row.reason in GIVEN_UP for row in rows):
        why = "it" if len(rows) == 1 else "one of this URL"
        note = f"{why} was given up, and is not gone through again: the same would happen here"
        return [
            Account(first.id, first.url, first.source, item.date, verdicts=list(rows), notes=[note])
            for item in items
        ]
    accounts = []
    with TemporaryDirectory() as compiled:
        for item in items:
            watch = _Watch()
            [outcome] = DocumentSteps(settings, watch, Path(compiled))([(item, first.source)])
            document = outcome.document if isinstance(outcome, Refused) else outcome
            account = Account(document.id, document.url, document.source, document.date)
            account.language, account.language_score = document.language, document.language_score
            account.quality_score = document.quality_score
            account.steps = watch.outcomes
            accounts.append(account)
    return accounts


def _compared(
    folder: Path, accounts: Sequence[Account], rows: Sequence[Row], settings: CleanSettings
) -> None:
    """Adds what the steps said that compare documents, and which document each repeats."""
    alone = {outcome.step for account in accounts for outcome in account.steps}
    waiting = [row for row in rows if row.split or row.step not in alone]
    # documents of one URL come in the order of date and text
    left = sorted(filter(_passed, accounts), key=lambda account: (account.date, _text(account)))
    if settings.same_address == "newest":
        for account in left[:-1]:
            _take(account, waiting, lambda row: row.step == ADDRESS)
    seen: set[bytes] = set()
    for account in left:
        digest = text_digest(_text(account))
        if digest in seen:
            _take(account, waiting, lambda row: row.step == EXACT and row.original == row.id)
        if not account.verdicts:
            seen.add(digest)
    for account in left:
        _take(account, waiting, partial(_is_rest, _text(account)))
    for account in left:
        rest = [row for row in waiting if not row.split and row.source == account.source]
        account.verdicts = account.verdicts or rest
    for account in accounts:
        if account.steps and len(account.verdicts) == 1:
            _add_comparisons(folder, account, account.verdicts[0], settings)
        for verdict in account.verdicts:
            if verdict.original:
                account.originals[verdict.original] = rows_of(folder, verdict.original)


def _take(account: Account, waiting: list[Row], fits: Callable[[Row], bool]) -> None:
    """Gives a document without a verdict the first that fits."""
    rows = [row for row in waiting if row.source == account.source and fits(row)]
    if rows and not account.verdicts:
        account.verdicts = rows[:1]
        waiting.remove(rows[0])


def _add_comparisons(folder: Path, account: Account, verdict: Row, settings: CleanSettings) -> None:
    """Adds the steps that compare documents; how much was left of a near duplicate nobody knows any more."""
    before = _text(account)
    wanted = {
        ADDRESS: settings.same_address == "newest",
        EXACT: True,
        PASSAGES: settings.repeated_passages,
        NEAR: settings.near_duplicates,
    }
    text = _whole(folder, account, verdict) if verdict.split else UNKNOWN
    for step in _COMPARING:
        if step == verdict.step:
            break
        if wanted[step]:
            after = before if step in (ADDRESS, EXACT) else text
            account.steps.append(Outcome(step, before, after))
            before = after
    if verdict.split:
        return
    account.steps.append(Outcome(verdict.step, before, None, verdict.reason))


def _whole(folder: Path, account: Account, kept: Row) -> str:
    """The text as it was kept, put together again where its end was held out."""
    before, text = _text(account), kept.text
    if before.strip("\n").endswith(text):
        return text
    ends = rows_of(folder, document_id(account.url + TAIL))
    held = [row for row in ends if row.split and row.url == account.url + TAIL]
    account.end = next((row for row in held if row.source == account.source), None)
    if not account.end:
        return text
    inside = before.startswith(text) and before.strip("\n").endswith(account.end.text)
    return before if inside else f"{text}\n{account.end.text}"


def _disagreement(accounts: Sequence[Account], rows: Sequence[Row]) -> str:
    """How the steps walked now differ from what the corpus says; empty if they do not."""
    if len(accounts) != len(rows):
        return f"it holds {len(accounts)} of {len(rows)} documents of this URL"
    for account in accounts:
        if not account.steps and not account.verdicts:
            return "a document is missing"
    then = Counter((row.step, row.reason) for row in rows if row.step and row.step not in _COMPARING)
    last = [_alone(account)[-1] for account in accounts if account.steps]
    now = Counter((outcome.step, outcome.reason) for outcome in last if outcome.after is None)
    if then != now and all(account.steps for account in accounts):
        told = [
            ", ".join(f"{step}: {reason}" for step, reason in sorted(one - other)) or "let through"
            for one, other in ((then, now), (now, then))
        ]
        return f"then {told[0]}; now {told[1]}"
    if any(_passed(account) and not account.verdicts for account in accounts):
        return "its text is another"
    return ""


def _alone(account: Account) -> list[Outcome]:
    """What the steps did that take each document for itself."""
    return [outcome for outcome in account.steps if outcome.step not in _COMPARING]


def _passed(account: Account) -> bool:
    return bool(account.steps) and _alone(account)[-1].after is not None


def _text(account: Account) -> str:
    return account.steps[-1].after or ""


def _is_rest(text: str, row: Row) -> bool:
    """Whether a row is this text, kept, less some lines; its end may be held out in the middle of a line."""
    lines = row.text.split("\n")
    return row.split != "" and {*lines[:-1]} <= {*text.split("\n"), ""} and lines[-1] in text
