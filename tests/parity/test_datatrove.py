"""Gopher's, C4's and FineWeb's rules decide as datatrove's filters do, given the same words and sentences."""

from __future__ import annotations

import random
from collections import Counter
from pydoc_data.topics import topics
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline import filters

from sishu.corpus.judge import heuristics

NAMES = ("gopher_repetition_filter", "gopher_quality_filter", "c4_filters", "fineweb_quality_filter")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Real prose with the faults that the rules look for worked into it, from none to many."""
    rng = random.Random(0)
    result = []
    for topic in topics.values():
        lines = [line.strip() for line in topic.replace("*", "").splitlines()]
        prose = [" ".join(part.split()) for part in "\n".join(lines).split("\n\n") if len(part) > 80]
        for _ in range(8 if len(prose) > 1 else 0):
            parts = rng.sample(prose, min(len(prose), rng.randint(2, 40)))
            for _ in range(rng.choice((0, 1, 1, 2, 3))):
                at, some = rng.randrange(len(parts)), rng.choice(parts)
                fault = rng.choice((
                    some, some[:25], f"- {some}", f"{some[:40]}...", f"#{some} # #", some[:60] + " {x}",
                    "Two words", "We use cookies to serve you.", "Home\nNews\nMore",
                    " ".join([some[:30]] * 4),
                    "12 3.4 %% 5", some.replace(" ", ""), "…",
                ))  # fmt: skip
                parts[at : at + rng.randint(0, 1)] = [fault] * rng.choice((1, 1, 2, 5))
            result.append(rng.choice(("\n", "\n\n")).join(parts))
    return result


def theirs(text: str) -> tuple[str, str | None]:
    document = Document(text=text, id="")
    for one in (
        filters.GopherRepetitionFilter(),
        filters.GopherQualityFilter(),
        filters.C4QualityFilter(filter_no_terminal_punct=False),
        filters.FineWebQualityFilter(),
    ):
        verdict: Any = one.filter(document)
        if verdict is not True:
            return document.text, verdict[1]
    return document.text, None


def test_the_same_decisions_and_edits(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        module = getattr(filters, name)
        monkeypatch.setattr(
            module, "split_into_words", lambda text, language: heuristics.words(text), raising=False
        )
    monkeypatch.setattr(
        filters.c4_filters, "split_into_sentences", lambda text, language: heuristics.sentences(text)
    )
    same, reasons = 0, Counter[str | None]()
    for text in texts:
        edited, reason = theirs(text)
        reasons[reason] += 1
        ours = heuristics.select(text, "en")
        same += (ours.reason is None) == (reason is None)
        if reason is None and ours.reason is None:
            assert ours.text == edited
    assert len(texts) > 400 and reasons[None] > 30 and len(reasons) > 8, reasons
    assert same >= 0.995 * len(texts)
