"""What a finished corpus is made of: languages, domains, lengths, duplicates, refusals, tokens.

Tables are read batch by batch and counted; what is in memory grows with the number of domains, up to
`MOST_DOMAINS`, and by 8 bytes for each duplicate, never with the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from sishu.corpus.look.lookup import DOCUMENTS, REFUSED, opened, rows_of
from sishu.corpus.pipeline.buckets import EXACT, NEAR

TOP = 20
"""Domains, and reasons of refusal, that are named."""
MOST_DOMAINS = 2_000_000
"""Domains that are counted; documents come in the order of hashes, so that a large one is among the first."""
LENGTHS = (0, 100, 200, 500, *(n * 10**e for e in range(3, 6) for n in (1, 2, 5)), 1_000_000)
"""Where the bars of the histogram of lengths begin, in characters; the last has no end."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SCORES = 20
"""Bars of the histogram of the language scores, from 0 to 1."""
CLUSTERS = (2, 3, 4, 5, 10, 100, 1000)
"""Where the classes of clusters of duplicates begin; the last has no end."""
LARGEST = 5
"""Clusters that are named."""
MOST_ENCODED = 20_000
"""Documents that are cut into tokens; of a corpus with more, a sample of about so many is."""
NO_DOMAIN = ""
"""Stands for the documents of files, which have none."""

# the longest name that the domain name system allows; (?i) as addresses come in capitals too
_HOST = r"(?i)^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(?:www\.)?(?P<host>\[[^\]/?#]{1,251}\]|[^/?#:]{1,253})"
_EXACT_LENGTHS = 1_000_000
_PIECE = 1_000_000

Rows = NDArray[numpy.int64]
Count = Callable[[Sequence[str]], Iterable[int]]
"""The number of tokens of each text."""


@dataclass(slots=True)
class Amount:
    """How much text."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    """In UTF-8."""

    def add(self, documents: int, characters: int, size: int) -> None:
        """Adds to it."""
        self.documents += documents
        self.characters += characters
        self.bytes += size


@dataclass(slots=True)
class Clusters:
    """Documents that say the same: those refused by one step, and the one of each cluster that was left."""

    refused: int = 0
    clusters: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Clusters by the class of their size, see `CLUSTERS`; the one that was left counts."""
    largest: list[tuple[str, str, int]] = field(default_factory=list)
    """Id and URL of the one that was left, and size of the cluster."""


@dataclass(slots=True)
class Statistics:
    """Of one corpus; everything sorted by how much there is of it."""

    all: Amount = field(default_factory=Amount)
    splits: dict[str, Amount] = field(default_factory=dict)
    languages: dict[str, Amount] = field(default_factory=dict)
    domains: dict[str, Amount] = field(default_factory=dict)
    """The `TOP` largest, by characters; `NO_DOMAIN` is not one of them."""
    domains_in_all: int = 0
    without_domain: Amount = field(default_factory=Amount)
    lengths: list[int] = field(default_factory=list)
    """Documents in each bar of `LENGTHS`."""
    quantiles: dict[str, int] = field(default_factory=dict)
    """Characters of a document at `min`, `1%` … `99%`, `max`."""
    scores: list[int] = field(default_factory=list)
    """Documents in each bar of `SCORES`, by language score."""
    quality_scores: list[int] = field(default_factory=list)
    """The same by quality score; of a corpus without a quality model, all 0."""
    stored_bytes: int = 0
    """What the texts take up on the disk."""
    refused: dict[str, int] = field(default_factory=dict)
    """Documents by `step: reason`."""
    duplicates: dict[str, Clusters] = field(default_factory=dict)
    """By step."""


@dataclass(slots=True)
class Tokens:
    """What a tokenizer makes of the corpus."""

    documents: int = 0
    """That were cut into tokens."""
    sampled: bool = False
    """Whether these are not all of them; the tokens in all are then an estimate."""
    tokens: int = 0
    languages: dict[str, LanguageTokens] = field(default_factory=dict)


@dataclass(slots=True)
class LanguageTokens:
    """Of one language, or of all."""

    tokens: int
    """Of all documents, estimated by bytes where only some were cut."""
    characters_per_token: float
    bytes_per_token: float


def measure(folder: Path) -> Statistics:
    """The statistics of the corpus in a folder.

    Raises:
        UserError: a table is missing or not one that the corpus stage wrote.
    """
    found = Statistics()
    _measure_documents(folder / DOCUMENTS, found)
    _measure_refused(folder, found)
    return found


def count_tokens(folder: Path, found: Statistics, count: Count, most: int = MOST_ENCODED) -> Tokens:
    """How many tokens the corpus has, in all and by language.

    Args:
        folder: of the corpus.
        found: what `measure` says of it.
        count: the tokenizer.
        most: about how many documents to cut; which ones is decided by their ids, which are hashes.
    """
    # "g" comes after every hexadecimal number
    border = f"{most * (1 << 64) // found.all.documents:016x}" if found.all.documents > most else "g"
    sizes: dict[str, Amount] = {}
    tokens: Counter[str] = Counter()
    for batch in _batches(folder / DOCUMENTS, ("id", "language", "text"), 64):
        rows = [row for row in batch.to_pylist() if row["id"] < border]
        pieces = [
            (row["language"], row["text"][start : start + _PIECE])
            for row in rows
            for start in range(0, len(row["text"]), _PIECE)
        ]
        for (language, piece), number in zip(pieces, count([text for _, text in pieces]), strict=True):
            tokens[language] += number
            sizes.setdefault(language, Amount()).add(0, len(piece), len(piece.encode()))
        for row in rows:
            sizes.setdefault(row["language"], Amount()).documents += 1
        if len(rows) < batch.num_rows:  # the table is sorted by id
            break
    all_sizes = Amount()
    for size in sizes.values():
        all_sizes.add(size.documents, size.characters, size.bytes)
    result = Tokens(all_sizes.documents, all_sizes.documents < found.all.documents)
    per_byte = tokens.total() / max(1, all_sizes.bytes)
    for language, amount in found.languages.items():
        part, number = sizes.get(language), tokens[language]
        if part is None or not number:  # none of the sample is in this language
            result.tokens += round(amount.bytes * per_byte)
            continue
        estimate = round(number / part.bytes * amount.bytes)
        result.tokens += estimate
        result.languages[language] = LanguageTokens(estimate, part.characters / number, part.bytes / number)
    return result


def _measure_documents(path: Path, found: Statistics) -> None:
    with opened(path, ("text",)) as file:
        column = file.schema_arrow.names.index("text")
        groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
        found.stored_bytes = sum(group.column(column).total_compressed_size for group in groups)
    exact = numpy.zeros(_EXACT_LENGTHS, numpy.int64)
    longer: Counter[int] = Counter()
    scores = {name: numpy.zeros(SCORES, numpy.int64) for name in ("language_score", "quality_score")}
    domains: dict[str, Amount] = {}
    columns = ("url", "language", *scores, "split", "text")
    for batch in _batches(path, columns, 1024):
        characters = pyarrow.compute.utf8_length(batch["text"])
        sizes = pyarrow.compute.binary_length(batch["text"])
        lengths = characters.to_numpy(zero_copy_only=False)
        exact += numpy.bincount(lengths[lengths < _EXACT_LENGTHS], minlength=_EXACT_LENGTHS)
        longer.update(lengths[lengths >= _EXACT_LENGTHS].tolist())
        for name, histogram in scores.items():
            known = batch[name].drop_null().to_numpy(zero_copy_only=False)
            histogram += numpy.histogram(known.astype(numpy.float64), SCORES, (0, 1))[0]
        host = pyarrow.compute.struct_field(pyarrow.compute.extract_regex(batch["url"], _HOST), "host")
        host = pyarrow.compute.utf8_lower(pyarrow.compute.coalesce(host, NO_DOMAIN))
        for counts, keys in (
            (found.splits, batch["split"]),
            (found.languages, batch["language"]),
            (domains, host),
        ):
            _add(counts, keys, characters, sizes)
    for amount in found.splits.values():
        found.all.add(amount.documents, amount.characters, amount.bytes)
    found.without_domain = domains.pop(NO_DOMAIN, found.without_domain)
    found.domains_in_all = len(domains)
    found.domains = dict(list(_by_size(domains).items())[:TOP])
    found.languages = _by_size(found.languages)
    found.scores, found.quality_scores = (histogram.tolist() for histogram in scores.values())
    found.lengths = [*numpy.add.reduceat(exact, LENGTHS[:-1]).tolist(), longer.total()]
    found.quantiles = _quantiles(exact, longer)


def _add(counts: dict[str, Amount], keys: Any, characters: Any, sizes: Any) -> None:
    table = pyarrow.table({"key": keys, "characters": characters, "bytes": sizes})
    sums = table.group_by("key").aggregate([("key", "count"), ("characters", "sum"), ("bytes", "sum")])
    for row in sums.to_pylist():
        key = row["key"]
        if key not in counts and len(counts) >= MOST_DOMAINS:
            continue
        counts.setdefault(key, Amount()).add(row["key_count"], row["characters_sum"], row["bytes_sum"])


def _by_size(counts: dict[str, Amount]) -> dict[str, Amount]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1].characters, entry[0])))


def _quantiles(exact: Rows, longer: Counter[int]) -> dict[str, int]:
    lengths = numpy.concatenate([numpy.arange(len(exact)), numpy.array(sorted(longer), numpy.int64)])
    upto = numpy.concatenate([exact, [longer[length] for length in sorted(longer)]]).cumsum()
    total = int(upto[-1])
    if not total:
        return {}

    def at(rank: int) -> int:
        """The length of the document of that rank, from 1, the shortest first."""
        return int(lengths[numpy.searchsorted(upto, rank)])

    middle = {f"{share:.0%}": at(max(1, int(numpy.ceil(share * total)))) for share in QUANTILES}
    return {"min": at(1), **middle, "max": at(total)}


def _measure_refused(folder: Path, found: Statistics) -> None:
    reasons: Counter[str] = Counter()
    originals: dict[str, list[NDArray[numpy.uint64]]] = {EXACT: [], NEAR: []}
    for batch in _batches(folder / REFUSED, ("step", "reason", "original"), 65_536):
        steps = batch["step"]
        table = pyarrow.table({"step": steps, "reason": batch["reason"]})
        for row in table.group_by(["step", "reason"]).aggregate([("step", "count")]).to_pylist():
            reasons[f"{row['step']}: {row['reason']}"] += row["step_count"]
        for step, rows in originals.items():
            chosen = batch["original"].filter(pyarrow.compute.equal(steps, step)).to_pylist()
            rows.append(numpy.array([int(one, 16) for one in chosen if one], numpy.uint64))
    found.refused = dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0])))
    for step, rows in originals.items():
        first, times = numpy.unique(
            numpy.concatenate([numpy.zeros(0, numpy.uint64), *rows]), return_counts=True
        )
        if not len(first):
            continue
        classes = numpy.searchsorted(CLUSTERS, times + 1, side="right") - 1
        by_class = numpy.bincount(classes, minlength=len(CLUSTERS)).tolist()
        largest = numpy.lexsort((first, -times))[:LARGEST]
        found.duplicates[step] = Clusters(
            int(times.sum()),
            len(first),
            {size: number for size, number in zip(CLUSTERS, by_class, strict=True) if number},
            [_named(folder, f"{int(first[at]):016x}", int(times[at]) + 1) for at in largest],
        )


def _named(folder: Path, identity: str, size: int) -> tuple[str, str, int]:
    rows = rows_of(folder, identity)
    return identity, rows[0].url if rows else "", size


def _batches(path: Path, columns: Iterable[str], rows: int) -> Iterator[pyarrow.RecordBatch]:
    with opened(path, tuple(columns)) as file:
        yield from file.iter_batches(batch_size=rows, columns=list(columns))
