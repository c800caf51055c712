"""The n-gram baseline against the textbook formula, written out slowly, and against arithmetic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.evaluate.kneser_ney import FALLBACK_DISCOUNTS, KneserNey

corpora = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=8)


class SlowKneserNey:
    """Chen & Goodman 1998, equations 24-26, with tuples, dictionaries and sets."""

    def __init__(self, documents: list[list[int]], vocabulary: int, order: int) -> None:
        self.vocabulary, self.order = vocabulary, order
        raw: Counter[tuple[object, ...]] = Counter()
        preceding: dict[tuple[object, ...], set[object]] = defaultdict(set)
        for document in documents:
            marked: list[object] = ["<s>", *document]
            for end in range(2, len(marked) + 1):
                for start in range(max(0, end - order), end):
                    raw[tuple(marked[start:end])] += 1
                    if start > 0:
                        preceding[tuple(marked[start:end])].add(marked[start - 1])
        self.counts = {
            gram: times if len(gram) == order or gram[0] == "<s>" else len(preceding[gram])
            for gram, times in raw.items()
        }
        self.discounts = {length: self._discounts(length) for length in range(1, order + 1)}

    def _discounts(self, length: int) -> list[float]:
        of = Counter(times for gram, times in self.counts.items() if len(gram) == length)
        if of[1] and of[2] and of[3]:
            y = of[1] / (of[1] + 2 * of[2])
            d = [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)]
            if all(0 < d[k - 1] <= k for k in (1, 2, 3)):
                return d
        return list(FALLBACK_DISCOUNTS)

    def probability(self, token: int, before: list[int]) -> float:
        context: tuple[object, ...] = ("<s>", *before)
        context = context[len(context) - min(self.order - 1, len(context)) :]
        return self._interpolated(token, context)

    def _interpolated(self, token: int, context: tuple[object, ...]) -> float:
        lower = self._interpolated(token, context[1:]) if context else 1 / self.vocabulary
        d = self.discounts[len(context) + 1]
        follow = {
            gram[-1]: times
            for gram, times in self.counts.items()
            if len(gram) == len(context) + 1 and gram[:-1] == context
        }
        total = sum(follow.values())
        if not total:
            return lower
        times = follow.get(token, 0)
        kept = times - (d[min(times, 3) - 1] if times else 0.0)
        n1, n2 = (sum(t == k for t in follow.values()) for k in (1, 2))
        n3 = len(follow) - n1 - n2
        return kept / total + (d[0] * n1 + d[1] * n2 + d[2] * n3) / total * lower


def arrays(documents: list[list[int]]) -> list[np.ndarray]:
    return [np.array(document, dtype=np.int64) for document in documents]


@settings(max_examples=60, deadline=None)
@given(corpora, st.lists(st.integers(0, 6), max_size=8), st.integers(1, 5))
def test_agrees_with_the_textbook(corpus: list[list[int]], held: list[int], order: int) -> None:
    fast = KneserNey(order).fit(arrays(corpus), 7).log_probabilities(np.array(held, dtype=int))
    slow = SlowKneserNey(corpus, 7, order)
    expected = [slow.probability(token, held[:i]) for i, token in enumerate(held)]
    np.testing.assert_allclose(np.exp(fast), expected, rtol=1e-10)


def test_agrees_with_the_textbook_where_discounts_are_estimated() -> None:
    rng = np.random.default_rng(3)
    corpus = [list((rng.zipf(1.4, 30) - 1) % 30) for _ in range(60)]
    slow = SlowKneserNey(corpus, 31, 3)
    assert any(tuple(d) != FALLBACK_DISCOUNTS for d in slow.discounts.values())
    held = [int(t) for t in (rng.zipf(1.4, 40) - 1) % 31]
    fast = KneserNey(3).fit(arrays(corpus), 31).log_probabilities(np.array(held))
    expected = [math.log(slow.probability(t, held[:i])) for i, t in enumerate(held)]
    np.testing.assert_allclose(fast, expected, rtol=1e-10)


@settings(max_examples=60, deadline=None)
@given(corpora, st.lists(st.integers(0, 6), max_size=6), st.integers(1, 5))
def test_probabilities_sum_to_one_in_any_context(
    corpus: list[list[int]], context: list[int], order: int
) -> None:
    model = KneserNey(order).fit(arrays(corpus), 7)
    last = [model.log_probabilities(np.array([*context, token]))[-1] for token in range(7)]
    assert abs(np.exp(last).sum() - 1) < 1e-9
    assert np.isfinite(last).all()


def test_sums_to_one_in_every_seen_context_of_a_larger_corpus() -> None:
    rng = np.random.default_rng(0)
    corpus = [(rng.zipf(1.5, 80) - 1) % 12 for _ in range(40)]
    model = KneserNey(5).fit(corpus, 13)
    for document in corpus[:6]:
        for end in range(20):
            total = sum(
                math.exp(model.log_probabilities(np.append(document[:end], token))[-1]) for token in range(13)
            )
            assert abs(total - 1) < 1e-9


def test_by_hand() -> None:
    # One document "0 0 1", order 1, three tokens: counts 2 and 1, fallback discounts 1.0 and 0.5,
    # so 1.5 of 3 is freed and shared evenly.
    model = KneserNey(1).fit([np.array([0, 0, 1])], 3)
    got = np.exp(model.log_probabilities(np.array([0, 1, 2])))
    np.testing.assert_allclose(got, [1 / 3 + 1 / 6, 0.5 / 3 + 1 / 6, 1 / 6])


def test_longer_contexts_help_and_no_test_token_leaks() -> None:
    rng = np.random.default_rng(1)
    follow = rng.integers(0, 50, size=(50, 50))

    def walk(length: int) -> np.ndarray:
        tokens = [0, 1]
        for _ in range(length):
            noisy = rng.random() < 0.2
            tokens.append(int(rng.integers(50)) if noisy else int(follow[tokens[-2], tokens[-1]]))
        return np.array(tokens, dtype=np.uint16)

    train, held = [walk(400) for _ in range(60)], walk(2000)
    bits = [-KneserNey(n).fit(train, 50).log_probabilities(held).mean() for n in (1, 2, 3)]
    assert bits[0] > bits[1] > bits[2]
    # 80 % of tokens are determined by two: entropy = -log(.804)*.804 - .196*log(.004)
    assert bits[2] > 1.25


def test_document_beginnings_are_learnt() -> None:
    train = [np.array([4, *range(4), *range(4)]) for _ in range(20)]
    model = KneserNey(5).fit(train, 5)
    first = [math.exp(model.log_probabilities(np.array([token]))[0]) for token in range(5)]
    assert first[4] > 0.8


def test_order_of_documents_does_not_matter_and_nothing_trains_uniform() -> None:
    rng = np.random.default_rng(2)
    corpus = [rng.integers(0, 9, size=20) for _ in range(30)]
    held = rng.integers(0, 9, size=50)
    forward = KneserNey(4).fit(corpus, 9).log_probabilities(held)
    backward = KneserNey(4).fit(corpus[::-1], 9).log_probabilities(held)
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_allclose(KneserNey(5).fit([], 9).log_probabilities(held), -math.log(9))
    assert KneserNey(5).fit(corpus, 9).log_probabilities(held[:0]).shape == (0,)


def test_a_large_vocabulary_does_not_overflow() -> None:
    rng = np.random.default_rng(5)
    corpus = [rng.integers(0, 250_000, size=2000) for _ in range(20)]
    lp = KneserNey(5).fit(corpus, 250_000).log_probabilities(corpus[0])
    assert lp.dtype == np.float64 and np.isfinite(lp).all() and (lp < 0).all()


def test_errors_name_the_cause() -> None:
    with pytest.raises(ValueError, match="order"):
        KneserNey(0)
    with pytest.raises(ValueError, match="fit"):
        KneserNey().log_probabilities(np.array([1]))
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        KneserNey().fit([np.array([0, 3])], 3)
