"""Compile the C++ of this folder at first use, and keep the result for the next time."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
SWITCH = "SISHU_NATIVE"
"""An environment variable that, set to 0, has everything done without compiled code."""
SECONDS = 120


def library() -> ctypes.CDLL | None:
    """The compiled code; None where it cannot be had or is not wanted (see `absence`)."""
    return _attempt()[0]


def absence() -> str:
    """Why there is no compiled code, as half a sentence; empty where there is."""
    return _attempt()[1]


@cache
def _attempt() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH} is 0"
    if os.name != "posix":
        return None, f"it is not made for {platform.system()}"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        return None, "there is no C++ compiler (c++, g++ or clang++)"
    try:
        built = ctypes.CDLL(str(_built(compiler, _folder())))
        _share_threads(built)
        return built, ""
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.decode(errors="replace").splitlines() if "error" in line]
        return None, f"{compiler} failed: {said[0] if said else error.returncode}"
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no home
        return None, str(error)


def _share_threads(built: ctypes.CDLL) -> None:
    """Have compiled code use torch's threads, where these are GNU's OpenMP; else it starts its own."""
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        found = ctypes.CDLL(str(path))  # the one that torch has opened
        built.use_team(found.GOMP_parallel, found.omp_get_thread_num, found.omp_get_num_threads)


def _folder() -> Path:
    """Where compiled code is kept, which nobody else may write to. Raises OSError where there is no such
    place."""
    caches = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(caches) if caches else Path.home() / ".cache") / "sishu"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"others may write to {folder}")
    return folder


def _built(compiler: str, folder: Path) -> Path:
    """The library for this source, compiler and processor, made if it is not there yet."""
    sources = sorted(p for p in SOURCES.iterdir() if p.suffix in (".cpp", ".hpp"))
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=SECONDS).stdout
    parts = [version, _processor().encode(), *(arg.encode() for arg in FLAGS)]
    parts += [source.read_bytes() for source in sources]
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    built = folder / f"native-{digest[:32]}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as name:
            made = Path(name) / built.name
            units = [str(source) for source in sources if source.suffix == ".cpp"]
            command = [compiler, *FLAGS, *units, "-o", str(made)]
            subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
            made.replace(built)  # whole or not at all, also where two processes do it at once
    return built


def _processor() -> str:
    """What code for this processor may not run on another: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
