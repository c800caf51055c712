"""Passages and page edges: what recurs is cut, what does not stays."""

import numpy
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.duplicates import passages


def cut_passages(texts: list[str], *, lines: bool = False) -> list[str]:
    """All texts without the passages that an earlier one, or they themselves, said before."""
    hashes = [passages.passage_hashes(text, lines=lines) for text in texts]
    repeated = passages.said_before(numpy.concatenate([numpy.zeros(0, numpy.uint64), *hashes]))
    marks = numpy.split(repeated, numpy.cumsum([len(one) for one in hashes]))
    pairs = zip(texts, marks, strict=False)
    return [passages.without_passages(text, mark, lines=lines) for text, mark in pairs]


def cut_edges(texts: list[str], sites: list[str]) -> list[str]:
    edges = [passages.edge_hashes(text, site) for text, site in zip(texts, sites, strict=True)]
    shared = passages.shared_edges(
        numpy.array([passages.site_hash(site) for site in sites], numpy.uint64),
        numpy.array([index for index, found in enumerate(edges) for _ in found], numpy.int64),
        numpy.array([edge for found in edges for edge in found], numpy.uint64),
    )
    common = set(shared.tolist())
    return [passages.without_edges(text, site, common) for text, site in zip(texts, sites, strict=True)]


def test_passages_of_three_lines_are_cut_and_two_are_not() -> None:
    menu = "Methods inherited from Base\n\n__init__(self)\nInitialize it.\n"
    two = "Methods inherited from Base\n__init__(self)\nSomething else."
    texts = [menu + "First own text.", "Before.\n" + menu + "After.", two]
    assert cut_passages(texts) == [menu + "First own text.", "Before.\nAfter.", two]


def test_passages_repeated_in_one_text_are_cut() -> None:
    passage = "line one\nline two\nline three\n"
    text = passage + "middle\n" + passage + "end"
    assert cut_passages([text]) == [passage + "middle\nend"]
    assert passages.without_own_repeats(text) == passage + "middle\nend"


def test_trivial_lines_neither_count_nor_break_a_passage() -> None:
    braces = "}\n)\n;\n--\n" * 5
    assert cut_passages([braces, braces]) == [braces, braces]
    texts = ["alpha one\nbeta two\ngamma three", "own\nalpha one\n}\nbeta two\n\ngamma three\nown too"]
    assert cut_passages(texts)[1] == "own\nown too"


def test_chinese_passages() -> None:
    poem = "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡"
    assert cut_passages([poem, "静夜思\n" + poem]) == [poem, "静夜思"]


def test_single_lines_are_cut_if_they_are_long_and_it_is_wanted() -> None:
    long, poem = "All rights of this wonderful page are reserved.", "床前明月光疑是地上霜举头望明月"
    texts = [f"{long}\nfirst\n{poem}", f"second\n{long}\nreturn x\n{poem}\nreturn x"]
    assert cut_passages(texts, lines=True) == [texts[0], "second\nreturn x\nreturn x"]
    assert cut_passages(texts) == texts


@given(st.lists(st.lists(st.sampled_from(["aaa", "bbb", "ccc", "", "}"]), max_size=8), max_size=6))
def test_passages_are_cut_as_if_read_one_after_the_other(documents: list[list[str]]) -> None:
    texts = ["\n".join(lines) for lines in documents]
    seen: set[tuple[str, ...]] = set()
    for text, kept in zip(texts, cut_passages(texts), strict=True):
        said = [line for line in text.split("\n") if line not in ("", "}")]
        gone: set[int] = set()
        for start in range(len(said) - 2):
            passage = tuple(said[start : start + 3])
            if passage in seen:
                gone |= {start, start + 1, start + 2}
            seen.add(passage)
        left = [line for index, line in enumerate(said) if index not in gone]
        assert [line for line in kept.split("\n") if line not in ("", "}")] == left


def test_page_edges_shared_by_a_site_are_cut() -> None:
    pages = [
        f"Index : Topics\n\nPage number {i}\nbody {i}\nmore {i}\nend {i}\nCopyright Us" for i in range(12)
    ]
    cut = cut_edges([*pages, "Index : Topics\nown"], ["a"] * 12 + ["b"])
    assert cut[3] == "Page number 3\nbody 3\nmore 3\nend 3"
    assert cut[12] == "Index : Topics\nown"
    assert cut_edges(pages[:5], ["a"] * 5) == pages[:5]
    assert cut_edges(pages, [""] * 12) == pages


def test_sites() -> None:
    assert passages.site_of("HTTPS://Example.org:8080/a?b#c") == "https://example.org:8080"
    assert passages.site_of("notes/a.txt") == ""
