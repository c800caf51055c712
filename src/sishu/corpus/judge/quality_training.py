"""Train a quality model on texts that the user calls good and bad, and say how well it does on others.

Logistic regression with a Gaussian prior, fitted with L-BFGS: one best solution, no seed, and seconds for
thousands of texts. Every figure is of texts that neither the weights nor the calibration (Platt 1999,
"Probabilistic outputs for support vector machines") had seen.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from sishu.console import UserError, counted
from sishu.corpus.document import Document
from sishu.corpus.hashing import text_digest
from sishu.corpus.judge.language import identify
from sishu.corpus.judge.quality_figures import Flags, Floats, evaluate
from sishu.corpus.judge.quality_model import BUCKETS, QualityModel, Units

MIN_EACH = 20
"""Different good, and different bad, texts without which nothing can be learnt and tested."""
EDUCATIONAL = 3
"""From which a text on FineWeb-Edu's scale of 0 to 5 is good; theirs."""
PRIOR = 0.03
"""Of the weights, the inverse variance. On texts labelled by people (DCLM's, English film and Chinese hotel
reviews) the area under the curve moves by .006 at most between a third and thrice of it."""
FOLDS = 5
SMALL = 5_000
"""Texts up to which every fold is held out in turn; above, one of them is."""
_LANGUAGE_BY = 1000
"""Characters of a text by which its language is told for the figures."""
_SLICE = 1 << 22


@dataclass(frozen=True, slots=True)
class Example:
    """A text somebody judged."""

    text: str
    good: bool


def examples_of(documents: Iterable[Document], good: bool) -> Iterator[Example]:
    """All of some documents as good, or bad, ones: Wikipedia beside what a crawl brings, say."""
    return (Example(document.text, good) for document in documents)


def read_examples(path: Path, report: Callable[[str], None]) -> Iterator[Example]:
    """The rows of a .jsonl, .jsonl.gz or .parquet file that have a `text` and a `label`.

    Labels are good and bad, 1 and 0, true and false, or numbers from 0 to 5 as FineWeb-Edu's, from 3 good;
    0 and 1 are of the latter scale if a label above 1 occurs anywhere in the file, which is read twice.

    Args:
        path: the file.
        report: called with one line, `reason: place`, for each row that is skipped.

    Raises:
        UserError: no such file, another kind of file, or one that cannot be read.
    """
    above = 1.0
    for row, _ in _rows(path):
        value = _value(row.get("label"))
        above = max(above, value) if isinstance(value, float) and value <= 5 else above
    least = EDUCATIONAL if above > 1 else 1
    for row, place in _rows(path, report):
        text, value = row.get("text"), _value(row.get("label"))
        if not isinstance(text, str):
            report(f"row without a text: {place}")
        elif value is None or (isinstance(value, float) and not 0 <= value <= 5):
            label = repr(row.get("label"))[:40]
            report(f"label that is neither good nor bad nor 0 to 5: {place} has {label}")
        elif above == 1 and isinstance(value, float) and value not in (0, 1):
            report(f"label between 0 and 1: {place} has {value}")
        else:
            yield Example(text, value if isinstance(value, bool) else value >= least)


def _value(label: object) -> bool | float | None:
    """A label as good, bad, or a number; None if it is none of these."""
    if isinstance(label, str):
        label = label.strip().lower()
        if label in ("good", "bad"):
            return label == "good"
    if isinstance(label, bool | str | int | float):
        try:
            return label if isinstance(label, bool) else float(label)
        except (ValueError, OverflowError):
            return None
    return None


def _rows(
    path: Path, report: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[dict[str, Any], str]]:
    name = path.name.lower()
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a .jsonl, .jsonl.gz or .parquet file of labelled texts")
    if not name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise UserError(f"{path} must be a .jsonl, .jsonl.gz or .parquet file of texts and labels")
    number = 0
    try:
        if name.endswith(".parquet"):
            with pyarrow.parquet.ParquetFile(path) as table:
                columns = [c for c in ("text", "label") if c in table.schema_arrow.names]
                for batch in table.iter_batches(batch_size=256, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield row, f"{path.name}#{number}"
            return
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield row, f"{path.name}:{number}"
                else:
                    report(f"broken JSON line: {path.name}:{number}")
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read after row {number} ({error})") from error


@dataclass
class Bags:
    """Texts as rows of numbers, sparse: row i holds `value[start[i]:start[i + 1]]` in those buckets; of unit
    length."""

    start: NDArray[np.int64]
    bucket: NDArray[np.int32]
    value: NDArray[np.float32]

    def times(self, weights: Floats) -> Floats:
        """(rows,), each row times the weights (BUCKETS or so,)."""
        total = np.zeros(len(self.start) - 1)
        for rows, part in self._slices():
            products = weights[self.bucket[part]] * self.value[part]
            total[rows] = np.add.reduceat(products, self.start[rows] - part.start)
        return total

    def transposed_times(self, errors: Floats, size: int) -> Floats:
        """(size,), the sum of the rows, each times its error (rows,)."""
        total = np.zeros(size)
        for rows, part in self._slices():
            lengths = self.start[rows.start + 1 : rows.stop + 1] - self.start[rows]
            products = self.value[part] * np.repeat(errors[rows], lengths)
            total += np.bincount(self.bucket[part], products, size)
        return total

    def _slices(self) -> Iterator[tuple[slice, slice]]:
        """Rows, some millions of numbers at a time, so that what is made of them stays small."""
        row, last = 0, len(self.start) - 1
        while row < last:
            after = max(row + 1, int(np.searchsorted(self.start, self.start[row] + _SLICE, "right")) - 1)
            yield slice(row, after), slice(int(self.start[row]), int(self.start[after]))
            row = after

    def chosen(self, rows: Flags) -> Bags:
        """Some of the rows."""
        lengths = np.diff(self.start)
        inside = np.repeat(rows, lengths)
        start = np.concatenate(([0], np.cumsum(lengths[rows])))
        return Bags(start, self.bucket[inside], self.value[inside])


def train(examples: Iterable[Example], report: Callable[[str], None] = lambda line: None) -> QualityModel:
    """A model of what makes a text good; the same bytes for the same examples in any order.

    Texts without a word, texts again (but for case and white space), and those called both good and bad are
    left out. 8 bytes of memory go to each different word and pair of a text, 6 kB to an ordinary page.

    Args:
        examples: consumed once, one at a time.
        report: called with one line, `reason: how many`, for what is left out.

    Returns:
        The model, trained on all of them; its card holds `texts`, `good`, `left_out` by reason, and
        `held_out`, the figures of `evaluate` on texts held out.

    Raises:
        UserError: fewer than 20 different good texts, or bad ones.
    """
    bags, good, languages, left_out = _gather(examples)
    for reason, number in left_out.items():
        report(f"{reason}: {number}")
    if min(int(good.sum()), int((~good).sum())) < MIN_EACH:
        raise UserError(
            f"a quality model needs {MIN_EACH} different good texts and as many bad ones, and there are "
            f"{counted(int(good.sum()), 'good one')} and {counted(int((~good).sum()), 'bad one')}: label more"
        )
    fold = np.zeros(len(good), np.int64)
    for side in (good, ~good):
        fold[side] = np.arange(side.sum()) % FOLDS
    held_out = np.full(len(good), len(good) <= SMALL) | (fold == 0)
    logits = np.zeros(len(good))
    for one in np.unique(fold[held_out]):
        test = fold == one
        weights, bias = _fit(bags.chosen(~test), good[~test])
        logits[test] = bags.chosen(test).times(weights) + bias
    logits, known = logits[held_out], good[held_out]
    # within each side by turns, so that a text's probability comes from a calibration on others
    turn = fold[held_out] if len(good) <= SMALL else _by_turns(known)
    probabilities = np.zeros(len(known))
    for one in range(FOLDS):
        test = turn == one
        slope, offset = _platt(logits[~test], known[~test])
        probabilities[test] = _sigmoid(slope * logits[test] + offset)
    spoken = [code for code, held in zip(languages, held_out, strict=True) if held]
    weights, bias = _fit(bags, good)
    slope, offset = _platt(logits, known)
    card = {
        "texts": len(good),
        "good": int(good.sum()),
        "left_out": left_out,
        "held_out": evaluate(probabilities, known, spoken),
    }
    return QualityModel((slope * weights).astype(np.float32), slope * bias + offset, card)


def _by_turns(good: Flags) -> NDArray[np.int64]:
    turn = np.zeros(len(good), np.int64)
    for side in (good, ~good):
        turn[side] = np.arange(side.sum()) % FOLDS
    return turn


def _gather(examples: Iterable[Example]) -> tuple[Bags, Flags, list[str], dict[str, int]]:
    """The different texts in the order of their digests: their bags, whether good, languages; what was left
    out."""
    units, left_out = Units(), Counter[str]()
    rows: dict[bytes, tuple[NDArray[np.int32], NDArray[np.float32], bool, str]] = {}
    both: set[bytes] = set()
    for example in examples:
        buckets, times = units.buckets(example.text)
        if not len(buckets):
            left_out["text without a word"] += 1
            continue
        digest = text_digest(example.text)
        if digest in rows:
            if rows[digest][2] != example.good:
                both.add(digest)
            left_out["text again"] += 1
            continue
        value = np.sqrt(times / times.sum()).astype(np.float32)
        rows[digest] = (buckets, value, example.good, identify(example.text[:_LANGUAGE_BY])[0] or "none")
    for digest in both:
        del rows[digest]
        left_out["both good and bad"] += 1
    ordered = [rows[digest] for digest in sorted(rows)]
    start = np.concatenate(([0], np.cumsum([len(row[0]) for row in ordered], dtype=np.int64)))
    bags = Bags(
        start.astype(np.int64),
        np.concatenate([np.zeros(0, np.int32), *(row[0] for row in ordered)]),
        np.concatenate([np.zeros(0, np.float32), *(row[1] for row in ordered)]),
    )
    good = np.array([row[2] for row in ordered], bool)
    return bags, good, [row[3] for row in ordered], dict(sorted(left_out.items()))


def _fit(bags: Bags, good: Flags) -> tuple[Floats, float]:
    """The likeliest weights (BUCKETS,) and bias, given a Gaussian prior on the weights."""
    used, bucket = np.unique(bags.bucket, return_inverse=True)
    narrow = Bags(bags.start, bucket.astype(np.int32), bags.value)
    wanted = good.astype(np.float64)

    def loss(at: Floats) -> tuple[float, Floats]:
        weights, logits = at[:-1], narrow.times(at[:-1]) + at[-1]
        value = np.logaddexp(0, logits).sum() - (wanted * logits).sum() + PRIOR / 2 * (weights**2).sum()
        errors = _sigmoid(logits) - wanted
        slope = narrow.transposed_times(errors, len(weights)) + PRIOR * weights
        return float(value), np.append(slope, errors.sum())

    found = _least(loss, np.zeros(len(used) + 1))
    weights = np.zeros(BUCKETS)
    weights[used] = found[:-1]
    return weights, float(found[-1])


def _platt(logits: Floats, good: Flags) -> tuple[float, float]:
    """Slope and offset that make probabilities of logits; targets as in Platt 1999, short of 0 and 1."""
    many, few = int(good.sum()), int((~good).sum())
    wanted = np.where(good, (many + 1) / (many + 2), 1 / (few + 2))
    scale = max(float(np.abs(logits).max()), 1e-9)
    scaled = logits / scale

    def loss(at: Floats) -> tuple[float, Floats]:
        z = at[0] * scaled + at[1]
        errors = _sigmoid(z) - wanted
        value = np.logaddexp(0, z).sum() - (wanted * z).sum()
        return float(value), np.array([(errors * scaled).sum(), errors.sum()])

    slope, offset = _least(loss, np.array([scale, 0.0]))
    # where nothing was learnt the best slope may be below 0, which would turn the order of all texts round
    return max(float(slope) / scale, 1e-6), float(offset)


def _sigmoid(logits: Floats) -> Floats:
    result: Floats = np.exp(-np.logaddexp(0, -logits))
    return result


def _least(loss: Callable[[Floats], tuple[float, Floats]], start: Floats) -> Floats:
    """Where a convex loss, given with its gradient, is least."""
    at = torch.from_numpy(start).requires_grad_()
    # a closer approach takes five times as long, and the figures stay
    search: torch.optim.Optimizer = torch.optim.LBFGS(
        [at], max_iter=100, history_size=10, tolerance_grad=0.02, line_search_fn="strong_wolfe"
    )

    def step() -> float:
        value, gradient = loss(at.detach().numpy())
        at.grad = torch.from_numpy(gradient)
        return value

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are of other bytes on more
    try:
        search.step(step)
    finally:
        torch.set_num_threads(threads)
    found: Floats = at.detach().numpy()
    return found
