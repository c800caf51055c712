"""Training text that holds the questions a model will be examined with: found by shared n-grams.

GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C) looks for 13 words in a row, removes them with
200 characters on either side, drops pieces below 200 characters and documents that break into more than
ten, and ignores n-grams that occur in more than ten documents, which are phrases of the culture and legal
boilerplate. That is what is done here: the rule is simple, works on text not yet tokenised, and errs on the
safe side. Others: GPT-2 counts 8-grams in Bloom filters, Llama 2 (arXiv:2307.09288, appendix A.6) 10-grams
of tokens that may differ in four places, Llama 3 (arXiv:2407.21783, section 5.1.4) 8-grams of tokens with a
threshold for each task; these measure afterwards which examples are contaminated. DCLM (arXiv:2406.11794)
removes pages with the last sentence of a question of MMLU and one of its options; Cosmopedia finds
candidates by 10-grams.

Questions of fewer than 13 words, but at least eight (GPT-3's bounds for N), are looked for as a whole.
How many characters are as telling as 13 words was measured on 15,000 answers in English and the same in
Chinese (Alpaca and its translation), one half against the other: n words in a row occurred in both halves as
often as 1.39 n characters did, for n from 6 to 13; 13 words (7 of 10,000) as often as 18 characters.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from sishu.console import UserError
from sishu.corpus.judge.ngrams import Hashes, Places, Scale, grams, units

FIELDS = (
    *("question", "query", "prompt", "problem", "instruction", "text"),
    *("answer", "solution", "canonical_solution", "choices", "options"),
)
"""Fields of an evaluation that `read_items` reads. Passages (context, article) are left out: GPT-3 found
those of SQuAD, QuAC and DROP all over the web, without the questions."""
WORDS, CHARACTERS, SHORTEST, COMMON = 13, 18, 8, 10

_VERSION = 1
_FILES = ("hashes.npy", "tasks.npy", "contamination.json")


class Hit(NamedTuple):
    """A passage that an evaluation holds too, from `start` to `end` in characters of the text."""

    task: str
    start: int
    end: int


class Contamination:
    """The n-grams of evaluations, to find them in texts. Made by `build` or `load`.

    Memory: 10 bytes for each n-gram, and at most 64 MB for finding them fast.
    """

    def __init__(
        self,
        hashes: Hashes,
        tasks: NDArray[numpy.uint16],
        names: Sequence[str],
        scale: Scale,
        sizes: list[int],
    ) -> None:
        self.hashes, self.tasks, self.names, self.scale, self.sizes = hashes, tasks, names, scale, sizes
        # 16 to 32 places for each n-gram, so that all but every twentieth hash of a clean text ends here
        bits = min(26, max(10, len(hashes).bit_length() + 4))
        self._shift = numpy.uint64(64 - bits)
        self._near = numpy.zeros(1 << bits, numpy.bool_)
        self._near[hashes >> self._shift] = True

    @classmethod
    def build(
        cls,
        items: Iterable[tuple[str, str]],
        words: int = WORDS,
        characters: int = CHARACTERS,
        shortest: int = SHORTEST,
        common: int = COMMON,
    ) -> Contamination:
        """An index of evaluation texts; the same for the same texts in any order.

        Left out are n-grams that more than `common` different texts share, such as "which of the following
        statements", and those made of numbers for the most part.

        Args:
            items: name of the evaluation and text, such as a question. The same text twice counts once, for
                the evaluation whose name comes first.
            words: length of an n-gram; GPT-3 13, Cosmopedia 10.
            characters: its length in scripts without spaces.
            shortest: words, or as many characters as weigh the same, of a text to be looked for as a whole.
            common: GPT-3 10.

        Raises:
            UserError: no text is long enough, or lengths that cannot be.
        """
        if not 1 <= shortest <= words <= characters <= 1000:
            raise UserError(
                f"decontamination needs 1 ≤ shortest ({shortest}) ≤ words ({words}) ≤ characters "
                f"({characters}) ≤ 1000"
            )
        scale = Scale(words, characters)
        texts: dict[bytes, tuple[str, Hashes]] = {}
        sizes = set()
        for name, text in items:
            size, found = _item_grams(text, scale, shortest)
            if len(found):
                sizes.add(size)
                key = found.tobytes()
                texts[key] = (min(name, texts[key][0]) if key in texts else name, found)
        if not texts:
            raise UserError(f"the evaluations hold no text of {shortest} words or more; check their fields")
        names = sorted({name for name, _ in texts.values()})
        if len(names) > 1 << 16:
            raise UserError(f"there are {len(names):,} evaluations; 65,536 can be told apart")
        number = {name: index for index, name in enumerate(names)}
        # by name, so that of several evaluations the first is kept
        ordered = sorted(texts.values(), key=lambda entry: entry[0])
        tasks = numpy.repeat([number[name] for name, _ in ordered], [len(found) for _, found in ordered])
        hashes, firsts, times = numpy.unique(
            numpy.concatenate([found for _, found in ordered]), return_index=True, return_counts=True
        )
        kept = times <= common
        return cls(hashes[kept], tasks[firsts[kept]].astype(numpy.uint16), names, scale, sorted(sizes))

    def without_common(self, texts: Iterable[str], common: int = COMMON) -> Contamination:
        """An index without what occurs in more than `common` of the texts, which should be (a sample of) the
        training texts: GPT-3's rule, against phrases that everybody quotes. Texts are taken one at a time."""
        counts = numpy.zeros(len(self.hashes), numpy.int64)
        for text in texts:
            found = [places for _, _, places in self._matches(text)]
            if found:
                counts[numpy.unique(numpy.concatenate(found))] += 1
        kept = counts <= common
        return Contamination(self.hashes[kept], self.tasks[kept], self.names, self.scale, self.sizes)

    def save(self, folder: Path) -> None:
        """Writes hashes.npy, tasks.npy and contamination.json into `folder`, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        scale = {"words": self.scale.words, "characters": self.scale.characters, "sizes": self.sizes}
        about = {"version": _VERSION, "count": len(self.hashes), "names": list(self.names), **scale}
        parts = [folder / f".{name}.part" for name in _FILES]
        for part, values in ((parts[0], self.hashes), (parts[1], self.tasks)):
            with part.open("wb") as out:
                numpy.save(out, values, allow_pickle=False)
        parts[2].write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
        for part, name in zip(parts, _FILES, strict=True):
            part.replace(folder / name)

    @classmethod
    def load(cls, folder: Path) -> Contamination:
        """What `save` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            about = json.loads((folder / _FILES[2]).read_bytes())
            hashes, tasks = (
                numpy.load(folder / name, mmap_mode="r", allow_pickle=False) for name in _FILES[:2]
            )
            fits = (
                about["version"] == _VERSION
                and hashes.shape == tasks.shape == (about["count"],)
                and hashes.dtype == numpy.uint64
                and tasks.dtype == numpy.uint16
                and bool((tasks < len(about["names"])).all())
                and bool((hashes[1:] > hashes[:-1]).all())
            )
            if not fits:
                raise ValueError("the files do not belong together")
            scale = Scale(int(about["words"]), int(about["characters"]))
            sizes = [int(size) for size in about["sizes"]]
            return cls(numpy.asarray(hashes), numpy.asarray(tasks), list(about["names"]), scale, sizes)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder} holds no index of evaluations ({error}); build it again") from error

    def find(self, text: str) -> list[Hit]:
        """The passages of a text that evaluations hold, by position; n-grams that overlap make one."""
        spans: dict[int, list[list[int]]] = {}
        found = [
            (int(start), int(end), int(task))
            for starts, ends, places in self._matches(text)
            for start, end, task in zip(starts, ends, self.tasks[places], strict=True)
        ]
        for start, end, task in sorted(found):
            of_task = spans.setdefault(task, [])
            if of_task and start <= of_task[-1][1]:
                of_task[-1][1] = max(end, of_task[-1][1])
            else:
                of_task.append([start, end])
        hits = [Hit(self.names[task], *span) for task, of_task in spans.items() for span in of_task]
        return sorted(hits, key=lambda hit: (hit.start, hit.end, hit.task))

    def judge(self, text: str) -> str:
        """Why a text is refused, "contains NAME" of the evaluation with the first hit, or ""."""
        for starts, _, places in self._matches(text):
            first = starts.argmin()
            return f"contains {self.names[int(self.tasks[places[first]])]}"
        return ""

    def cut(self, text: str, around: int = 200, shortest: int = 200, most: int = 10) -> list[str]:
        """The pieces of a text that remain when each hit is cut out with `around` characters on either side.

        Pieces shorter than `shortest` characters are left out; more than `most` pieces are taken for a sign
        that the whole text is about the evaluation, and none is returned. Defaults: GPT-3.
        """
        pieces, start = [], 0
        for hit in self.find(text):
            pieces.append(text[start : max(start, hit.start - around)])
            start = max(start, hit.end + around)
        pieces.append(text[start:])
        return [] if len(pieces) > most else [piece for piece in pieces if len(piece) >= shortest]

    def _matches(self, text: str) -> Iterator[tuple[Places, Places, Places]]:
        """Starts and ends in characters, and places in the index, of the n-grams that are in it."""
        for block in units(text, self.scale):
            run = grams(block, self.sizes, self.scale)
            near = numpy.flatnonzero(self._near[run.hashes >> self._shift])
            if not len(near):
                continue
            hashes = run.hashes[near]
            places = numpy.minimum(self.hashes.searchsorted(hashes), len(self.hashes) - 1)
            same = self.hashes[places] == hashes
            if same.any():
                near = near[same]
                yield block.starts[run.firsts[near]], block.ends[run.lasts[near]], places[same]


def _item_grams(text: str, scale: Scale, shortest: int) -> tuple[int, Hashes]:
    """The length, in words, of the n-grams of an evaluation's text, and their different hashes, sorted."""
    blocks = list(units(text, scale))
    weight = sum(int(block.weights.sum()) for block in blocks)
    size = min(scale.words, weight // scale.characters)
    if size < shortest:
        return 0, numpy.empty(0, numpy.uint64)
    found = []
    for block in blocks:
        spoken = numpy.concatenate(([0], numpy.where(block.is_number, 0, block.weights).cumsum()))
        run = grams(block, (size,), scale)
        telling = 2 * (spoken[run.lasts + 1] - spoken[run.firsts]) >= size * scale.characters
        found.append(run.hashes[telling])
    return size, numpy.unique(numpy.concatenate(found))


def read_items(path: Path, fields: Sequence[str] = FIELDS, task: str = "") -> Iterator[tuple[str, str]]:
    """The texts of an evaluation for `Contamination.build`: each field of each row, and each string in a
    field that holds a list or mapping, for itself.

    Args:
        path: .jsonl, .jsonl.gz, .parquet, or .txt with a text in each line.
        fields: those to read, where a row has them.
        task: the name of the evaluation; by default that of the file, to its first dot.

    Raises:
        UserError: the file cannot be read, or no row has one of the fields.
    """
    name, task = path.name.lower(), task or path.name.partition(".")[0]
    found = False
    try:
        if name.endswith((".jsonl", ".jsonl.gz")):
            rows = _json_rows(path)
        elif name.endswith(".parquet"):
            rows = _parquet_rows(path, fields)
        elif name.endswith(".txt"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            rows, fields = ({"text": line} for line in lines), ("text",)
        else:
            raise UserError(f"{path} is not one of .jsonl, .jsonl.gz, .parquet, .txt")
        for row in rows:
            for field in fields:
                for text in _strings(row.get(field)):
                    found = True
                    yield task, text
    except (OSError, EOFError, zlib.error, ValueError, RecursionError, pyarrow.ArrowException) as error:
        raise UserError(f"the evaluation {path} cannot be read ({error}); give another file") from error
    if not found:
        raise UserError(f"the evaluation {path} has none of the fields {', '.join(fields)}; name its own")


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as lines:
        for line in lines:
            if line.strip() and isinstance(row := json.loads(line), dict):
                yield row


def _parquet_rows(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    with pyarrow.parquet.ParquetFile(path) as table:
        columns = [field for field in fields if field in table.schema_arrow.names]
        for batch in table.iter_batches(batch_size=256, columns=columns):
            yield from batch.to_pylist()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
