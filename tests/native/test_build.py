"""The compiled code: made once, kept, and done without where it cannot be had."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sishu.native import build

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv(build.SWITCH, raising=False)
    build._attempt.cache_clear()
    yield tmp_path / "sishu"
    build._attempt.cache_clear()


@needs_compiler
def test_it_is_made_once(caches: Path) -> None:
    assert build.library() is not None and build.absence() == ""
    (made,) = caches.iterdir()
    assert made.suffix == ".so" and caches.stat().st_mode & 0o077 == 0
    before = made.stat()
    build._attempt.cache_clear()
    assert build.library() is not None
    assert [p.stat().st_mtime_ns for p in caches.iterdir()] == [before.st_mtime_ns]


@needs_compiler
def test_other_source_is_made_anew(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.library() is not None
    other = shutil.copytree(build.SOURCES, tmp_path / "source")
    with (other / "decode.cpp").open("a", encoding="utf-8") as source:
        source.write("\n// another\n")
    monkeypatch.setattr(build, "SOURCES", other)
    build._attempt.cache_clear()
    assert build.library() is not None
    assert len(list(caches.iterdir())) == 2


def test_it_can_be_switched_off(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")
    assert build.library() is None and build.absence() == "SISHU_NATIVE is 0"
    assert not caches.exists()


@pytest.mark.parametrize(
    ("kind", "reason"), [("none", "no C"), ("failing", "failed: error: no"), ("writing rubbish", "native-")]
)
def test_a_compiler_that_is_none(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    """Without one, with one that fails and with one whose output cannot be loaded there is no compiled
    code; one that fails leaves nothing behind."""
    tools = tmp_path / "tools"
    tools.mkdir()
    compiler = tools / "c++"
    if kind != "none":
        end = (
            "echo error: no >&2; exit 1"
            if kind == "failing"
            else 'for last; do :; done; echo rubbish > "$last"'
        )
        compiler.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit; fi\n{end}\n')
        compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    assert build.library() is None
    assert reason in build.absence()
    if kind == "failing":
        assert list(caches.iterdir()) == []


@needs_compiler
@pytest.mark.skipif(os.name != "posix", reason="needs owners of files")
def test_a_folder_that_others_may_write_to_is_not_trusted(caches: Path) -> None:
    caches.mkdir()
    caches.chmod(0o777)
    assert build.library() is None and "others may write" in build.absence()
    assert list(caches.iterdir()) == []
