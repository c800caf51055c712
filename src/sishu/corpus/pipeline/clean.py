"""From pages to documents fit to learn from: the cleaning pipeline from end to end.

First the steps of each document (`document_steps.py`); then, over all of them sorted by id, newest of an
address, exact duplicates, repeated passages, near duplicates (`buckets.py`); then the split. The work is cut
into tasks (`plan.py`) whose results lie in a folder, so that it can be stopped anywhere and gone on with.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sishu.console import UserError, counted
from sishu.corpus.document import Document, Page
from sishu.corpus.pipeline import buckets, comparisons
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.engines import Engine, Here
from sishu.corpus.pipeline.funnel import Funnel
from sishu.corpus.pipeline.material import material, new_funnel
from sishu.corpus.pipeline.parts import clean_items, sort_shelves
from sishu.corpus.pipeline.plan import Plan, make_plan
from sishu.corpus.pipeline.split import cut_tail
from sishu.corpus.pipeline.tasks import PART, note_done, undone
from sishu.corpus.read.sources import KINDS, Input
from sishu.corpus.table import DocumentsWriter
from sishu.files import whole

MIN_TOTAL = 1000
"""Characters of clean text below which there is nothing to learn."""
WORK = ".work"
"""The folder in which the work lies until it is done; hidden, so that it is no result."""


def clean(
    items: Iterable[Page | Document],
    out: Path,
    settings: CleanSettings,
    *,
    damaged: Sequence[str] = (),
    on_document: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Cleans a stream of pages and documents into the folder `out`, in this process.

    Args:
        items: consumed once, one at a time.
        out: made if need be; see `clean_inputs` for what is written.
        damaged: the list to which the reader of `items` adds a line `reason: place` for each record
            it skipped; read when `items` has ended.
        on_document: called with the number of items done so far.

    Returns and raises what `clean_inputs` does.
    """
    shutil.rmtree(out / WORK, ignore_errors=True)
    plan = Plan(out / WORK, settings, ((),), 1)
    plan.save()
    done = 0

    def watch(item: int) -> None:
        nonlocal done
        if item < 0 and on_document:
            done += 1
            on_document(done)

    note_done(plan, PART, 0, clean_items(plan, 0, ((item, "") for item in items), Counter(), watch))
    return _finish(plan, out, Here(), _reasons(damaged))


def clean_inputs(
    inputs: Sequence[Input],
    out: Path,
    settings: CleanSettings,
    engine: Engine,
    *,
    damaged: Sequence[str] = (),
    on_document: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Cleans input files into the folder `out`; goes on where the same work was stopped there before.

    Writes documents.parquet (the same bytes for the same inputs in any order, by any engine), refused.parquet
    with what became of the others, and what `Funnel.write` writes.

    Args:
        inputs: as `list_inputs` gives them.
        out: made if need be.
        settings: what to keep.
        engine: who does the work.
        damaged: a line `reason: place` for each input that was not even listed.
        on_document: called with the number of items done so far.

    Returns:
        Figures: documents and characters, in all, for train and for validation; refusals, damaged
        records and scrubbed addresses by reason; documents by language.

    Raises:
        UserError: nothing that can be read, or less than 1,000 characters of clean text.
    """
    plan = make_plan(out / WORK, settings, inputs)
    there = plan.folder / "plan.json"
    if not there.is_file() or there.read_text(encoding="utf-8") != plan.as_json():
        shutil.rmtree(plan.folder, ignore_errors=True)
        plan.save()
    material(settings, plan.material)  # by one process, before many read it
    _do(plan, PART, engine, on_document)
    if not any(plan.result(PART, part)["items"] for part in range(len(plan.parts))):
        names = inputs[0].name if len(inputs) == 1 else f"each of the {len(inputs):,} files"
        raise UserError(f"{names} holds no text that can be read; files may be {KINDS}")
    return _finish(plan, out, engine, _reasons(damaged))


def _finish(plan: Plan, out: Path, engine: Engine, damaged: Counter[str]) -> dict[str, Any]:
    """All that follows when each document has been cleaned for itself."""
    scrubbed: Counter[str] = Counter()
    funnel = new_funnel(plan.settings, plan.material)
    for part in range(len(plan.parts)):
        result = plan.result(PART, part)
        funnel.merge(result["funnel"])
        damaged.update(result["damaged"])
        scrubbed.update(result["scrubbed"])
    sort_shelves(plan)
    _do(plan, "gather", engine)
    _merge(plan, "gather", funnel)
    plan.discard("shelves", "arrow")
    comparisons.compare_texts(plan)
    if plan.settings.repeated_passages:
        _do(plan, "passages", engine)
        comparisons.compare_passages(plan)
    _do(plan, "settle", engine)
    plan.discard("gathered", "parquet")
    _merge(plan, "settle", funnel)
    if plan.settings.near_duplicates:
        comparisons.compare_signatures(plan)
    count, characters = comparisons.count(plan)
    enough = characters >= MIN_TOTAL
    sizes = _write(plan, out, funnel) if enough else Counter[tuple[str, str]]()
    skipped = dict(sorted(damaged.items()))
    funnel.write(out, skipped)
    if not enough:
        raise UserError(_too_little(characters, funnel))
    shutil.rmtree(plan.folder)
    splits = {
        split: {what: sizes[split, what] for what in ("documents", "characters")}
        for split in ("train", "validation")
    }
    return {
        "documents": count,
        "characters": characters,
        **splits,
        "rejected": funnel.reasons(),
        "damaged": skipped,
        "scrubbed": dict(sorted(scrubbed.items())),
        "languages": {code: sizes["language", code] for kind, code in sorted(sizes) if kind == "language"},
    }


def _reasons(damaged: Sequence[str]) -> Counter[str]:
    return Counter(line.partition(": ")[0] for line in damaged)


def _do(plan: Plan, task: str, engine: Engine, on_item: Callable[[int], None] | None = None) -> None:
    """Has the tasks of a kind done that are not done yet."""
    if waiting := undone(plan, task):
        engine.run(plan, task, waiting, on_item or (lambda count: None))


def _merge(plan: Plan, task: str, funnel: Funnel) -> None:
    for bucket in range(plan.buckets):
        funnel.merge(plan.result(task, bucket)["funnel"])


def _write(plan: Plan, out: Path, funnel: Funnel) -> Counter[tuple[str, str]]:
    """Writes the documents and the refusals, bucket by bucket; counts documents, characters and languages."""
    division = comparisons.choose_held_out(plan)
    sizes: Counter[tuple[str, str]] = Counter()
    front, end = _cut(plan, division) if division.tail else (None, None)
    with (
        whole(out / "documents.parquet") as path,
        whole(out / "refused.parquet") as refused_path,
        DocumentsWriter(path) as documents,
        buckets.RefusalsWriter(refused_path) as refusals,
    ):
        for bucket in range(plan.buckets):
            kept, refused = buckets.last_of(plan, bucket, funnel)
            refusals.write(plan, bucket, refused)
            held_out = division.held_out[bucket]
            train = [d for d, held in zip(kept, held_out, strict=True) if not held]
            validation = [d for d, held in zip(kept, held_out, strict=True) if held]
            if front and bucket == division.cut_in:
                train[-1] = front
            if end and bucket == plan.bucket_of(end.id):
                validation.append(end)
            documents.write({"train": train, "validation": validation})
            for split, side in (("train", train), ("validation", validation)):
                sizes[split, "documents"] += len(side)
                sizes[split, "characters"] += sum(len(document.text) for document in side)
                sizes.update(("language", document.language) for document in side if document is not end)
    return sizes


def _cut(plan: Plan, division: comparisons.Division) -> tuple[Document, Document]:
    """The one document of which the end is held out, and that end."""
    kept, _ = buckets.last_of(plan, division.cut_in, Funnel(0))
    held_out = division.held_out[division.cut_in]
    last = [document for document, held in zip(kept, held_out, strict=True) if not held][-1]
    return cut_tail(last, division.tail)


def _too_little(characters: int, funnel: Funnel) -> str:
    reasons = sorted(funnel.reasons().items(), key=lambda entry: (-entry[1], entry[0]))
    why = f"; most were refused for “{reasons[0][0]}” ({reasons[0][1]})" if reasons else ""
    documents = funnel.step("decode").documents_in
    return (
        f"only {counted(characters, 'character')} of clean text came out of "
        f"{counted(documents, 'document')}{why}; "
        f"give at least {MIN_TOTAL:,} characters"
    )
