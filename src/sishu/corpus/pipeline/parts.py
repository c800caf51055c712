"""The first half of the work: input files into documents, each for itself, sorted into bins by id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow
import pyarrow.ipc

from sishu.corpus.document import Document, Page, Refused
from sishu.corpus.pipeline.document_steps import DocumentSteps, Item
from sishu.corpus.pipeline.material import new_funnel
from sishu.corpus.pipeline.plan import Plan
from sishu.corpus.read.sources import read_input
from sishu.corpus.table import DOCUMENT, documents_of, table_of
from sishu.files import whole, write_atomic

SHELF_CHARACTERS = 32_000_000
"""Of text held in memory before it is written down."""

BATCH, BATCH_BYTES = 64, 4_000_000
"""Items that go through the steps together, and bytes of them."""

Watch = Callable[[int], None]
"""Called with the number of the item that is worked on next, one of a batch by turns, and with -1 for each
that is done, when its batch is."""


def clean_part(plan: Plan, number: int, watch: Watch) -> dict[str, Any]:
    """Reads and cleans the input files of one part; the figures are what `clean_items` says."""
    damaged: Counter[str] = Counter()

    def report(line: str) -> None:
        damaged[line.partition(": ")[0]] += 1

    def items() -> Iterator[Item]:
        for source in plan.parts[number]:
            for item in read_input(source, report):
                yield item, source.name

    return clean_items(plan, number, items(), damaged, watch)


def clean_items(
    plan: Plan, number: int, items: Iterable[Item], damaged: Counter[str], watch: Watch
) -> dict[str, Any]:
    """Cleans what is read for one part and leaves it on shelves: Arrow files with a batch of rows a
    bin, of which any can be read without the others.

    Documents that are refused stay as rows without text. Items that ended a process before (see
    `condemn`) are refused unseen.

    Args:
        plan: of the corpus.
        number: of the part.
        items: what is read, once.
        damaged: filled by the reader with what it skipped, by reason; read when `items` has ended.
        watch: told what is worked on, and what is done.

    Returns:
        The number of items, the shelves with the bins of their batches and the characters in each, the
        funnel, and what was damaged and scrubbed.
    """
    funnel = new_funnel(plan.settings, plan.material)
    steps = DocumentSteps(plan.settings, funnel, plan.material)
    condemned = _condemned(plan, number)
    shelves: list[dict[int, int]] = []
    waiting: list[Document | Refused] = []
    size = count = 0
    for batch in _batches(items):
        first = count + 1
        reasons = {item - first: reason for item, reason in condemned.items()}
        for outcome in steps(batch, reasons, partial(_watched, watch, first)):
            watch(-1)
            waiting.append(outcome)
            size += len(outcome.text) if isinstance(outcome, Document) else 200
        count += len(batch)
        if size >= SHELF_CHARACTERS:
            shelves.append(_put_away(plan, number, len(shelves), waiting))
            waiting, size = [], 0
    if waiting:
        shelves.append(_put_away(plan, number, len(shelves), waiting))
    return {
        "items": count,
        "shelves": shelves,
        "funnel": funnel.as_dict(),
        "damaged": dict(damaged),
        "scrubbed": dict(steps.scrubbed),
    }


def _watched(watch: Watch, first: int, place: int) -> None:
    watch(first + place)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[0].body if isinstance(item[0], Page) else item[0].text)
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def condemn(plan: Plan, number: int, item: int, reason: str) -> None:
    """Notes that an item of a part is not to be touched again."""
    known = _condemned(plan, number) | {item: reason}
    write_atomic(plan.path("condemned", number, "json"), json.dumps(known))


def _condemned(plan: Plan, number: int) -> dict[int, str]:
    path = plan.path("condemned", number, "json")
    known = json.loads(path.read_bytes()) if path.is_file() else {}
    return {int(item): str(reason) for item, reason in known.items()}


def _put_away(plan: Plan, part: int, shelf: int, outcomes: list[Document | Refused]) -> dict[int, int]:
    """Writes a shelf; returns the bin of each of its batches, with the characters in it."""
    by_bin: dict[int, list[Document | Refused]] = {}
    for outcome in outcomes:
        document = outcome if isinstance(outcome, Document) else outcome.document
        by_bin.setdefault(plan.bin_of(document.id), []).append(outcome)
    packed = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with (
        whole(plan.path("shelves", part, f"{shelf}.arrow")) as path,
        pyarrow.ipc.new_file(str(path), _SHELF, options=packed) as writer,
    ):
        for number in sorted(by_bin):
            writer.write_batch(_shelf_table(by_bin[number]).combine_chunks().to_batches()[0])
    return {
        number: sum(len(one.text) for one in by_bin[number] if isinstance(one, Document))
        for number in sorted(by_bin)
    }


_SHELF = DOCUMENT.append(pyarrow.field("step", pyarrow.string())).append(
    pyarrow.field("reason", pyarrow.string())
)


def _shelf_table(outcomes: list[Document | Refused]) -> pyarrow.Table:
    documents = []
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            outcome.document.text = ""
            documents.append(outcome.document)
        else:
            documents.append(outcome)
    steps, reasons = (
        [getattr(o, name) if isinstance(o, Refused) else "" for o in outcomes] for name in ("step", "reason")
    )
    return table_of(documents, step=steps, reason=reasons)


def sort_shelves(plan: Plan) -> None:
    """When all parts are done: makes the buckets, and writes down for each where its documents are."""
    characters = [0] * plan.bins
    places: list[list[tuple[int, int, int]]] = [[] for _ in range(plan.bins)]
    for part in range(len(plan.parts)):
        for shelf, amounts in enumerate(plan.result("part", part)["shelves"]):
            for group, (number, amount) in enumerate(amounts.items()):
                places[int(number)].append((part, shelf, group))
                characters[int(number)] += amount
    plan.set_buckets(characters)
    for bucket, lowest in enumerate(plan.lowest_ids):
        write_atomic(plan.path("places", bucket, "json"), json.dumps(places[plan.bin_of(f"{lowest:016x}")]))


def of_bucket(plan: Plan, bucket: int) -> tuple[list[Document], list[Refused]]:
    """What all parts have put away for a bucket: documents let through, and refused ones."""
    kept: list[Document] = []
    refused: list[Refused] = []
    for part, shelf, group in plan.places(bucket):
        with pyarrow.memory_map(str(plan.path("shelves", part, f"{shelf}.arrow"))) as file:
            table = pyarrow.Table.from_batches([pyarrow.ipc.open_file(file).get_batch(group)])
        mine = pyarrow.array(
            [plan.bucket_of(one) == bucket for one in table["id"].to_pylist()], pyarrow.bool_()
        )
        table = table.filter(mine)
        rows = zip(documents_of(table), table["step"].to_pylist(), table["reason"].to_pylist(), strict=True)
        for document, step, reason in rows:
            if step:
                refused.append(Refused(document, step, reason))
            else:
                kept.append(document)
    return kept, refused
