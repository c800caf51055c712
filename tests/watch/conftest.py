"""A run folder to watch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.watch.written import Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "demo")
