"""How well probabilities foretell which texts are good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
BINS = 10
"""Of equal width, in which probabilities are compared with what came."""
FEW = 20
"""Texts of a language below which figures say little."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def evaluate(probabilities: Floats, good: Flags, languages: Sequence[str]) -> dict[str, Any]:
    """Figures of probabilities (texts,) for texts that are known to be good or not, in whichever languages.

    Returns:
        `auc`, the chance that a good text is put above a bad one (None where there is only one kind), and
        `accuracy` at one half; `brier`, the mean squared error of the probabilities, and `calibration_error`,
        by how much they are off on average, bin by bin (Guo et al. 2017, arXiv:1706.04599); `at`, for each of
        `THRESHOLDS` the `precision`, `recall` and `kept` share; `reliability`, for each of ten bins with
        texts their number, mean probability and share of good ones; `languages`, `texts`, `good`, `auc` and
        `accuracy` by language, those of fewer than `FEW` texts taken together as "others".
    """
    at = []
    for threshold in THRESHOLDS:
        kept = probabilities >= threshold
        hits = int((kept & good).sum())
        at.append(
            {
                "threshold": threshold,
                "precision": hits / int(kept.sum()) if kept.any() else None,
                "recall": hits / int(good.sum()) if good.any() else None,
                "kept": float(kept.mean()),
            }
        )
    reliability = _reliability(probabilities, good)
    times = Counter(languages)
    spoken = np.array([code if times[code] >= FEW else "others" for code in languages])
    return {
        **_short(probabilities, good),
        "brier": float(((probabilities - good) ** 2).mean()),
        "calibration_error": float(
            sum(row["texts"] * abs(row["probability"] - row["good"]) for row in reliability) / len(good)
        ),
        "at": at,
        "reliability": reliability,
        "languages": {
            code: _short(probabilities[spoken == code], good[spoken == code])
            for code in sorted(set(spoken.tolist()))
        },
    }


def _short(probabilities: Floats, good: Flags) -> dict[str, Any]:
    return {
        "texts": len(good),
        "good": int(good.sum()),
        "auc": auc(probabilities, good),
        "accuracy": float(((probabilities >= 0.5) == good).mean()),
    }


def _reliability(probabilities: Floats, good: Flags) -> list[dict[str, Any]]:
    number = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        {
            "texts": int((number == one).sum()),
            "probability": float(probabilities[number == one].mean()),
            "good": float(good[number == one].mean()),
        }
        for one in range(BINS)
        if (number == one).any()
    ]


def auc(scores: Floats, good: Flags) -> float | None:
    """The chance that a good text is scored above a bad one, half where they are equal (Mann and Whitney
    1947); None without a good one or without a bad one."""
    positive, negative = int(good.sum()), int((~good).sum())
    if not positive or not negative:
        return None
    _, place, times = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(times) - (times - 1) / 2)[place]
    return float((rank[good].sum() - positive * (positive + 1) / 2) / (positive * negative))
