"""Good and bad texts from wherever corpora come from, to train a quality model on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sishu.corpus.document import Document
from sishu.corpus.judge.quality_training import Example
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.document_steps import DocumentSteps
from sishu.corpus.pipeline.funnel import Funnel
from sishu.corpus.read.sources import list_inputs, read_input

_AS_THEY_ARE = CleanSettings(quality="none", bad_words=False, min_characters=1, min_language_score=0)


def examples_in(data: str, good: bool, report: Callable[[str], None]) -> Iterator[Example]:
    """The texts of all pages and documents of `data` (see `list_inputs`), as good ones or as bad ones.

    Args:
        data: a file, folder or address.
        good: what they are examples of.
        report: called with one line, `reason: place`, for what cannot be read or holds no text.

    Raises:
        UserError: nothing there that can be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps = DocumentSteps(_AS_THEY_ARE, Funnel(0), Path(folder))
        for source in list_inputs(data, report):
            for item in read_input(source, report):
                [outcome] = steps([(item, source.name)])
                if isinstance(outcome, Document):
                    yield Example(outcome.text, good)
                else:
                    report(f"{outcome.reason}: {outcome.document.url}")
