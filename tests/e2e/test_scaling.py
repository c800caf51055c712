"""`sishu scaling` killed between its models and while one trains: the same in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.scaling.texts import LADDER, TINY, write_rows


def finished(run: Path) -> int:
    return len(list((run / "scaling").glob("*/pretrain/manifest.json")))


def test_a_killed_ladder_ends_as_one_that_was_not(sishu: Any) -> None:
    write_rows(sishu.folder / "rows.jsonl")
    corpus = ["corpus.data=rows.jsonl", "tokenizer.vocabulary=420"]
    told = sishu.good("scaling", "text", *corpus, *LADDER, *TINY, "--run", "whole", "-q").stdout
    assert "Predicted and measured" in told and "Operations spent best" in told and "beyond it" in told
    assert told.rstrip().endswith(str(sishu.folder / "whole" / "scaling" / "scaling.html"))
    killed = sishu.folder / "killed"
    for stage in ("corpus", "tokenizer", "recipe.yaml"):
        copy = shutil.copy if stage.endswith(".yaml") else shutil.copytree
        killed.mkdir(exist_ok=True)
        copy(sishu.folder / "whole" / stage, killed / stage)
    for models in (3, 12):
        running = sishu.start("scaling", "killed", *LADDER, *TINY)
        while finished(killed) < models and running.poll() is None:
            time.sleep(0.005)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert models <= finished(killed) < 13
    sishu.good("scaling", "killed", *LADDER, *TINY, "-q")
    assert finished(killed) == 13
    both = [(sishu.folder / run / "scaling" / "scaling.json").read_bytes() for run in ("whole", "killed")]
    assert both[0] == both[1]
    assert json.loads(both[0])["test"]["measured"] > 0


def test_a_mistake_is_one_sentence(sishu: Any) -> None:
    assert "Give a recipe or a run's folder" in sishu.refused("scaling")
