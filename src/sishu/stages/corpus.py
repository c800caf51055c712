"""corpus: pages or files into clean documents, with a funnel that tells what was left out and why."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sishu.console import counted, progress, say
from sishu.corpus.pipeline.clean import clean_inputs
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.engines import Processes, Ray
from sishu.corpus.read.sources import list_inputs
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage


class CorpusSettings(CleanSettings):
    """Where the text comes from, what is kept of it, and who does the work."""

    data: str | None = None
    """A file or folder of WARC, ARC, .txt, .md, .html, .pdf, .jsonl, .parquet or .arrow files, here or at an
    address (https://…, s3://…, hf://datasets/OWNER/NAME), or a list of such files as Common Crawl publishes
    (warc.paths.gz); instead of this run's crawl."""
    workers: int = Field(
        default=0,
        ge=0,
        exclude=True,  # decides nothing about the corpus
        description="Processes at the same time; 0: as many as there are cores.",
    )
    engine: Literal["processes", "ray"] = Field(
        default="processes",
        exclude=True,
        description="Who does the work: processes of this machine, or a cluster by Ray, whose machines "
        "must all see the run's folder.",
    )


def work(s: CorpusSettings, context: StageContext) -> dict[str, Any]:
    """Clean everything into `documents.parquet`."""
    settings = CleanSettings.model_validate(s.model_dump(include=set(CleanSettings.model_fields)))
    damaged: list[str] = []
    with progress("corpus", None, "documents") as bar:
        figures = clean_inputs(
            list_inputs(context.inputs["data"], damaged.append),
            context.folder,
            settings,
            Ray() if s.engine == "ray" else Processes(s.workers),
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
    files=(
        "block.domains",
        "block.urls",
        "block.words",
        "bad_word_lists",
        "evaluations",
        "quality_model",
        "count_tokens",
    ),
)
