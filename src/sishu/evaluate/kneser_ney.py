"""Interpolated modified Kneser–Ney n-grams over token ids: the count-based model to beat.

Chen & Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98,
1998), section 3: three discounts per order, estimated from the counts of counts, and every order
interpolated with the next lower one down to the uniform distribution. Orders below the highest
count how many different tokens precede an n-gram instead of how often it occurs; n-grams at a
document's beginning, which nothing can precede, keep their own counts (as SRILM and KenLM do).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""For an order whose counts of counts cannot give discounts (KenLM's `--discount_fallback`)."""


@dataclass(slots=True)
class _Order:
    """The n-grams of one length, each numbered by its place in `keys`."""

    keys: Ids
    """Sorted `context * width + token`; `context` is the number of the n-gram one shorter."""
    counts: Ids
    """Occurrences (highest order, document beginnings) or distinct tokens that precede."""
    discounts: Floats
    """(4,): taken off a count of 0, 1, 2, and 3 or more."""
    context_totals: Floats
    """(contexts,): sum of `counts` over the tokens that follow; 0 where none does."""
    backoff: Floats
    """(contexts,): probability mass that the discounts free for the next lower order."""


class KneserNey:
    """An n-gram model of token documents; `fit` it, then ask `log_probabilities`.

    Every document begins after one beginning-of-document id, which is never predicted, so a first
    token is judged by how often documents begin with it. Nothing is added at a document's end:
    to judge endings, put the end-of-text token into the documents.
    """

    def __init__(self, order: int = 5) -> None:
        if order < 1:
            raise ValueError(f"order must be at least 1, not {order}")
        self.order = order
        self._vocabulary = 0
        self._orders: list[_Order] = []

    def fit(self, documents: Iterable[npt.NDArray[np.integer]], vocabulary: int) -> Self:
        """Count the n-grams of `documents`, (T,) ids in [0, `vocabulary`) each; forget earlier ones.

        Raises ValueError for an id outside the vocabulary. Needs a few hundred bytes of
        memory for each training token at order 5.
        """
        self._vocabulary = vocabulary
        pieces: list[Ids] = []
        positions: list[Ids] = []
        beginning = np.array([vocabulary], dtype=np.int64)
        for document in documents:
            pieces += [beginning, self._checked(document)]
            positions.append(np.arange(document.size + 1, dtype=np.int64))
        stream = np.concatenate(pieces) if pieces else beginning[:0]
        position = np.concatenate(positions) if positions else beginning[:0]

        keys: list[Ids] = []
        first: list[Ids] = []  # one position in the stream where each n-gram ends
        raw: list[Ids] = []
        numbers: list[Ids] = [stream]  # numbers[k - 1][i]: the k-gram that ends at i
        contexts: list[int] = []
        for length in range(1, self.order + 1):
            # With one beginning mark, a k-gram can end at position k - 1 of a document at the
            # earliest, and the mark itself is context only.
            ends = np.flatnonzero(position >= max(1, length - 1))
            packed = stream[ends]
            if length > 1:
                packed = packed + numbers[-1][ends - 1] * self._width
            unique, index, inverse, count = np.unique(
                packed, return_index=True, return_inverse=True, return_counts=True
            )
            contexts.append(1 if length == 1 else len(keys[-1]) if length > 2 else self._width)
            keys.append(unique)
            first.append(ends[index])
            raw.append(count.astype(np.int64))
            if length > 1:
                number = np.full(len(stream), -1, dtype=np.int64)
                number[ends] = inverse
                numbers.append(number)

        self._orders = []
        for length in range(1, self.order + 1):
            counts = raw[length - 1]
            if length < self.order:
                # Each longer n-gram type is one distinct token in front of its last `length`.
                suffixes = numbers[length - 1][first[length]]
                at_beginning = (position[first[length - 1]] == length - 1) & (length > 1)
                if length == 1:
                    suffixes = np.searchsorted(keys[0], suffixes)
                preceded = np.bincount(suffixes, minlength=len(counts))
                counts = np.where(at_beginning, counts, preceded)
            self._orders.append(_smoothed(keys[length - 1], counts, self._width, contexts[length - 1]))
        return self

    def log_probabilities(self, document: npt.NDArray[np.integer]) -> Floats:
        """Natural log-probability of each token given those before it: (T,) ids → (T,) nats.

        For any context the probabilities of all `vocabulary` tokens sum to one. Raises ValueError
        for an id outside the vocabulary or when `fit` was not called.
        """
        if not self._orders:
            raise ValueError("the model has not been fitted: call fit() first")
        stream = np.concatenate([np.array([self._vocabulary]), self._checked(document)])
        tokens = stream[1:]
        probability = np.full(len(tokens), 1.0 / self._vocabulary)
        number = np.full(len(stream), -1, dtype=np.int64)  # the n-gram that ends here, -1 unseen
        context = np.zeros(len(tokens), dtype=np.int64)
        for length, table in enumerate(self._orders, start=1):
            if length > 1:
                context = number[:-1]
            found = _find(table.keys, np.where(context >= 0, context * self._width + tokens, -1))
            total = np.where(context >= 0, table.context_totals[context], 0.0)
            known = total > 0
            count = np.where(found >= 0, table.counts[found], 0) if len(table.keys) else found * 0
            kept = count - table.discounts[np.minimum(count, 3)]
            interpolated = kept / np.where(known, total, 1.0) + table.backoff[context] * probability
            probability = np.where(known, interpolated, probability)
            number = stream if length == 1 else np.concatenate([[-1], found])
        logs: Floats = np.log(probability)
        return logs

    @property
    def _width(self) -> int:
        return self._vocabulary + 1  # the ids and the beginning mark

    def _checked(self, document: npt.NDArray[np.integer]) -> Ids:
        if document.size and (document.min() < 0 or document.max() >= self._vocabulary):
            raise ValueError(f"token ids must lie in [0, {self._vocabulary})")
        return document.astype(np.int64)


def _smoothed(keys: Ids, counts: Ids, width: int, contexts: int) -> _Order:
    discounts = _discounts(counts)
    context, contexts = keys // width, max(contexts, 1)
    freed = np.bincount(context, discounts[np.minimum(counts, 3)], minlength=contexts)
    totals = np.bincount(context, counts, minlength=contexts).astype(np.float64)
    return _Order(keys, counts, discounts, totals, freed / np.maximum(totals, 1.0))


def _discounts(counts: Ids) -> Floats:
    """(4,) discounts for counts 0, 1, 2, 3+ (Chen & Goodman 1998, equation 26)."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in range(1, 5))
    chosen = FALLBACK_DISCOUNTS
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        estimated = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        # A discount of nothing would leave unseen tokens without probability.
        if all(0 < d <= most for most, d in enumerate(estimated, start=1)):
            chosen = estimated
    return np.array([0.0, *chosen])


def _find(keys: Ids, wanted: Ids) -> Ids:
    """Place of each wanted key in sorted `keys`, -1 where it is not there."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)
