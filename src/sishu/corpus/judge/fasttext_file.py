"""A fastText classifier that the user has, such as DCLM's, as a scorer; its file is checked before use.

fastText (Joulin et al. 2016, arXiv:1607.01759) believes what its files say of themselves: a damaged one ends
the process or makes it ask for all memory. So every length and index is checked here first, against the
format that `FastText::saveModel`, `Dictionary::save`, `DenseMatrix::save` and `QuantMatrix::save` write.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sishu.console import UserError

MOST_CHARACTERS = 1_000_000
"""Of a text, from its beginning, that are looked at: fastText holds all hashes of a text at once."""

_MAGIC, _VERSIONS, _SUPERVISED = 793712314, (11, 12), 3
_PREFIX = "__label__"
_MOST_LENGTH = 100
"""Of n-grams; ordinary ones are of 1 to 6."""
_MOST_COUNT = 10**15
"""What fastText takes for infinity when it builds the tree of labels."""


class FastTextScorer:
    """Scores texts with a supervised fastText model.

    Args:
        path: a .bin or .ftz file.
        good: the label of good texts, with or without `__label__`.

    Raises:
        UserError: no such file, one that is damaged or no classifier, or no such label in it.
    """

    def __init__(self, path: Path, good: str) -> None:
        labels = checked_labels(path)
        wanted = next((name for name in (good, _PREFIX + good) if name in labels), None)
        if wanted is None:
            known = ", ".join(label.removeprefix(_PREFIX) for label in labels[:10])
            raise UserError(f"{path} has no label {good!r}; it has {known}" + ", …" * (len(labels) > 10))
        self._good = wanted
        self._path = path
        import fasttext

        try:
            self._model: Any = fasttext.load_model(str(path))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"{path} cannot be loaded as a fastText model ({error})") from error

    def score(self, text: str) -> float:
        """The probability, 0 to 1, that the model gives its good label; 0 for a blank text."""
        line = " ".join(text[:MOST_CHARACTERS].replace("\0", " ").split())
        if not line:
            return 0.0
        try:
            labels, values = self._model.predict(line.encode("utf-8", "replace").decode("utf-8"), k=-1)
        except RuntimeError as error:
            raise UserError(f"{self._path} cannot score texts ({error}): train it again") from error
        found = dict(zip(labels, values, strict=True))
        return min(1.0, max(0.0, float(found.get(self._good, 0.0))))

    def scores(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """`score` of each, (texts,)."""
        return np.fromiter(map(self.score, texts), np.float64)


def checked_labels(path: Path) -> list[str]:
    """The labels of a supervised fastText model whose file is what it says it is, in the file's order.

    Raises:
        UserError: no such file, one that is damaged, or no classifier.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a fastText classifier, a .bin or .ftz file")
    if path.stat().st_size < 8:
        raise UserError(f"{path} is not a fastText model: it is too short")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _Reader(content).model()
        except (_DamagedError, struct.error) as error:
            reason = str(error) if isinstance(error, _DamagedError) else "it ends too early"
            raise UserError(f"{path} is not a fastText classifier that can be used: {reason}") from error


class _DamagedError(Exception):
    """What is wrong with the file."""


def _need(right: bool, reason: str) -> None:
    if not right:
        raise _DamagedError(reason)


class _Reader:
    """Walks through a file from its beginning to its end."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 0

    def model(self) -> list[str]:
        magic, version = self._take("ii")
        _need(magic == _MAGIC, "it does not begin as one")
        _need(version in _VERSIONS, f"its format is of version {version}, not 11 or 12")
        width, _, _, _, _, words_together, loss, kind, buckets, shortest, longest, _ = self._take("12i")
        self._take("d")
        _need(kind == _SUPERVISED, "it gives word vectors, no labels")
        # 1 to 4: a tree of labels, negative sampling, softmax, one against all
        _need(1 <= loss <= 4 and width > 0 and buckets >= 0, "its settings are damaged")
        _need(1 <= words_together <= _MOST_LENGTH, "the length of its word n-grams is damaged")
        _need(max(abs(shortest), abs(longest)) <= _MOST_LENGTH, "the length of its n-grams is damaged")
        _need(buckets > 0 or (words_together == 1 and longest <= 0), "it has n-grams but no buckets for them")
        words, labels, hashed = self._dictionary(buckets)
        rows = self._matrix(width, self._flag())
        _need(rows == words + hashed, f"it has {rows} vectors for {words + hashed} words and buckets")
        quantised = self._flag()
        _need(self._matrix(width, quantised) == len(labels), "it has not one vector for each label")
        _need(self._at == len(self._content), "something follows its end")
        return labels

    def _dictionary(self, buckets: int) -> tuple[int, list[str], int]:
        """How many words, the labels, how many vectors of hashed n-grams."""
        size, words, labels = self._take("iii")
        _, pruned = self._take("qq")
        _need(words >= 0 and labels > 0 and size == words + labels, "its numbers of words and labels differ")
        _need(-1 <= pruned <= buckets, "its list of n-grams kept is damaged")
        names, total = [], 0
        for index in range(size):
            end = self._content.find(b"\0", self._at)
            _need(end >= 0, "it ends among its words")
            name = self._content[self._at : end]
            self._at = end + 1
            times, kind = self._take("qb")
            _need(kind == (index >= words), "its words and labels are mixed up")
            total += times
            _need(0 <= times <= total < _MOST_COUNT, "how often its words occurred is damaged")
            if index >= words:
                names.append(name)
        try:
            decoded = [name.decode("utf-8") for name in names]
        except UnicodeDecodeError:
            raise _DamagedError("a label is not UTF-8") from None
        _need(len(set(decoded)) == labels, "a label occurs twice")
        if pruned < 0:
            return words, decoded, buckets
        kept = self._array(np.dtype("<i4"), 2 * pruned).reshape(pruned, 2)
        _need(bool(((kept >= 0) & (kept < (buckets, pruned))).all()), "its list of n-grams kept is damaged")
        return words, decoded, pruned

    def _matrix(self, width: int, quantised: bool) -> int:
        """Rows of a matrix that must have this width."""
        norms = quantised and self._flag()
        rows, columns = self._take("qq")
        _need(columns == width and rows >= 0, "a matrix is not of the width it should have")
        if not quantised:
            self._floats(rows * columns)
            return int(rows)
        (codes,) = self._take("i")
        self._skip(codes)
        parts = self._quantiser(width)
        _need(codes == rows * parts, "a matrix has not one code for each part of a row")
        if norms:
            self._skip(rows)
            _need(self._quantiser(1) == 1, "its norms are damaged")
        return int(rows)

    def _quantiser(self, width: int) -> int:
        """Parts that a vector of this width is cut into; each has 256 centroids."""
        whole, parts, part, last = self._take("4i")
        _need(
            whole == width and parts > 0 and 0 < last <= part and (parts - 1) * part + last == whole,
            "its vectors are cut into parts that do not fit",
        )
        self._floats(256 * whole)
        return int(parts)

    def _flag(self) -> bool:
        (value,) = self._take("B")
        _need(value <= 1, f"the byte before {self._at} is neither 0 nor 1")
        return bool(value)

    def _floats(self, count: int) -> None:
        for start in range(0, count, 1 << 22):
            part = self._array(np.dtype("<f4"), min(1 << 22, count - start))
            _need(bool(np.isfinite(part).all()), "a weight is no number")

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._content, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _skip(self, size: int) -> int:
        """Where what is skipped begins."""
        start = self._at
        _need(0 <= size <= len(self._content) - start, "it ends too early")
        self._at += size
        return start

    def _array(self, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        start = self._skip(kind.itemsize * count)
        # a copy, because a view of the file would keep it from being closed
        return np.frombuffer(self._content[start : self._at], kind)
