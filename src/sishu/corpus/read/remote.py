"""Files on other machines (`https://`, `s3://`, `hf://datasets/OWNER/NAME`, whatever fsspec can open): listed
as folders here are, and fetched one at a time to a file on disk that never has a name.

Access keys, endpoints and proxies are set as the stores' own libraries want them (`AWS_…`, `HF_TOKEN`,
`HTTPS_PROXY`, `FSSPEC_S3='{"anon": true}'`: https://filesystem-spec.readthedocs.io/en/latest/features.html).
"""

from __future__ import annotations

import errno
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from sishu.console import UserError

Found = tuple[str, str, int]
"""A file's name relative to the folder, its address, its size in bytes or 0."""

CHUNK_BYTES = 8 << 20
"""Bytes asked for at a time: what is held in memory, and what is lost with a connection."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds waited after each failure in a row to get any further."""
MAX_INDEX_PAGES = 1_000
"""Index pages of a web server looked through for one folder."""

_PACKAGES = {
    **{"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "hf": "huggingface_hub"},
    **{"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "sftp": "paramiko", "ssh": "paramiko"},
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNREACHABLE = ("connect", "resolve", "dns", "timeout", "timed out", "unreachable", "offline", "endpoint url")


def list_remote(url: str, readable: Callable[[str], bool]) -> list[Found]:
    """The readable files at an address: the file itself, or all below the folder, or all that match its `*`.

    Hidden files and folders are left out, and the card of a data set on Hugging Face.

    Raises:
        UserError: there is nothing, no way to it, or no package to go there; names the mend.
    """
    store, path = open_store(url)
    try:
        return _list(store, path, url, readable)
    except Exception as error:  # every store has errors of its own
        raise UserError(f"{url} cannot be read: {explain(error)}") from error


def open_store(url: str) -> tuple[Any, str]:
    """The file system and the path in it. Raises UserError for one that is unknown or needs a package."""
    protocol = url.partition("://")[0].lower()
    try:
        store, path = url_to_fs(url, **(_web_options() if protocol in ("http", "https") else {}))
    except ImportError as error:
        package = _PACKAGES.get(protocol, f"that fsspec uses for {protocol}://")
        raise UserError(f"{url} needs the package {package}; pip install it ({error})") from error
    except Exception as error:
        raise UserError(f"{url} cannot be opened: {error}; check the address") from error
    return store, path


@contextmanager
def fetched(url: str) -> Iterator[BinaryIO]:
    """The file at an address, fetched to the disk and open for reading; it is gone afterwards, or with the
    process.

    A connection that is cut is taken up again where it ended.

    Raises:
        OSError: it cannot be fetched; the message says why.
        UserError: the disk is full, or a package is missing.
    """
    store, path = open_store(url)
    with tempfile.TemporaryFile(prefix="sishu-") as file:
        ranges, failures = True, 0
        while True:
            before = file.tell()
            try:
                _fetch(store, path, file, ranges)
                break
            except UserError:
                raise
            except Exception as error:
                if isinstance(error, ValueError) and ranges:
                    ranges = False  # the server gives files only from the beginning
                    continue
                failures = 1 if file.tell() > before else failures + 1
                if failures > len(PAUSES) or _is_final(error):
                    raise OSError(explain(error)) from error
                time.sleep(PAUSES[failures - 1])
        file.seek(0)
        yield file


def explain(error: BaseException) -> str:
    """Cause and mend in half a sentence, whichever library it came from."""
    chain = list(_chain(error))
    statuses = {status for one in chain if (status := _status(one))}
    texts = " ".join(f"{type(one).__name__} {one}" for one in chain).lower()
    if statuses & {401, 403} or any(isinstance(one, PermissionError) for one in chain):
        return "access is refused; check the address, and the access keys or token for this store"
    if "nocredentials" in texts or "unable to locate credentials" in texts:
        return "no access keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if any(word in texts for word in _UNREACHABLE) and not statuses:
        return "the server cannot be reached; check the address and the network"
    if statuses - {404}:
        return f"the server answers {min(statuses - {404})}; try again later"
    if statuses or any(isinstance(one, FileNotFoundError) for one in chain):
        return "there is no such file or folder; check the address"
    return " ".join(str(error).split()) or type(error).__name__


def _web_options() -> dict[str, Any]:
    from aiohttp import ClientTimeout

    return {
        # aiohttp gives up after five minutes in all by default, however well it goes
        "client_kwargs": {
            "timeout": ClientTimeout(total=None, sock_connect=30, sock_read=120),
            "trust_env": True,
        },
        "headers": {"Accept-Encoding": "identity"},
    }


def _list(store: Any, path: str, url: str, readable: Callable[[str], bool]) -> list[Found]:
    store.invalidate_cache()
    web = url.startswith(("http://", "https://"))
    if "*" in path and not web:
        folder = path[: path.index("*")].rpartition("/")[0]
        entries = store.glob(path, detail=True)
    else:
        name = urlsplit(path).path.rpartition("/")[2] if web else path.rstrip("/").rpartition("/")[2]
        if readable(name):
            info = store.info(path)
            if info["type"] == "file":
                return [(name, url, info.get("size") or 0)]
        folder = path.rstrip("/")
        entries = _web_folder(store, folder) if web else store.find(path, detail=True)
    found = []
    for place, info in entries.items():
        name = place.removeprefix(folder).lstrip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        card = url.startswith("hf://") and name == "README.md"
        if info["type"] == "file" and readable(name) and not hidden and not card:
            found.append((name, store.unstrip_protocol(place), info.get("size") or 0))
    return sorted(found)


def _web_folder(store: Any, folder: str) -> dict[str, Any]:
    """The files that the index pages of a web server name, at or below the folder."""
    entries: dict[str, Any] = {}
    waiting, seen = [folder + "/"], {folder + "/"}
    while waiting:
        if len(seen) > MAX_INDEX_PAGES:
            raise ValueError(f"more than {MAX_INDEX_PAGES:,} folders; name a smaller one")
        for info in store.ls(waiting.pop(), detail=True):
            place = info["name"]
            if not place.startswith(folder + "/") or re.search(r"[?#]|/\.\.?/|//", place.partition("://")[2]):
                continue
            if info["type"] == "file":
                entries[place] = info
            elif place not in seen:
                seen.add(place)
                waiting.append(place)
    return entries


def _fetch(store: Any, path: str, file: Any, ranges: bool) -> None:
    """Adds to the file what it lacks."""
    if not ranges:
        file.seek(0)
        file.truncate()
    at = file.tell()
    with store.open(path, "rb", block_size=CHUNK_BYTES if ranges else 0, cache_type="none") as source:
        if at:
            source.seek(at)
        while chunk := source.read(CHUNK_BYTES):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                folder = tempfile.gettempdir()
                raise UserError(
                    f"the disk is full: no room in {folder} to fetch {path}; free some, or set TMPDIR to a "
                    "folder on a larger disk"
                ) from error
        size = getattr(source, "size", None)
    if size is not None and file.tell() < size:
        raise ConnectionError(f"cut after {file.tell():,} of {size:,} bytes")


def _is_final(error: BaseException) -> bool:
    """Trying again is of no use."""
    statuses = {status for one in _chain(error) if (status := _status(one))}
    if statuses:
        return all(400 <= status < 500 and status not in (408, 425, 429) for status in statuses)
    missing = isinstance(error, FileNotFoundError) and error.__cause__ is None
    return missing or isinstance(error, PermissionError | TypeError) or "credentials" in str(error).lower()


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(10):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _status(error: BaseException) -> int:
    """The HTTP status in an error of aiohttp, requests or httpx; 0 for none."""
    status = getattr(error, "status", None)
    response = getattr(error, "response", None)
    if not isinstance(status, int):
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else 0
