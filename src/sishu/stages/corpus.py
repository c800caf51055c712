"""corpus: pages or files into clean documents, with a funnel that tells what was left out and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sishu.console import counted, progress, say
from sishu.corpus.clean import CleanSettings, clean
from sishu.corpus.sources import read_documents_or_pages
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage


class CorpusSettings(CleanSettings):
    """Where the text comes from and what is kept of it."""

    data: Path | None = None
    """A file or folder of .txt, .md, .html, .jsonl, .parquet or WARC files, instead of this run's crawl."""


def work(s: CorpusSettings, context: StageContext) -> dict[str, Any]:
    """Clean everything into `documents.parquet`."""
    damaged: list[str] = []
    with progress("corpus", None, "documents") as bar:
        figures = clean(
            read_documents_or_pages(context.inputs["data"], damaged.append),
            context.folder,
            s,
            damaged=damaged,
            on_document=lambda count: bar.advance(max(0, count - bar.done)),
        )
    say(f"  {counted(figures['documents'], 'document')}, {counted(figures['characters'], 'character')}")
    return figures


STAGE = Stage(
    "corpus",
    "Turn pages or files into clean, deduplicated documents.",
    CorpusSettings,
    (Need("data", "crawl", "pages.warc.gz", setting="data"),),
    work,
)
