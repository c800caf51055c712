"""Files that are there whole or not at all, JSON that people can read, digests, addresses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from sishu.console import UserError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that the disk is full."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        "No space left on device" in str(error)
    )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file at, which becomes `path` when all of it is written and on the disk: it is there
    whole or not at all, even when the machine stops."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def dump_json(data: Any) -> str:
    """JSON for people to read, keys in the order given."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run; raises UserError when it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete its folder and run again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: delete its folder and run again.")
    return data


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_url(data: str | PurePath) -> str:
    """The address, if it is one (also one that went through a `Path`, which takes two slashes for one)."""
    found = _URL.match(str(data))
    if not found or (found[2] == "/" and isinstance(data, str)):
        return ""
    return f"{found[1].lower()}://{str(data)[found.end() :]}"
