"""Block lists on disk: read from a file, a folder or a tar, compiled to hashes that every process shares.

The UT1 lists hold 4.5 million domains. As a Python set they cost several hundred megabytes in each
process; as sorted 64-bit hashes, memory-mapped, 36 MB once for all of them.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, cast

import numpy
from numpy.typing import NDArray

from sishu.console import UserError

LONGEST = 4096
"""Bytes of a line, or characters of a URL, beyond which nothing is looked at."""

_GZIP = b"\x1f\x8b"
_VERSION = b"sishu url list 1"
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError)


def read_list(path: Path, kind: str = "domains") -> Iterator[str]:
    """The entries of a list, one per line, without comments and empty lines.

    A comment begins with `#` at the start of a line or after white space. Lines longer than `LONGEST`
    bytes are skipped; bytes that are not UTF-8 become U+FFFD.

    Args:
        path: a text file, gzipped or not; or a folder or tar (compressed or not) in the layout of UT1:
            files named `kind`, at any depth, of which a tar's are read in place, never unpacked.
        kind: "domains", "urls", or whatever such files are called; for a text file without meaning.

    Raises:
        UserError: the list is missing or damaged, or a folder or tar holds no such file.
    """
    found = False
    try:
        for _, file in _files(path, kind):
            found = True
            for line in _lines(file):
                text = line.decode("utf-8", "replace").lstrip("\ufeff").strip()
                entry = "" if text.startswith("#") else text.partition(" #")[0].partition("\t#")[0].strip()
                if entry:
                    yield entry
    except _DAMAGE as error:
        raise UserError(f"the list {path} cannot be read ({error}); give another file") from error
    if not found:
        raise UserError(f"{path} holds no file named {kind!r}; give the folder or tar of one list, or a file")


def _files(path: Path, kind: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and stream of each file that belongs to a list, in the order of names within a folder."""
    if path.is_dir():
        inside = (file for file in path.rglob(kind) if file.is_file() and not file.is_symlink())
        for file in sorted(inside, key=lambda file: file.relative_to(path).as_posix()):
            with _opened(file) as stream:
                yield file.relative_to(path).as_posix(), stream
    elif not path.is_file():
        raise UserError(f"the list {path} does not exist; give a file or folder that does")
    elif tarfile.is_tarfile(path):
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isreg() and member.name.rpartition("/")[2] == kind:
                    yield member.name, cast(IO[bytes], archive.extractfile(member))  # None but for links
    else:
        with _opened(path) as stream:
            yield "", stream


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as raw:
        is_gzip = raw.read(2) == _GZIP
        raw.seek(0)
        if is_gzip:
            with gzip.open(raw) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield raw


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    inside_long = False
    while line := file.readline(LONGEST):
        ended = line.endswith(b"\n")
        if not inside_long and (ended or len(line) < LONGEST):
            yield line
        inside_long = not ended


class HashList:
    """A set of byte strings of which only sorted 64-bit hashes are kept.

    A string that is not in the list is taken for one that is with probability `len(self)` / 2**64.
    When pickled it carries the path of its file only, so that each process maps the same pages.
    """

    def __init__(self, hashes: NDArray[numpy.uint64], file: Path | None = None) -> None:
        self.hashes, self.file = hashes, file

    def __len__(self) -> int:
        return len(self.hashes)

    def __reduce__(self) -> tuple[Any, ...]:
        return (HashList.open, (self.file,)) if self.file else (HashList, (self.hashes,))

    def holds_any(self, keys: list[bytes]) -> bool:
        """Whether one of the strings is in the list."""
        if not len(self.hashes):
            return False
        wanted = numpy.array([_hash(key) for key in keys], numpy.uint64)
        places = numpy.minimum(self.hashes.searchsorted(wanted), len(self.hashes) - 1)
        return bool((self.hashes[places] == wanted).any())

    @classmethod
    def open(cls, file: Path) -> HashList:
        """Maps a file that `compile_list` wrote, in about a millisecond.

        Raises:
            ValueError, OSError: the file is not one.
        """
        mapped = numpy.load(file, mmap_mode="r", allow_pickle=False)
        if mapped.dtype != numpy.uint64 or mapped.ndim != 1:
            raise ValueError(f"{file} does not hold hashes")
        return cls(numpy.asarray(mapped), file)


def compile_list(
    path: Path, kind: str, normal: Callable[[str], bytes], cache: Path | None = None
) -> HashList:
    """A list as hashes, taken from `cache` if it was compiled before.

    The file in `cache` is named by the digest of the list's bytes, and appears in one step when it is
    complete, so that several processes may compile at once. Memory: 8 bytes per entry, twice.

    Args:
        path, kind: as for `read_list`.
        normal: the normal form of an entry; b"" leaves it out.
        cache: a folder, made if need be; None compiles into memory.
    """
    if cache is None:
        return HashList(_compile(path, kind, normal))
    file = cache / f"{kind}-{_digest(path, kind)}.npy"
    try:
        return HashList.open(file)
    except (OSError, ValueError, EOFError):
        cache.mkdir(parents=True, exist_ok=True)
    part = cache / f".{file.name}.{os.getpid()}"
    try:
        with part.open("wb") as out:
            numpy.save(out, _compile(path, kind, normal), allow_pickle=False)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return HashList.open(file)


def _compile(path: Path, kind: str, normal: Callable[[str], bytes]) -> NDArray[numpy.uint64]:
    hashes = array("Q", (_hash(key) for entry in read_list(path, kind) if (key := normal(entry))))
    return numpy.unique(numpy.frombuffer(hashes, numpy.uint64)) if hashes else numpy.empty(0, numpy.uint64)


def _digest(path: Path, kind: str) -> str:
    """Over the bytes of a file as it is, or over the files of a folder that count, with their names."""
    digest = blake2b(_VERSION + kind.encode(), digest_size=16)
    try:
        if path.is_file():
            with path.open("rb") as stream:
                _feed(digest, stream)
        else:
            for name, file in _files(path, kind):
                digest.update(b"\0" + name.encode("utf-8", "surrogateescape") + b"\0")
                _feed(digest, file)
    except _DAMAGE as error:
        raise UserError(f"the list {path} cannot be read ({error}); give another file") from error
    return digest.hexdigest()


def _feed(digest: blake2b, stream: IO[bytes]) -> None:
    while block := stream.read(1 << 20):
        digest.update(block)


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
