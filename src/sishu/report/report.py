"""report: everything a run has found out, on one page."""

from __future__ import annotations

from typing import Any

from sishu.config import Section
from sishu.console import say
from sishu.files import write_atomic
from sishu.report.build import build
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage


class ReportSettings(Section):
    """The report has no settings yet."""


def work(s: ReportSettings, context: StageContext) -> dict[str, Any]:
    """Write `report.html`."""
    path = context.folder / "report.html"
    html = build(context.folder.parent)
    write_atomic(path, html)
    say(f"  {path}")
    return {"bytes": len(html.encode())}


STAGE = Stage(
    "report",
    "Put everything the run has found out on one page.",
    ReportSettings,
    tuple(
        Need(stage, stage, ".", optional=stage != "corpus")
        for stage in (
            "crawl",
            "corpus",
            "tokenizer",
            "pretrain",
            "sft",
            "reward",
            "ppo",
            "eval",
        )
    ),
    work,
)
