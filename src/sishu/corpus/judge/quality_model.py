"""How good a text is, as people or a better model judged others: a linear model on hashed words, from 0 to 1.

What FineWeb-Edu (Penedo et al. 2024, arXiv:2406.17557) and DCLM (Li et al. 2024, arXiv:2406.11794) choose
their pages by: DCLM with fastText (Joulin et al. 2016, arXiv:1607.01759), of which this is a near relation.
A text is a bag of units and of pairs of them, hashed into `BUCKETS` numbers (Weinberger et al. 2009,
arXiv:0902.2206). A unit is a word, a punctuation mark or, in scripts without spaces, a character: on Chinese
texts characters do better than words as jieba cuts them, and triples of characters no better than pairs.
Each bucket counts as the square root of its share of the text, so that long texts and short ones weigh the
same and no word drowns the others. `quality_training` makes such models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as as_safetensors

from sishu.console import UserError
from sishu.corpus.hashing import mix
from sishu.corpus.judge.language import _UNSEGMENTED
from sishu.files import dump_json, read_json, write_atomic

BITS = 20
BUCKETS = 1 << BITS
"""4 MB of weights; DCLM's fastText has twice as many buckets, at 100 numbers each."""
WEIGHTS, CARD = "quality.safetensors", "quality.json"
FORMAT = "sishu quality model 1"
"""Changes with anything that changes which buckets a text falls into."""

_UNITS = re.compile(r"[{0}]|[^\W{0}]{{1,64}}|[^\w\s]".format(_UNSEGMENTED.pattern[1:-1]))
_CHUNK = 1 << 20
"""Characters read at a time, so that a text of any length needs little memory."""
_REMEMBERED = 1 << 18
"""Units whose hashes are remembered."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Scorer(Protocol):
    """What says how good a text is: a `QualityModel` or a `fasttext_file.FastTextScorer`."""

    def score(self, text: str) -> float:
        """From 0 to 1, the better the higher; 0 for a text without a word or a mark."""
        ...

    def scores(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """`score` of each, (texts,)."""
        ...


class Units:
    """Reads texts as hashed units; remembers hashes, which changes speed only."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def buckets(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The buckets that a text's units and pairs fall into, in ascending order, and how many in each."""
        starts = range(0, len(text), _CHUNK)
        if len(starts) <= 1:
            return np.unique(self._hashed(text), return_counts=True)
        total = np.zeros(BUCKETS, np.int64)
        for start in starts:
            total += np.bincount(self._hashed(text[start : start + _CHUNK]), minlength=BUCKETS)
        found = np.flatnonzero(total)
        return found.astype(np.int32), total[found]

    def _hashed(self, text: str) -> NDArray[np.int32]:
        found = _UNITS.findall(text.lower())
        new = set(found).difference(self._known)
        if len(new) + len(self._known) > _REMEMBERED:
            self._known.clear()
            new = set(found)
        # 32 bits are many more than there are buckets; whatever UTF-8 cannot hold counts as a question mark
        self._known.update((unit, crc32(unit.encode("utf-8", "replace"))) for unit in new)
        one = mix(np.fromiter(map(self._known.__getitem__, found), np.uint64, len(found)) * _ODD)
        two = mix(one[:-1] * _ODD + one[1:])
        return (np.concatenate((one, two)) >> np.uint64(64 - BITS)).astype(np.int32)


@dataclass
class QualityModel:
    """Weights with what is known of them; of a language it has not seen it can say nothing."""

    weights: NDArray[np.float32]
    """(BUCKETS,), calibrated: their sum is in logits."""
    offset: float
    """Added to it."""
    card: dict[str, Any]
    """What it was trained on and how well it does, for people and reports; JSON types only."""
    _units: Units = field(default_factory=Units, repr=False, compare=False)

    def score(self, text: str) -> float:
        """The probability, 0 to 1, that the text is good, if good and bad are as frequent among the texts
        it comes from as they were in training; 0 for a text without a word or a mark."""
        buckets, times = self._units.buckets(text)
        if not len(buckets):
            return 0.0
        size = math.sqrt(int(times.sum()))
        return _sigmoid(float(np.dot(self.weights[buckets], np.sqrt(times))) / size + self.offset)

    def scores(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """`score` of each, (texts,)."""
        return np.fromiter(map(self.score, texts), np.float64)

    def save(self, folder: Path) -> None:
        """Writes `quality.safetensors` and `quality.json`, the same bytes for the same model."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / WEIGHTS, as_safetensors({"weights": self.weights}))
        write_atomic(folder / CARD, dump_json({"format": FORMAT, "offset": self.offset, **self.card}))

    @classmethod
    def load(cls, folder: Path) -> QualityModel:
        """The model that `save` wrote.

        Raises:
            UserError: no such files, damaged ones, or those of another version.
        """
        if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder} holds no quality model; it should hold {WEIGHTS} and {CARD}")
        card = read_json(folder / CARD)
        if (found := card.pop("format", None)) != FORMAT:
            raise UserError(f"{folder / CARD} is of the format {found!r}, not {FORMAT!r}: train again")
        offset = card.pop("offset", None)
        try:
            with safe_open(folder / WEIGHTS, framework="numpy") as file:
                weights = file.get_tensor("weights")
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{folder / WEIGHTS} is damaged ({error}): train the model again") from error
        if weights.shape != (BUCKETS,) or weights.dtype != np.float32 or not np.isfinite(weights).all():
            raise UserError(f"{folder / WEIGHTS} does not hold {BUCKETS:,} finite weights: train again")
        if type(offset) is not float or not math.isfinite(offset):
            raise UserError(f"{folder / CARD} holds no offset: train the model again")
        return cls(weights, offset, card)


def threshold_keeping(scores: Iterable[float], share: float) -> float:
    """The least score of the best `share` of a sample: DCLM keeps the best tenth of its pages.

    Texts that score it or more are to be kept: this share of the sample, or more of it where the least
    score occurs several times.

    Args:
        scores: of texts drawn from those that are to be chosen from, a thousand or more if it is to be
            within a hundredth or so of the share.
        share: above 0 and at most 1.

    Raises:
        UserError: no scores, one that is no number, or a share out of bounds.
    """
    if not 0 < share <= 1:
        raise UserError(f"the share to keep must be above 0 and at most 1, and is {share}")
    values = np.sort(np.fromiter(scores, np.float64))[::-1]
    if not len(values) or not np.isfinite(values).all():
        raise UserError("a threshold needs the scores of a sample of texts, all of them numbers")
    return float(values[math.ceil(round(share * len(values), 9)) - 1])


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
