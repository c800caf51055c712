"""The real `sishu` command in processes of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "sishu"]
# one thread on the processor: the same bytes wherever the tests run, and no quarrel over cores
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONIOENCODING": "utf-8",
}
Done = subprocess.CompletedProcess[str]


class Sishu:
    """The command, in one working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gigabytes: int | None = None
        """The most memory a command that runs to its end may ask for, in addresses."""

    def _limit(self) -> None:
        if self.gigabytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (self.gigabytes * 10**9,) * 2)

    def __call__(self, *words: str) -> Done:
        """Run to the end."""
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            preexec_fn=self._limit,
        )

    def good(self, *words: str) -> Done:
        """Run to the end, which must be a good one."""
        done = self(*words)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    def refused(self, *words: str, code: int = 2) -> str:
        """Run into a failure the user can mend; the one line on standard error."""
        done = self(*words)
        return one_line(done.returncode, done.stderr, code)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start in a process group of its own and do not wait."""
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )


def one_line(returncode: int, stderr: str, code: int) -> str:
    assert returncode == code, stderr[-2000:]
    assert "Traceback" not in stderr
    assert stderr.endswith("\n") and stderr.count("\n") == 1, stderr[-2000:]
    return stderr.strip()


@pytest.fixture
def sishu(tmp_path: Path) -> Sishu:
    return Sishu(tmp_path)


@pytest.fixture
def sentence() -> Callable[[int, str, int], str]:
    """(exit code, standard error, expected code) -> the one line, or the test fails."""
    return one_line
