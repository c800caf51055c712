"""What the stage asks of its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sishu.config import build
from sishu.console import UserError
from sishu.run import StageContext
from sishu.stages.ppo import PpoSettings, work


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"answers": 2, "kept": 3, "train": {"batch": 6}}, "ppo.kept=3 must not exceed ppo.answers=2"),
        ({"answers": 8, "kept": 3, "train": {"batch": 64}}, "must divide ppo.train.batch=64"),
    ],
)
def test_answers_kept_must_fit_the_batch(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        work(build(PpoSettings, settings), StageContext("ppo", tmp_path, 1, {}, False))
