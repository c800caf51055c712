"""How a corpus is cut into pieces of work that any process can do, in any order, and do again.

A *part* is a few input files, cleaned on their own. What it lets through is sorted into *bins*, equal ranges
of document ids. Once it is known how much is in each, bins become *buckets*: a bin, or a piece of one that is
too full for the memory of a worker. One after the other, buckets are the corpus sorted by id. Everything on
the way lies in one folder, so that a task is no more than a name and a number.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.read.sources import Input
from sishu.files import whole, write_atomic

PART_BYTES, PART_FILES = 4_000_000, 256
"""Small files are put together until a part has so many bytes, or files."""
BIN_BYTES, LARGE_BIN_BYTES = 4_000_000, 32_000_000
"""Of input, packed as it is, for a bin: little, so that all workers have something to do, but more where that
would make many."""
ENOUGH_BINS, MOST_BINS = 64, 4096
BUCKET_CHARACTERS = 32_000_000
"""Of text for a bucket, which must fit into a worker's memory several times."""


@dataclass(frozen=True)
class Plan:
    """The folder of the work, what it is to do, and how it is cut up."""

    folder: Path
    settings: CleanSettings
    parts: tuple[tuple[Input, ...], ...]
    bins: int

    @property
    def material(self) -> Path:
        """The folder of what is compiled for the steps (`material.py`)."""
        return self.folder / "material"

    def bin_of(self, identity: str) -> int:
        """The bin of a document's id."""
        return int(identity, 16) * self.bins >> 64

    @property
    def buckets(self) -> int:
        """How many there are."""
        return len(self.lowest_ids)

    @cached_property
    def lowest_ids(self) -> list[int]:
        """Of each bucket, as `set_buckets` has written them down."""
        lowest: list[int] = json.loads((self.folder / "buckets.json").read_bytes())
        return lowest

    def bucket_of(self, identity: str) -> int:
        """The bucket of a document's id."""
        return bisect_right(self.lowest_ids, int(identity, 16)) - 1

    def set_buckets(self, characters: Sequence[int]) -> None:
        """Makes buckets of the bins, going by the text in each, (bins,); called when all parts are done."""
        lowest = []
        for number, amount in enumerate(characters):
            pieces = max(1, -(-amount // BUCKET_CHARACTERS))
            first, last = (-((-one << 64) // self.bins) for one in (number, number + 1))
            lowest += [first + (last - first) * piece // pieces for piece in range(pieces)]
        write_atomic(self.folder / "buckets.json", json.dumps(lowest))

    def path(self, kind: str, number: int, ending: str) -> Path:
        """The file of a kind for a part or bucket."""
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        return folder / f"{number:05}.{ending}"

    def result(self, task: str, number: int) -> dict[str, Any]:
        """What a finished task said."""
        result: dict[str, Any] = json.loads(self.path(task, number, "json").read_bytes())
        return result

    def places(self, bucket: int) -> list[tuple[int, int, int]]:
        """Part, shelf and batch of the documents of a bucket."""
        found: list[tuple[int, int, int]] = json.loads(self.path("places", bucket, "json").read_bytes())
        return found

    def leave(self, kind: str, number: int, **rows: NDArray[Any]) -> None:
        """Writes rows of numbers down for a task to come."""
        with whole(self.path(kind, number, "npz")) as path, path.open("wb") as file:
            numpy.savez(file, allow_pickle=False, **rows)

    def array(self, kind: str, number: int, name: str) -> NDArray[Any]:
        """A row of numbers that `leave` has written."""
        with numpy.load(self.path(kind, number, "npz"), allow_pickle=False) as rows:
            row: NDArray[Any] = rows[name]
            return row

    def discard(self, kind: str, ending: str) -> None:
        """Deletes what no task to come will read."""
        for path in (self.folder / kind).glob(f"*.{ending}"):
            path.unlink()

    def save(self) -> None:
        """Writes the plan down, for the processes that work on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "plan.json", self.as_json())

    def as_json(self) -> str:
        """The plan without its folder."""
        data = {
            "settings": self.settings.model_dump(mode="json"),
            "parts": [[asdict(source) for source in part] for part in self.parts],
            "bins": self.bins,
        }
        return json.dumps(data, indent=1) + "\n"  # in ASCII, which holds names of files that are no UTF-8

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """The plan that `save` left in a folder."""
        data = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        parts = tuple(tuple(Input(**source) for source in part) for part in data["parts"])
        return cls(folder, CleanSettings.model_validate(data["settings"]), parts, data["bins"])


def make_plan(folder: Path, settings: CleanSettings, inputs: Sequence[Input]) -> Plan:
    """Cuts the work on these inputs up, in the same way whoever is to do it."""
    parts: list[list[Input]] = []
    size = 0
    for source in inputs:
        weight = source.size or PART_BYTES  # of a distant file the size may be unknown
        if not parts or size + weight > PART_BYTES or len(parts[-1]) == PART_FILES:
            parts.append([])
            size = 0
        parts[-1].append(source)
        size += weight
    total = sum(source.size or PART_BYTES for source in inputs)
    bins = max(1, min(ENOUGH_BINS, -(-total // BIN_BYTES)), min(MOST_BINS, total // LARGE_BIN_BYTES))
    return Plan(folder, settings, tuple(map(tuple, parts)), bins)
