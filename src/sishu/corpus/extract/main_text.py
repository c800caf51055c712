"""Which blocks of a page are its own text: a small model, boosted trees, and a choice made from what it says.

The trees are in `main_text.safetensors` beside this file; `main_text.md` says what they were trained on and
how well they do. They were trained with LightGBM and are evaluated here with numpy, which takes a few
milliseconds a page and no more software.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from sishu.corpus.extract.block_features import FEATURES, features_of
from sishu.corpus.extract.blocks import Block, cut

BETA = 0.5
"""Of the F measure by which blocks are chosen. What surrounds a page's text does more harm to who learns from
it than a missing line, and of pages unlike those it knows the model is too hopeful."""
MOST_BLOCKS = 20_000
"""Of a page, which takes a third of a second; ordinary pages have hundreds."""
_ROWS = 128
"""To evaluate at once: more do not fit in the processor's cache."""
MODEL = Path(__file__).with_name("main_text.safetensors")


@dataclass(frozen=True)
class Trees:
    """Complete binary trees of one depth, level by level: the children of node n are 2n + 1, taken where the
    feature is at most the threshold, and 2n + 2."""

    feature: NDArray[np.int32]
    """(trees, 2^depth - 1)"""
    threshold: NDArray[np.float32]
    """(trees, 2^depth - 1)"""
    leaf: NDArray[np.float32]
    """(trees, 2^depth)"""

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The sum of the leaves that each row (rows, features) comes to, (rows,)."""
        trees, inner = self.feature.shape
        first = (
            np.arange(trees) * inner
        )  # node of each tree, of which the children of n are 2n - first + 1, + 2
        leaf = np.arange(trees) * (inner + 1) - inner - first
        feature, threshold = self.feature.ravel().astype(np.intp), self.threshold.ravel()
        values, width = features.ravel(), features.shape[1]
        total = np.empty(len(features))
        for begin in range(0, len(features), _ROWS):
            row = np.arange(begin, min(begin + _ROWS, len(features)))[:, None] * width
            node = first + np.zeros_like(row)
            for _ in range((inner + 1).bit_length() - 1):
                index = feature.take(node, mode="wrap")
                index += row
                beyond = values.take(index, mode="wrap") > threshold.take(node, mode="wrap")
                node += node
                node += 1 - first
                node += beyond
            node += leaf
            total[begin : begin + _ROWS] = self.leaf.take(node, mode="wrap").sum(axis=1, dtype=np.float64)
        return total


@cache
def _model() -> Trees:
    with safe_open(MODEL, framework="numpy") as file:
        known = json.loads(file.metadata()["features"])
        if known != FEATURES:
            raise ValueError(f"{MODEL.name} was trained on other features than this program finds")
        return Trees(*(file.get_tensor(name) for name in ("feature", "threshold", "leaf")))


def most_likely(share: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which blocks to take, given what share of each is thought to be the page's own text and how long it is,
    so that the expected F½, in which precision counts for more than recall, is greatest: the likeliest ones,
    down to a share that depends on the page (Lewis 1995, "Evaluating and optimizing autonomous text
    classification systems")."""
    order = np.argsort(-share, kind="stable")
    wanted = (share * size)[order].cumsum()
    f = (1 + BETA**2) * wanted / (size[order].cumsum() + BETA**2 * wanted[-1])
    taken = np.zeros(len(share), bool)
    taken[order[: int(f.argmax()) + 1]] = True
    return taken


def main_blocks(html: str) -> list[Block] | None:
    """The blocks that are the page's own text, in order; None of a page with more than `MOST_BLOCKS`."""
    page = cut(html)
    if len(page.texts) > MOST_BLOCKS:
        return None
    if not page.texts:
        return []
    share = 1 / (1 + np.exp(-_model()(features_of(page))))
    taken = most_likely(share, np.array(list(map(len, page.texts)), np.float64))
    return [page.block(int(number)) for number in np.flatnonzero(taken)]
