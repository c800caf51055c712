"""What every cleaning step let through and why it refused the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from sishu.console import UserError

Result = TypeVar("Result")

EXCERPT = 300
"""Characters of a refused text that its record shows."""


class Rejected(Exception):
    """Raised by a step to refuse a document; the message is the reason, of a small fixed set."""


@dataclass
class Step:
    """Counts of one step. Sizes are characters of text; for `decode`, bytes going in."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class Funnel:
    """The steps in order, with a small, reproducible sample of what each refused.

    Args:
        keep_rejects: how many refused documents to remember for each step; those with the lowest
            hash of their URL, whatever order they come in.
    """

    def __init__(self, keep_rejects: int) -> None:
        self.steps: dict[str, Step] = {}
        self._keep = keep_rejects
        self._samples: dict[str, list[tuple[str, dict[str, str]]]] = {}

    def apply(
        self, name: str, origin: tuple[str, str, str], size: int, work: Callable[[], Result]
    ) -> Result | None:
        """Runs one step on one document; None if it was refused or if the step failed on it.

        Args:
            name: the step.
            origin: id, URL and text (or its beginning) of the document going in.
            size: of the document going in.
            work: gives the document going out, whose size the caller adds with `passed`, or raises
                `Rejected`. Any other failure counts as a reason too: one hostile page must not end
                a run of a million.
        """
        step = self.step(name)
        step.documents_in += 1
        step.characters_in += size
        started = perf_counter()
        try:
            return work()
        except Rejected as refusal:
            self.refuse(name, origin, str(refusal))
        except (UserError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic inside a Rust extension is not an Exception
            self.refuse(name, origin, f"failed: {type(error).__name__}")
        finally:
            step.seconds += perf_counter() - started
        return None

    def step(self, name: str) -> Step:
        """The counts of a step, made on first use; steps stay in the order of first use."""
        return self.steps.setdefault(name, Step(name))

    def passed(self, name: str, size: int) -> None:
        """Counts a document of this size as let through."""
        self.steps[name].documents_out += 1
        self.steps[name].characters_out += size

    def refuse(self, name: str, origin: tuple[str, str, str], reason: str) -> None:
        """Counts a refusal and considers the document for the sample."""
        self.steps[name].reasons[reason] += 1
        identity, url, text = origin
        rank = sha256(f"{url}\n{identity}".encode("utf-8", "replace")).hexdigest()
        record = {"step": name, "id": identity, "url": url, "reason": reason}
        sample = self._samples.setdefault(name, [])
        sample.append((rank, record | {"excerpt": text[:EXCERPT]}))
        if len(sample) > 2 * self._keep + 100:
            self._shrink(sample)

    def _shrink(self, sample: list[tuple[str, dict[str, str]]]) -> None:
        sample.sort(key=lambda entry: (entry[0], entry[1]["excerpt"]))
        del sample[self._keep :]

    def reasons(self) -> dict[str, int]:
        """Refusals by `step: reason`, in the order of the steps and sorted within one."""
        return {
            f"{step.name}: {reason}": count
            for step in self.steps.values()
            for reason, count in sorted(step.reasons.items())
        }

    def write(self, folder: Path, damaged: dict[str, int]) -> None:
        """Writes funnel.json and rejects.jsonl; `damaged` counts records that were never pages."""
        steps: list[dict[str, Any]] = [
            asdict(step) | {"seconds": round(step.seconds, 3), "reasons": dict(sorted(step.reasons.items()))}
            for step in self.steps.values()
        ]
        funnel = json.dumps({"damaged": damaged, "steps": steps}, indent=1, ensure_ascii=False)
        (folder / "funnel.json").write_text(funnel + "\n", encoding="utf-8")
        with (folder / "rejects.jsonl").open("w", encoding="utf-8") as lines:
            for sample in self._samples.values():
                self._shrink(sample)
                for _, record in sample:
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
