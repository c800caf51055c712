"""What takes all documents at once: which repeats which, and which are held out. Only numbers are in memory,
some 100 bytes of a document and one of each of its lines, never its text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from sishu.corpus.duplicates import passages
from sishu.corpus.duplicates.dedup import Clusters, first_of_each
from sishu.corpus.pipeline.buckets import NONE
from sishu.corpus.pipeline.plan import Plan
from sishu.corpus.pipeline.split import split

PASSAGES_AT_ONCE = 8_000_000
"""Numbers compared at a time; a corpus with more is compared in as many rounds as it takes."""


class Division(NamedTuple):
    """Who is held out, by buckets."""

    held_out: list[NDArray[numpy.bool_]]
    """For each bucket, of each document that is in the corpus."""
    cut_in: int
    """The bucket whose last document that is not held out is cut."""
    tail: int
    """Characters at its end that are held out too; 0: none."""


def compare_texts(plan: Plan) -> None:
    """Exact duplicates, and the lines that sites have at the edges of their pages.

    Leaves for each bucket, in the order of its documents, the id of the first with the same text, or `NONE`.
    """
    first = first_of_each(_all(plan, "gathered", "digests").reshape(-1, 2))
    kept = _leave_originals(plan, "exact", "gathered", first)
    owners, start = [], 0
    for bucket in range(plan.buckets):
        owners.append(plan.array("gathered", bucket, "edge_owners") + start)
        start += len(plan.array("gathered", bucket, "sites"))
    owner = numpy.concatenate(owners)
    position = kept.cumsum() - 1  # among the documents that are left
    here = kept[owner]
    shared = passages.shared_edges(
        _all(plan, "gathered", "sites")[kept], position[owner[here]], _all(plan, "gathered", "edges")[here]
    )
    plan.leave("edges", 0, shared=shared)


def compare_passages(plan: Plan) -> None:
    """Which passages were said before, in the order of documents and lines.

    In rounds, each of which reads all numbers and compares some, so that few of them are in memory.
    """
    sizes = [int(plan.array("passages", bucket, "counts").sum()) for bucket in range(plan.buckets)]
    starts = numpy.cumsum([0, *sizes])
    repeated = numpy.zeros(starts[-1], bool)
    rounds = numpy.uint64(-(-len(repeated) // PASSAGES_AT_ONCE))
    for turn in range(int(rounds)):
        hashes, places = [], []
        for bucket in range(plan.buckets):
            row = plan.array("passages", bucket, "hashes")
            chosen = numpy.flatnonzero(row % rounds == numpy.uint64(turn))
            hashes.append(row[chosen])
            places.append(chosen + starts[bucket])
        where = numpy.concatenate(places)
        repeated[where[passages.said_before(numpy.concatenate(hashes))]] = True
    for bucket in range(plan.buckets):
        plan.leave("repeated", bucket, passages=repeated[starts[bucket] : starts[bucket + 1]])


def compare_signatures(plan: Plan) -> None:
    """Near duplicates; leaves the ids of their originals as `compare_texts` does."""
    clusters = Clusters(sum(len(plan.array("settled", b, "ids")) for b in range(plan.buckets)))
    for band in range(plan.settings.minhash.bands):
        clusters.join(
            numpy.concatenate([plan.array("settled", b, f"band{band}") for b in range(plan.buckets)])
        )
    _leave_originals(plan, "near", "settled", clusters.first)


def choose_held_out(plan: Plan) -> Division:
    """Who is in the corpus, and on which side."""
    lengths, ranks = _all(plan, "settled", "lengths"), _all(plan, "settled", "ranks")
    kept = numpy.ones(len(lengths), bool)
    if plan.settings.near_duplicates:
        kept = _all(plan, "near", "originals") == NONE
    chosen = split(
        ranks[kept], lengths[kept], plan.settings.held_out, grouped=bool(plan.settings.held_out_group)
    )
    sizes = [len(plan.array("settled", bucket, "ids")) for bucket in range(plan.buckets)]
    ends = numpy.cumsum([int(one.sum()) for one in numpy.split(kept, numpy.cumsum(sizes)[:-1])])
    held_out = numpy.split(chosen.held_out, ends[:-1])
    last = len(chosen.held_out) - int(chosen.held_out.sum()) - 1
    return Division(held_out, int(numpy.searchsorted(ends, last, side="right")), chosen.tail)


def count(plan: Plan) -> tuple[int, int]:
    """Documents and characters of the corpus."""
    lengths = _all(plan, "settled", "lengths")
    if plan.settings.near_duplicates:
        lengths = lengths[_all(plan, "near", "originals") == NONE]
    return len(lengths), int(lengths.sum())


def _leave_originals(plan: Plan, kind: str, of: str, first: NDArray[numpy.int64]) -> NDArray[numpy.bool_]:
    """Writes down the ids of the originals; returns who is one."""
    ids = _all(plan, of, "ids")
    kept: NDArray[numpy.bool_] = first == numpy.arange(len(first))
    originals = numpy.where(kept, NONE, ids[first])
    start = 0
    for bucket in range(plan.buckets):
        end = start + len(plan.array(of, bucket, "ids"))
        plan.leave(kind, bucket, originals=originals[start:end])
        start = end
    return kept


def _all(plan: Plan, kind: str, name: str) -> NDArray[Any]:
    return numpy.concatenate([plan.array(kind, bucket, name) for bucket in range(plan.buckets)])
