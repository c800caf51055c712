"""Where real data lies that is never part of the project."""

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """A file or folder of `SISHU_TEST_DATA`, else of ../shared/data; skips where there is none."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("SISHU_TEST_DATA", default)) / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return path
