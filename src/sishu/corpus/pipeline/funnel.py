"""What every cleaning step let through, why it refused the rest, and what it changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow

from sishu.console import UserError
from sishu.corpus.document import Document, Refused
from sishu.corpus.table import write_table
from sishu.files import write_atomic

EXCERPT = 300
"""Characters of a text that its record shows."""
_SHOWN = ("step", "id", "url", "reason", "excerpt", "before", "after")
_BEFORE = 60
"""Characters of them that lie before the first difference."""


class Rejected(Exception):
    """Raised by a step to refuse a document; the message is the reason, of a small fixed set."""


@dataclass
class Step:
    """Counts of one step. Characters and bytes (in UTF-8) are those of the texts; of a page that is not
    decoded yet they are both the bytes that arrived."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    tokens_in: int = 0
    """Under the tokenizer that is to count, of documents that are text already; else 0."""
    tokens_out: int = 0
    changed: int = 0
    """Documents let through with another text."""
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


Sample = dict[str, dict[str, str]]
"""Records by rank, a hash of the document's URL, so that a sample is the same in whatever order they come."""


class Funnel:
    """The steps in order, with a small, reproducible sample of what each refused and changed.

    Args:
        keep: how many refused, and how many changed, documents to remember for each step.
        count: gives the number of tokens in a text, if they are to be counted.
    """

    def __init__(self, keep: int, count: Callable[[str], int] | None = None) -> None:
        self.steps: dict[str, Step] = {}
        self._keep = keep
        self._count = count
        self._sizes: dict[int, tuple[str, int]] = {}
        self._numbers: dict[int, tuple[str, int]] = {}
        self.refused: dict[str, Sample] = {}
        self.edited: dict[str, Sample] = {}

    def apply(
        self,
        name: str,
        document: Document,
        work: Callable[[], Document],
        body: int | None = None,
        is_text: tuple[bool, bool] = (True, True),
    ) -> Document | Refused:
        """Runs one step on one document.

        Args:
            name: the step.
            document: what goes in; of a page not yet decoded, one without text.
            work: gives the document going out or raises `Rejected`. Any other failure counts as a reason
                too: one hostile page must not end a run of a million.
            body: bytes of a page not yet decoded.
            is_text: whether the document is text, and not markup, before the step and after.
        """
        step = self.step(name)
        characters, size = (len(document.text), self._size(document.text)) if body is None else (body, body)
        step.documents_in += 1
        step.characters_in += characters
        step.bytes_in += size
        step.tokens_in += self._tokens(document.text) if is_text[0] else 0
        started = perf_counter()
        try:
            after = work()
        except Rejected as refusal:
            return self.refuse(name, document, str(refusal))
        except (UserError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic inside a Rust extension is not an Exception
            return self.refuse(name, document, f"failed: {type(error).__name__}")
        finally:
            step.seconds += perf_counter() - started
        if after is not document and (body is not None or after.text != document.text):
            characters, size = len(after.text), self._size(after.text)
            if body is None:
                step.changed += 1
                self._remember(self.edited, name, document, lambda: _difference(document.text, after.text))
        step.documents_out += 1
        step.characters_out += characters
        step.bytes_out += size
        step.tokens_out += self._tokens(after.text) if is_text[1] else 0
        return after

    def _size(self, text: str) -> int:
        """Bytes; what goes out of a step goes into the next one, and is measured once."""
        if text.isascii():
            return len(text)
        return _once(self._sizes, text, lambda: len(text.encode("utf-8", "replace")))

    def _tokens(self, text: str) -> int:
        """What goes out of a step goes into the next one, and is counted once."""
        count = self._count
        return _once(self._numbers, text, lambda: count(text)) if count else 0

    def forget(self) -> None:
        """Forgets the texts whose sizes were remembered for the next step."""
        self._sizes.clear()
        self._numbers.clear()

    def step(self, name: str) -> Step:
        """The counts of a step, made on first use; steps stay in the order of first use."""
        return self.steps.setdefault(name, Step(name))

    def refuse(self, name: str, document: Document, reason: str) -> Refused:
        """Counts a refusal and considers the document for the sample."""
        self.step(name).reasons[reason] += 1
        self._remember(
            self.refused, name, document, lambda: {"reason": reason, "excerpt": _shown(document.text, 0)}
        )
        return Refused(document, name, reason)

    def _remember(
        self,
        samples: dict[str, Sample],
        name: str,
        document: Document,
        show: Callable[[], Mapping[str, str]],
    ) -> None:
        sample = samples.setdefault(name, {})
        rank = sha256(f"{document.url}\n{document.id}".encode("utf-8", "replace")).hexdigest()
        if len(sample) >= self._keep and rank > max(sample, default=""):
            return
        record = {"step": name, "id": document.id, "url": document.url, **show()}
        # of two records of one URL the one whose text is lower, again whatever the order
        _put(sample, rank, record)
        if len(sample) > self._keep:
            del sample[max(sample)]

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds what another funnel's `as_dict` says."""
        for given in other["steps"]:
            step = self.step(given["name"])
            for key, value in given.items():
                if key == "reasons":
                    step.reasons.update(value)
                elif key != "name":
                    setattr(step, key, getattr(step, key) + value)
        for samples, name in ((self.refused, "refused"), (self.edited, "edited")):
            for step_name, records in other[name].items():
                sample = samples.setdefault(step_name, {})
                for rank, record in records.items():
                    _put(sample, rank, record)
                for rank in sorted(sample)[self._keep :]:
                    del sample[rank]

    def as_dict(self) -> dict[str, Any]:
        """Counts and samples as plain data, for `merge`."""
        return {"steps": self._counts(), "refused": self.refused, "edited": self.edited}

    def _counts(self) -> list[dict[str, Any]]:
        return [
            asdict(step) | {"seconds": round(step.seconds, 3), "reasons": dict(sorted(step.reasons.items()))}
            for step in self.steps.values()
        ]

    def reasons(self) -> dict[str, int]:
        """Refusals by `step: reason`, in the order of the steps and sorted within one."""
        return {
            f"{step.name}: {reason}": count
            for step in self.steps.values()
            for reason, count in sorted(step.reasons.items())
        }

    def write(self, folder: Path, damaged: Mapping[str, int]) -> None:
        """Writes funnel.json, rejects.jsonl and edits.jsonl, and the same as funnel.parquet and
        samples.parquet; `damaged` counts records that were never pages."""
        counts = self._counts()
        funnel = json.dumps({"damaged": damaged, "steps": counts}, indent=1, ensure_ascii=False)
        write_atomic(folder / "funnel.json", funnel + "\n")
        rows = [step | {"reasons": list(step["reasons"].items())} for step in counts]
        reasons = pyarrow.map_(pyarrow.string(), pyarrow.int64())
        numbers = [(one.name, pyarrow.int64()) for one in fields(Step) if one.type == "int"]
        names = [("name", pyarrow.string()), *numbers, ("seconds", pyarrow.float64()), ("reasons", reasons)]
        write_table(folder / "funnel.parquet", pyarrow.Table.from_pylist(rows, pyarrow.schema(names)))
        kept = []
        for name, samples in (("rejects.jsonl", self.refused), ("edits.jsonl", self.edited)):
            records = [sample[rank] for sample in samples.values() for rank in sorted(sample)]
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
            write_atomic(folder / name, "".join(lines))
            kept += records
        shown = pyarrow.schema([(name, pyarrow.string()) for name in _SHOWN])
        write_table(folder / "samples.parquet", pyarrow.Table.from_pylist(kept, shown))


def _once(known: dict[int, tuple[str, int]], text: str, measure: Callable[[], int]) -> int:
    """What is known of this very text, or else measured now; kept with the text, whose place in memory no
    other can take then."""
    found = known.get(id(text))
    if found is None:
        found = known[id(text)] = (text, measure())
    return found[1]


def _put(sample: Sample, rank: str, record: dict[str, str]) -> None:
    there = sample.get(rank)
    if there is None or list(record.values()) < list(there.values()):
        sample[rank] = record


def _difference(before: str, after: str) -> dict[str, str]:
    """The surroundings of the first difference in both texts."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        if before[low:middle] == after[low:middle]:
            low = middle
        else:
            high = middle - 1
    start = max(0, low - _BEFORE)
    return {"before": _shown(before, start), "after": _shown(after, start)}


def _shown(text: str, start: int) -> str:
    return text[start : start + EXCERPT].encode("utf-8", "replace").decode("utf-8")
