"""Masks by their definition, pair by pair, for any rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sishu.nn import masks
from sishu.nn.layout import Layout

LENGTHS = st.integers(1, 9)
ROWS = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3)
"""Rows of documents, each by their lengths."""


def whole(layout: Layout, window: int | None = None) -> Tensor:
    """What is seen, (B or 1, T, T), with the causal case written out."""
    mask, causal = layout.mask(layout.positions_BT, layout.seen, window, None)
    if causal and mask is None:
        T = layout.positions_BT.shape[1]
        return torch.ones(1, T, T, dtype=torch.bool).tril()
    assert mask is not None
    return mask[:, 0]


@given(LENGTHS, st.integers(1, 10))
def test_a_window_sees_so_many_positions(length: int, window: int) -> None:
    seen = whole(Layout.plain(length, torch.device("cpu")), window)[0]
    for query in range(length):
        expected = [key <= query and query - key < window for key in range(length)]
        assert seen[query].tolist() == expected
    assert seen.sum(1).tolist() == [min(query + 1, window) for query in range(length)]


@given(LENGTHS, st.lists(st.integers(0, 10), min_size=1, max_size=3))
def test_a_prefix_sees_itself_in_both_directions(length: int, prefixes: list[int]) -> None:
    seen = whole(Layout.with_prefix(length, torch.tensor(prefixes)))
    for row, prefix in enumerate(prefixes):
        for query in range(length):
            assert seen[row, query].tolist() == [key <= query or key < prefix for key in range(length)]


@given(ROWS)
def test_a_document_sees_itself_alone(rows: list[list[int]]) -> None:
    T = max(map(sum, rows))
    numbers = [[n for n, length in enumerate(row) for _ in range(length)] for row in rows]
    document_BT = torch.tensor([row + [99] * (T - len(row)) for row in numbers])
    layout = Layout.packed(document_BT)
    seen = whole(layout)
    for row in range(len(rows)):
        documents = document_BT[row].tolist()
        for query in range(T):
            first = documents.index(documents[query])
            assert layout.positions_BT[row, query] == query - first
            assert seen[row, query].tolist() == [first <= key <= query for key in range(T)]


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=3), st.booleans())
def test_padding_is_seen_by_itself_alone(rows: list[list[bool]], causal: bool) -> None:
    layout = Layout.padded(torch.tensor(rows), causal)
    seen = whole(layout)
    for row, present in enumerate(rows):
        for query in range(5):
            expected = [(present[key] and (key <= query or not causal)) or key == query for key in range(5)]
            assert seen[row, query].tolist() == expected
            if present[query]:
                assert layout.positions_BT[row, query] == sum(present[:query])


def test_windows_and_documents_narrow_each_other() -> None:
    layout = Layout.packed(torch.tensor([[0, 0, 0, 0, 1, 1]]))
    seen = whole(layout, window=2)[0]
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0], [0, 1], [1, 2], [2, 3], [4], [4, 5]]


def test_layers_of_different_windows_share_a_layout() -> None:
    layout, slopes = Layout.plain(6, torch.device("cpu")), torch.tensor([0.5])
    assert [int(whole(layout, window).sum()) for window in (2, 4, None, 2)] == [11, 18, 21, 11]
    weighed, _ = layout.mask(layout.positions_BT, None, 2, slopes)
    assert weighed is not None and weighed[0, 0, 5].tolist() == [-torch.inf] * 4 + [-0.5, 0.0]
    assert int(whole(layout, 2).sum()) == 11


def test_positions_may_differ_from_places() -> None:
    queries, keys = torch.tensor([[3, 0]]), torch.tensor([[0, 1, 2, 3, 4]])
    assert masks.causal(queries, keys)[0, 0].tolist() == [[True] * 4 + [False], [True] + [False] * 4]
