"""Duplicates: exact, near, and passages; reproducible in any process."""

import random
import subprocess
import sys

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus import dedup

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
    digests = [dedup.text_digest(t) for t in ("A b\nc", "a  B c ", "a b d", "A b\nc")]
    assert dedup.first_with_digest(digests) == [0, 0, 2, 0]


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


@pytest.mark.parametrize("text", ["", "one", "中", "one two three four", "---"])
def test_tiny_texts_have_a_signature(text: str) -> None:
    signature = dedup.signature(text)
    assert signature.shape == (dedup.BANDS * dedup.ROWS,)
    assert (signature < 0xFFFFFFFF).any()


def test_signature_estimates_jaccard_similarity() -> None:
    first = prose(3, 3000)
    second = " ".join(first.split()[:1500]) + " " + prose(4, 1500)
    share = float(numpy.mean(dedup.signature(first) == dedup.signature(second)))
    assert abs(share - 1 / 3) < 0.15


def test_nothing_depends_on_the_hash_seed() -> None:
    program = (
        "from sishu.corpus import dedup;"
        "print(dedup.signature('one two three four five six').tobytes().hex(),"
        "dedup.text_digest('x'), dedup.near_duplicates(['a b c d e f','a b c d e f','z']))"
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


def test_passages_of_three_lines_are_cut_and_two_are_not() -> None:
    menu = "Methods inherited from Base\n\n__init__(self)\nInitialize it.\n"
    passages = dedup.PassageFilter()
    assert passages.cut(menu + "First own text.") == menu + "First own text."
    assert passages.cut("Before.\n" + menu + "After.") == "Before.\nAfter."
    two = "Methods inherited from Base\n__init__(self)\nSomething else."
    assert passages.cut(two) == two


def test_passages_repeated_in_one_text_are_cut() -> None:
    passage = "line one\nline two\nline three\n"
    assert dedup.PassageFilter().cut(passage + "middle\n" + passage + "end") == passage + "middle\nend"


def test_trivial_lines_neither_count_nor_break_a_passage() -> None:
    passages = dedup.PassageFilter()
    braces = "}\n)\n;\n--\n" * 5
    assert passages.cut(braces) == braces
    assert passages.cut(braces) == braces
    passages.cut("alpha one\nbeta two\ngamma three")
    assert passages.cut("own\nalpha one\n}\nbeta two\n\ngamma three\nown too") == "own\nown too"


def test_chinese_passages() -> None:
    poem = "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡"
    passages = dedup.PassageFilter()
    assert passages.cut(poem) == poem
    assert passages.cut("静夜思\n" + poem) == "静夜思"


@given(st.lists(st.lists(st.sampled_from(["aaa", "bbb", "ccc", "", "}"]), max_size=8), max_size=6))
def test_no_passage_survives_twice(documents: list[list[str]]) -> None:
    passages = dedup.PassageFilter()
    texts = ["\n".join(lines) for lines in documents]
    kept = [passages.cut(text) for text in texts]
    again = dedup.PassageFilter()
    for text in texts:
        again.cut(text)
    assert all(len(cut) <= len(text) for cut, text in zip(kept, texts, strict=True))
    assert not any(again.cut(text) != text and len(text.split()) < 3 for text in texts)


def test_page_edges_shared_by_a_site_are_cut() -> None:
    pages = [
        f"Index : Topics\n\nPage number {i}\nbody {i}\nmore {i}\nend {i}\nCopyright Us" for i in range(12)
    ]
    cut = dedup.cut_page_edges([*pages, "Index : Topics\nown"], ["a"] * 12 + ["b"])
    assert cut[3] == "Page number 3\nbody 3\nmore 3\nend 3"
    assert cut[12] == "Index : Topics\nown"
    assert dedup.cut_page_edges(pages[:5], ["a"] * 5) == pages[:5]
    assert dedup.cut_page_edges(pages, [""] * 12) == pages
