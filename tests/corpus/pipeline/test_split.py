"""Held-out text: by group, stable under growth, never empty, never lost."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.document import Document, document_id
from sishu.corpus.pipeline.split import MIN_VALIDATION, split_documents


def document(url: str, text: str = "x" * 300) -> Document:
    return Document(document_id(url), url, "", text)


def test_share_and_stability() -> None:
    small = [document(f"https://a.org/{i}") for i in range(1000)]
    large = small + [document(f"https://b.org/{i}") for i in range(1000)]
    _, few = split_documents(small, 0.1)
    _, many = split_documents(large, 0.1)
    assert 60 < len(few) < 140
    assert {d.id for d in few} <= {d.id for d in many}


def test_a_group_stays_together() -> None:
    documents = [document(f"https://a.org/{name}.{i}.html") for name in "abcdefgh" for i in range(9)]
    train, held = split_documents(documents, 0.2, r"org/([a-z])\.")
    names = [{d.url[len("https://a.org/")] for d in side} for side in (train, held)]
    assert names[0] and names[1] and not names[0] & names[1]


def test_two_groups_suffice_when_groups_are_asked_for() -> None:
    documents = [document(f"{name}/{i}") for name in "ab" for i in range(3)]
    train, held = split_documents(documents, 0.05, r"^(\w)/")
    assert len(train) == len(held) == 3


def test_a_single_text_is_cut_at_a_line() -> None:
    lines = [f"This is line number {i} of the book." for i in range(400)]
    train, held = split_documents([document("book.txt", "\n".join(lines))], 0.05)
    assert train[0].text.split("\n") + held[0].text.split("\n") == lines
    assert 0.03 < len(held[0].text) / len("\n".join(lines)) < 0.08
    assert train[0].id != held[0].id


def test_text_without_any_line_end_is_cut_too() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(5000))
    train, held = split_documents([document("书.txt", text)], 0.05)
    assert train[0].text + held[0].text == text
    assert len(held[0].text) == 250


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 900), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.05, 0.3, 0.5]),
)
def test_both_sides_hold_text_and_no_word_is_lost(seed: int, sizes: list[int], held_out: float) -> None:
    sizes = [*sizes, 1000]
    rng = random.Random(seed)
    texts = ["".join(rng.choice("ab \n") for _ in range(size)).strip() + "c" for size in sizes]
    documents = [document(str(i), text) for i, text in enumerate(texts)]
    train, held = split_documents(documents, held_out)
    assert sum(len(d.text) for d in held) >= MIN_VALIDATION - 20
    assert train
    before = "".join("".join(d.text.split()) for d in documents)
    both = "".join("".join(d.text.split()) for d in train + held)
    assert sorted(both) == sorted(before)
