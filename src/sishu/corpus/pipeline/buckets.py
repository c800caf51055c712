"""The second half of the work, a bucket of documents at a time: what must be known of each so that it can be
compared with all others, and what is done once they have been compared (`comparisons.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from sishu.corpus.document import Document, Refused
from sishu.corpus.duplicates import passages
from sishu.corpus.duplicates.dedup import MinHash, band_keys
from sishu.corpus.hashing import mix, text_digest
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.funnel import Funnel, Rejected
from sishu.corpus.pipeline.material import new_funnel
from sishu.corpus.pipeline.parts import of_bucket
from sishu.corpus.pipeline.plan import Plan
from sishu.corpus.pipeline.split import group_rank
from sishu.corpus.table import documents_of, table_of, write_table

ADDRESS = "same address"
EXACT, PASSAGES, NEAR = "exact duplicates", "repeated passages", "near duplicates"
"""The steps that compare documents."""
_CRAWL = re.compile(r"CC-MAIN-\d{4}-\d{2}")
NONE = numpy.iinfo(numpy.uint64).max
"""In a row of ids of originals: this document repeats none."""


def gather(plan: Plan, number: int) -> dict[str, Any]:
    """Collects the documents of a bucket from all parts and sorts them by id."""
    documents, refused = of_bucket(plan, number)
    documents.sort(key=lambda d: (d.id, d.url, d.date, d.text))
    funnel = new_funnel(plan.settings, plan.material)
    if plan.settings.same_address == "newest":
        documents, older = _newest(documents, funnel)
        refused += older
    write_table(plan.path("gathered", number, "parquet"), table_of(documents))
    write_table(plan.path("refused_alone", number, "parquet"), _refusals(refused))
    sites = [passages.site_of(document.url) for document in documents]
    edges = [
        passages.edge_hashes(document.text, site) if plan.settings.repeated_passages else []
        for document, site in zip(documents, sites, strict=True)
    ]
    digests = b"".join(text_digest(document.text) for document in documents)
    plan.leave(
        "gathered",
        number,
        ids=_ids(documents),
        digests=numpy.frombuffer(digests, numpy.uint64).reshape(-1, 2),
        sites=numpy.array([passages.site_hash(site) for site in sites], numpy.uint64),
        edge_owners=numpy.array([i for i, found in enumerate(edges) for _ in found], numpy.int64),
        edges=numpy.array([edge for found in edges for edge in found], numpy.uint64),
    )
    return {"funnel": funnel.as_dict()}


def list_passages(plan: Plan, number: int) -> dict[str, Any]:
    """Numbers for all passages of a bucket's documents that are no exact duplicates."""
    shared = _shared_edges(plan)
    hashes = [
        passages.passage_hashes(_without_edges(document, shared), lines=plan.settings.repeated_lines)
        for document in _after_exact(plan, number, Funnel(0))[0]
    ]
    plan.leave(
        "passages",
        number,
        counts=numpy.array([len(one) for one in hashes], numpy.int64),
        hashes=numpy.concatenate([numpy.zeros(0, numpy.uint64), *hashes]),
    )
    return {}


def settle(plan: Plan, number: int) -> dict[str, Any]:
    """Takes out exact duplicates and repeated passages, and signs what is left for near duplicates."""
    funnel = new_funnel(plan.settings, plan.material)
    documents, refused = _after_exact(plan, number, funnel)
    if plan.settings.repeated_passages:
        documents, nothing_new = _cut_passages(plan, number, documents, funnel)
        refused += nothing_new
    write_table(plan.path("settled", number, "parquet"), table_of(documents))
    write_table(plan.path("refused_compared", number, "parquet"), _refusals(refused))
    group = plan.settings.held_out_group
    pattern = re.compile(group) if group else None
    started = perf_counter()
    bands = _bands(documents, plan.settings) if plan.settings.near_duplicates else {}
    plan.leave(
        "settled",
        number,
        ids=_ids(documents),
        ranks=numpy.array([group_rank(document.url, pattern) for document in documents], numpy.uint64),
        lengths=numpy.array([len(document.text) for document in documents], numpy.int64),
        **bands,
    )
    if plan.settings.near_duplicates:
        funnel.step(NEAR).seconds += perf_counter() - started
    return {"funnel": funnel.as_dict()}


def last_of(plan: Plan, number: int, funnel: Funnel) -> tuple[list[Document], list[Refused]]:
    """The documents of a bucket that are in the corpus, and those that were near duplicates."""
    documents = _read(plan, "settled", number)
    if not plan.settings.near_duplicates:
        return documents, []
    return _first_ones(documents, plan.array("near", number, "originals").tolist(), NEAR, funnel)


class RefusalsWriter:
    """Writes refused.parquet, sorted by id: `id`, `url` and `source` of each document that is not in the
    corpus, the `step` and `reason` of its refusal, and the id of the `original` that it repeats, if any."""

    def __init__(self, path: Path) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(path, _refusals([]).schema, compression="zstd")

    def __enter__(self) -> RefusalsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, plan: Plan, number: int, refused: Sequence[Refused]) -> None:
        """Adds all that a bucket has lost, `refused` being those it lost last."""
        before = [
            pyarrow.parquet.read_table(plan.path(kind, number, "parquet"))
            for kind in ("refused_alone", "refused_compared")
        ]
        table = pyarrow.concat_tables([*before, _refusals(refused)])
        self._writer.write_table(table.sort_by([(name, "ascending") for name in table.column_names]))


def _refusals(refused: Sequence[Refused]) -> pyarrow.Table:
    columns = {
        name: pyarrow.array([getattr(one.document, name) for one in refused], pyarrow.string())
        for name in ("id", "url", "source")
    } | {
        name: pyarrow.array([getattr(one, name) for one in refused], pyarrow.string())
        for name in ("step", "reason", "original")
    }
    return pyarrow.table(columns)


def _put_through(
    funnel: Funnel, name: str, documents: Iterable[Document], works: Iterable[Callable[[], Document]]
) -> tuple[list[Document], list[Refused]]:
    """What a step has let through, and what it has not."""
    kept: list[Document] = []
    refused: list[Refused] = []
    for document, work in zip(documents, works, strict=True):
        outcome = funnel.apply(name, document, work)
        if isinstance(outcome, Refused):
            refused.append(outcome)
        else:
            kept.append(outcome)
    return kept, refused


def _newest(documents: Sequence[Document], funnel: Funnel) -> tuple[list[Document], list[Refused]]:
    """Of sorted documents the last of each address."""

    def last(document: Document, following: Document | None) -> Document:
        if following and following.id == document.id:
            raise Rejected("older")
        return document

    works = (partial(last, *pair) for pair in zip_longest(documents, documents[1:]))
    return _put_through(funnel, ADDRESS, documents, works)


def _after_exact(plan: Plan, number: int, funnel: Funnel) -> tuple[list[Document], list[Refused]]:
    originals = plan.array("exact", number, "originals").tolist()
    return _first_ones(_read(plan, "gathered", number), originals, EXACT, funnel)


def _first_ones(
    documents: Sequence[Document], originals: Sequence[int], name: str, funnel: Funnel
) -> tuple[list[Document], list[Refused]]:
    def said_first(document: Document, original: int) -> Document:
        if original != NONE:
            raise Rejected("said before")
        return document

    works = (partial(said_first, *pair) for pair in zip(documents, originals, strict=True))
    kept, refused = _put_through(funnel, name, documents, works)
    repeating = (original for original in originals if original != NONE)
    for one, original in zip(refused, repeating, strict=True):
        one.original = f"{original:016x}"
    return kept, refused


def _cut_passages(
    plan: Plan, number: int, documents: Sequence[Document], funnel: Funnel
) -> tuple[list[Document], list[Refused]]:
    shared = _shared_edges(plan)

    def cut(document: Document, repeated: NDArray[numpy.bool_]) -> Document:
        text = _without_edges(document, shared)
        text = passages.without_passages(text, repeated, lines=plan.settings.repeated_lines)
        if len(text) < min(plan.settings.min_characters, len(document.text)):
            raise Rejected("nothing new")
        return replace(document, text=text)

    ends = plan.array("passages", number, "counts").cumsum()
    # the last piece is what lies behind the last document: nothing
    marks = numpy.split(plan.array("repeated", number, "passages"), ends)[:-1]
    works = (partial(cut, *pair) for pair in zip(documents, marks, strict=True))
    return _put_through(funnel, PASSAGES, documents, works)


def _without_edges(document: Document, shared: set[int]) -> str:
    return passages.without_edges(document.text, passages.site_of(document.url), shared)


def _shared_edges(plan: Plan) -> set[int]:
    return set(plan.array("edges", 0, "shared").tolist())


def _read(plan: Plan, kind: str, number: int) -> list[Document]:
    return documents_of(pyarrow.parquet.read_table(plan.path(kind, number, "parquet")))


def _ids(documents: Sequence[Document]) -> NDArray[numpy.uint64]:
    return numpy.array([int(document.id, 16) for document in documents], numpy.uint64)


def _bands(documents: Sequence[Document], settings: CleanSettings) -> dict[str, NDArray[numpy.uint64]]:
    """Keys by band; those of different crawls, if these are kept apart, never agree."""
    words: dict[str, int] = {}
    how = MinHash(**settings.minhash.model_dump())
    keys = numpy.array([band_keys(document.text, words, how) for document in documents], numpy.uint64)
    keys = keys.reshape(-1, how.bands)
    if settings.per_crawl:
        crawls = [passages.site_hash(crawl_of(document.source)) for document in documents]
        keys = mix(keys ^ numpy.array(crawls, numpy.uint64)[:, None])
    return {f"band{band}": row for band, row in enumerate(keys.T)}


def crawl_of(source: str) -> str:
    """The crawl that an input file belongs to: Common Crawl's name for it, or the first folder."""
    match = _CRAWL.search(source)
    return match[0] if match else source.rpartition("/")[0].partition("/")[0]
