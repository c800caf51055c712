"""Take a packed archive apart into its gzip members or zstandard frames, which may be cut or damaged.

A crawl archive is a row of members, one per record, so nothing more than the damaged record need be lost:
members are inflated one by one, and after a damaged one the next that inflates to the beginning of a record
is looked for. Archives of zstandard may open with a dictionary in a skippable frame, without which none of
their frames can be read (https://iipc.github.io/warc-specifications/specifications/warc-zstd/).

Reasons reported: "cut", "damaged gzip member", "damaged zstd frame", "damaged zstd dictionary".
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

from zlib_ng import zlib_ng

from sishu.corpus.read.records import Record, Report, Splitter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_DICTIONARY_BYTES = 32 << 20
"""A larger dictionary, packed or unpacked, is reported as damaged; real ones have a megabyte or less."""

_INFLATE_STEP = 16_384
"""Bytes fed to the inflater at a time: what is left over after a member is copied, so not many records."""
_PIECE = 1 << 20
_HEAD_STEP = 512
_MOST_FOR_A_HEAD = 1 << 17
"""Bytes of a member read until something comes out: a block of zstandard has 128 kB at most."""
_EFFORT = 1 << 28
"""Bytes of a file read in vain in search of a member, after which less is read of each place that looks like
one, and not all are tried."""
_STRIDE = 4096
_SKIPPABLE = tuple(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16))
_DICTIONARY = b"\x5d\x2a\x4d\x18"
_ZSTD = b"\x28\xb5\x2f\xfd"


class Member(Protocol):
    """A member or frame that is being inflated."""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What comes out, piece by piece; raises `Damage`."""

    def head(self, data: bytes) -> bytes:
        """At most 16 bytes of what comes out; raises `Damage`."""

    def behind(self) -> int | None:
        """How many of the bytes given so far are behind the end; None before it is reached."""


class _GzipMember:
    def __init__(self) -> None:
        self._inflater = zlib_ng.decompressobj(31)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._inflater.decompress(data)

    def head(self, data: bytes) -> bytes:
        return self._inflater.decompress(data, 16)

    def behind(self) -> int | None:
        return len(self._inflater.unused_data) if self._inflater.eof else None


class _ZstdFrame:
    """A frame of zstandard may pack a gigabyte into the bytes of a step."""

    def __init__(self, dictionary: zstd.ZstdDict | None = None) -> None:
        self._inflater = zstd.ZstdDecompressor(zstd_dict=dictionary)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._inflater.decompress(data, _PIECE)
        while not (self._inflater.eof or self._inflater.needs_input):
            yield self._inflater.decompress(b"", _PIECE)

    def head(self, data: bytes) -> bytes:
        return self._inflater.decompress(data, 16)

    def behind(self) -> int | None:
        return len(self._inflater.unused_data) if self._inflater.eof else None


Damage = (cast(type[Exception], zlib_ng.error), zstd.ZstdError)  # which is typed as if it were an instance


@dataclass(frozen=True, slots=True)
class Packing:
    """How an archive is packed: the first bytes of every member, what to call a damaged one, how to read."""

    magic: bytes
    damaged: str
    member: Callable[[], Member]


GZIP = Packing(b"\x1f\x8b\x08", "damaged gzip member", _GzipMember)
_PLAIN_ZSTD = Packing(_ZSTD, "damaged zstd frame", _ZstdFrame)


def records_of(data: mmap.mmap, splitter: Splitter, report: Report) -> Iterator[Record]:
    """The records of an archive, packed with gzip, zstandard or not at all, as cut apart by `splitter`."""
    packing, start = _packing_of(data, report)
    if packing:
        yield from _packed_records(data, packing, start, splitter, report)
        return
    for at in range(0, len(data), _PIECE):
        yield from splitter.feed(data[at : at + _PIECE])
    yield from splitter.finish(cut=True)


def first_bytes(data: mmap.mmap, begins: tuple[bytes, ...]) -> bytes:
    """At most 16 bytes: those of `data` if it is not packed, else of the first member that inflates to one of
    `begins`; empty if none does."""
    packing, start = _packing_of(data, lambda reason: None)
    if packing is None:
        return data[:16]
    return _inflated_head(data, Search().next_member(data, start, packing, begins), packing)[0]


def _packing_of(data: mmap.mmap, report: Report) -> tuple[Packing | None, int]:
    """How `data` is packed, None if it is not at all, and where its first member begins."""
    if data[:4].startswith(GZIP.magic):
        return GZIP, 0
    at = 0
    packing = _PLAIN_ZSTD
    while data[at : at + 4] in _SKIPPABLE:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == _DICTIONARY:
            try:
                dictionary = _dictionary(data[at + 8 : at + 8 + min(size, MAX_DICTIONARY_BYTES + 1)])
                packing = Packing(_ZSTD, packing.damaged, partial(_ZstdFrame, dictionary))
            except (ValueError, zstd.ZstdError):
                report("damaged zstd dictionary")
        if at + 8 + size > len(data):
            break
        at += 8 + size
    return (packing, at) if at or data[:4] == _ZSTD else (None, 0)


def _dictionary(content: bytes) -> zstd.ZstdDict:
    """Raises ValueError or ZstdError for what is none."""
    if content.startswith(_ZSTD):
        content = zstd.ZstdDecompressor().decompress(content, MAX_DICTIONARY_BYTES + 1)
    if len(content) > MAX_DICTIONARY_BYTES:
        raise ValueError("too large")
    return zstd.ZstdDict(content)


def _packed_records(
    data: mmap.mmap, packing: Packing, start: int, splitter: Splitter, report: Report
) -> Iterator[Record]:
    position, search = start, Search()
    while position < len(data):
        member, at, behind, out = packing.member(), position, None, 0
        record = None
        try:
            while behind is None and at < len(data):
                for piece in member.pieces(data[at : at + _INFLATE_STEP]):
                    if not out and splitter.empty and member.behind() is not None:
                        record = splitter.whole(piece)
                    if record is None:
                        yield from splitter.feed(piece)
                    out += len(piece)
                at += _INFLATE_STEP
                behind = member.behind()
        except Damage:
            splitter.reset()
            report(packing.damaged)
            position = search.next_member(data, position + 1, packing, splitter.begins)
            continue
        if behind is not None:
            position = min(at, len(data)) - behind
            if record is not None:
                yield record
                continue
            head, _ = _inflated_head(data, position, packing)
            if not head or head.startswith(splitter.begins):  # else the record goes on in the next member
                yield from splitter.finish(cut=False)
        else:
            # Either the file ends here or damage swallowed what follows: look behind it.
            before = search.next_member(data, position + 1, packing, splitter.begins)
            if before == len(data):
                if not out:
                    report("cut")
                yield from splitter.finish(cut=True)
                return
            splitter.reset()
            report(packing.damaged)
            position = before


class Search:
    """Looks for the members of one file, in time linear in its length whatever is in it."""

    def __init__(self) -> None:
        self._left = _EFFORT

    def next_member(self, data: mmap.mmap, start: int, packing: Packing, begins: tuple[bytes, ...]) -> int:
        """The first place at or after `start` where a member inflates to the beginning of a record."""
        while (start := data.find(packing.magic, start)) >= 0:
            most = _MOST_FOR_A_HEAD if self._left > 0 else _HEAD_STEP
            head, read = _inflated_head(data, start, packing, most)
            if head.startswith(begins):
                return start
            self._left -= max(read, _STRIDE)
            start += 1 if self._left > 0 else _STRIDE
        return len(data)


def _inflated_head(
    data: mmap.mmap, start: int, packing: Packing, most: int = _MOST_FOR_A_HEAD
) -> tuple[bytes, int]:
    """The first bytes of the member at `start`, empty when there is none that inflates, and how many bytes
    were read for them.

    A frame of zstandard may have to be read to the end of its first block before it gives anything.
    """
    member, head, at = packing.member(), b"", start
    try:
        for at in range(start, min(start + most, len(data)), _HEAD_STEP):
            head = member.head(data[at : at + _HEAD_STEP])
            if head or member.behind() is not None:
                break
    except Damage:
        head = b""
    return head, at + _HEAD_STEP - start
