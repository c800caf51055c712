"""Duplicates: exact, near, and passages; reproducible in any process."""

import random
import subprocess
import sys

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus import hashing
from sishu.corpus.duplicates import dedup

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def prose(seed: int, length: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def hanzi(seed: int, length: int = 500) -> str:
    return "".join(chr(random.Random(seed * 7919 + i).randrange(0x4E00, 0x5E00)) for i in range(length))


def edited(text: str, rate: float, seed: int = 0) -> str:
    """Replaces a share of the words, or of the characters if there are no spaces."""
    rng = random.Random(seed)
    units = text.split(" ") if " " in text else list(text)
    changed = [rng.choice(["zap", "zop"]) if rng.random() < rate else unit for unit in units]
    return (" " if " " in text else "").join(changed)


def test_exact_ignores_case_and_space_only() -> None:
    digests = b"".join(hashing.text_digest(t) for t in ("A b\nc", "a  B c ", "a b d", "A b\nc"))
    rows = numpy.frombuffer(digests, numpy.uint64).reshape(-1, 2)
    assert dedup.first_of_each(rows).tolist() == [0, 0, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))))
def test_the_first_of_equal_rows(rows: list[tuple[int, int]]) -> None:
    first = dedup.first_of_each(numpy.array(rows, numpy.uint64).reshape(-1, 2))
    assert first.tolist() == [rows.index(row) for row in rows]


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n))))
def test_clusters_are_the_connected_components(rounds: list[list[int]]) -> None:
    count = len(rounds[0]) if rounds else 3
    clusters = dedup.Clusters(count)
    members = [{index} for index in range(count)]
    for keys in rounds:
        clusters.join(numpy.array(keys, numpy.uint64))
        for one in range(count):
            for other in range(one):
                if keys[one] == keys[other] and members[one] is not members[other]:
                    members[other] |= members[one]
                    for index in members[one]:
                        members[index] = members[other]
    assert clusters.first.tolist() == [min(group) for group in members]


@pytest.mark.parametrize("make", [prose, hanzi])
def test_near_duplicates_are_found_and_others_are_not(make) -> None:  # type: ignore[no-untyped-def]
    texts = [make(i) for i in range(40)] + [edited(make(i), 0.01, i) for i in range(40)]
    first = dedup.near_duplicates(texts)
    assert first[:40] == list(range(40))
    assert sum(first[40 + i] == i for i in range(40)) >= 38


def test_half_different_texts_are_kept() -> None:
    texts = [prose(i) for i in range(20)] + [edited(prose(i), 0.3, i) for i in range(20)]
    assert dedup.near_duplicates(texts) == list(range(40))


def test_clusters_are_transitive_and_keep_the_first() -> None:
    text = prose(1)
    steps = [text]
    for i in range(5):
        steps.append(edited(steps[-1], 0.01, i))
    assert set(dedup.near_duplicates([prose(2), *steps])) == {0, 1}


def test_other_settings_find_more_or_less() -> None:
    texts = [prose(i) for i in range(20)] + [edited(prose(i), 0.05, i) for i in range(20)]
    found = {
        how: sum(first != i for i, first in enumerate(dedup.near_duplicates(texts, how)))
        for how in (dedup.MinHash(4, 16), dedup.MinHash(), dedup.MinHash(50, 3), dedup.MinHash(14, 8, 1))
    }
    strict, usual, loose, words = found.values()
    assert strict < usual < loose == 20
    assert words > usual  # single words are more alike than five in a row
    assert dedup.signature("one two", None, dedup.MinHash(2, 3, 4)).shape == (6,)


@pytest.mark.parametrize("text", ["", "one", "中", "one two three four", "---"])
def test_tiny_texts_have_a_signature(text: str) -> None:
    signature = dedup.signature(text)
    assert signature.shape == (14 * 8,)
    assert (signature < 0xFFFFFFFF).any()


def test_signature_estimates_jaccard_similarity() -> None:
    first = prose(3, 3000)
    second = " ".join(first.split()[:1500]) + " " + prose(4, 1500)
    share = float(numpy.mean(dedup.signature(first) == dedup.signature(second)))
    assert abs(share - 1 / 3) < 0.15


def test_nothing_depends_on_the_hash_seed() -> None:
    program = (
        "from sishu.corpus import hashing; from sishu.corpus.duplicates import dedup;"
        "print(dedup.signature('one two three four five six').tobytes().hex(),"
        "hashing.text_digest('x'), dedup.near_duplicates(['a b c d e f','a b c d e f','z']))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
