"""Builds the report card of a run: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from sishu.report.figures import read_run
from sishu.report.page import render


def build(run: Path) -> str:
    """The HTML of the report card of the run folder `run`, to be written as UTF-8.

    Reads only that folder, never the clock, the machine or the network, so the same folder gives
    the same bytes. Stages that are missing leave their sections out.

    Raises UserError when `run` is no run folder or holds a file that cannot be read.
    """
    return render(read_run(run))
