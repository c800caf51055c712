"""Content encodings (RFC 9110, section 8.4.1) undone in bounded memory: one in another, cut, merely claimed.

A body may be said to be packed that is not, for many archives keep the header over what they have unpacked;
it may be packed twice and said to be so once; and a kilobyte may hold a gigabyte.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import cast

import brotli
from zlib_ng import zlib_ng

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DEEPEST = 4
"""Encodings in one another that are undone; servers use one, now and then two."""

_GZIP = b"\x1f\x8b\x08"
_MAGIC = (_GZIP, b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_NO_ENCODINGS = ("", "identity", "none")

_Damage = cast(type[Exception], zlib_ng.error)  # which is typed as if it were an instance

Unpacked = tuple[bytes, bool]
"""At most so many bytes as were asked for and one more, and whether that is all there was to be read."""


class BadEncoding(ValueError):
    """A body that is neither in the encoding it is said to be in nor text."""


class TooLarge(ValueError):
    """A body that unpacks to more than is wanted."""


def undo(body: bytes, encodings: str, most: int) -> Unpacked:
    """The content of a body, and whether it is whole; of a damaged one what comes before the damage.

    Args:
        body: as it came.
        encodings: the `Content-Encoding` header, in the order in which they were applied.
        most: bytes of content, and of every step on the way to it.

    Raises:
        BadEncoding: it cannot be undone, and the body is no text either.
        TooLarge: it unpacks to more than `most` bytes.
    """
    names = [name.strip().lower().removeprefix("x-") for name in encodings[:1000].split(",")]
    names = [name for name in reversed(names) if name not in _NO_ENCODINGS]
    if len(names) > DEEPEST:
        raise BadEncoding("too many encodings")
    whole = True
    for name in names:
        content, complete = _UNPACK.get(name, _nothing)(body, most)
        if len(content) > most:
            raise TooLarge
        if not complete and _is_text(body):
            break
        if not complete and not content:
            raise BadEncoding(name)
        body, whole = content, whole and complete
    for _ in range(DEEPEST if names else 0):
        if not body.startswith(_GZIP):
            break
        body, complete = _gzip(body, most)
        if len(body) > most:
            raise TooLarge
        whole = whole and complete
    return body, whole


def _is_text(body: bytes) -> bool:
    return not body.startswith(_MAGIC) and not _CONTROL.search(body, 0, 1024)


def _nothing(body: bytes, most: int) -> Unpacked:
    return b"", False


def _inflate(body: bytes, bits: int, most: int) -> tuple[bytes, bytes, bool]:
    """What comes out, what is left over, and whether the end was reached."""
    inflater = zlib_ng.decompressobj(bits)
    parts = []
    size = 0
    try:
        # in pieces, because nothing at all comes out of the one in which the damage is
        for start in range(0, len(body), 4096):
            piece = inflater.decompress(body[start : start + 4096], most + 1 - size)
            parts.append(piece)
            size += len(piece)
            if inflater.eof:
                return b"".join(parts), inflater.unused_data + body[start + 4096 :], True
            if size > most:
                break
    except _Damage:
        pass
    return b"".join(parts), b"", False


def _gzip(body: bytes, most: int) -> Unpacked:
    parts: list[bytes] = []
    size = 0
    while True:
        content, body, complete = _inflate(body, 31, most - size)
        parts.append(content)
        size += len(content)
        # what follows a member and is none is dropped, as browsers do
        if not complete or size > most or not body.startswith(_GZIP):
            return b"".join(parts), complete


def _deflate(body: bytes, most: int) -> Unpacked:
    content, _, complete = _inflate(body, 15, most)
    if not complete and not content:  # some servers leave out the wrapper of zlib
        raw, rest, ended = _inflate(body, -15, most)
        if len(raw) > most or (ended and not rest):
            return raw, True
    return content, complete


def _brotli(body: bytes, most: int) -> Unpacked:
    inflater = brotli.Decompressor()
    parts: list[bytes] = []
    size = 0
    try:
        for start in range(0, len(body), 4096):
            piece = body[start : start + 4096]
            while piece or not inflater.can_accept_more_data():
                parts.append(inflater.process(piece, output_buffer_limit=1 << 20))
                size += len(parts[-1])
                piece = b""
                if size > most:
                    return b"".join(parts), False
    except brotli.error:
        return b"".join(parts), False
    return b"".join(parts), inflater.is_finished()


def _zstandard(body: bytes, most: int) -> Unpacked:
    inflater = zstd.ZstdDecompressor()
    parts: list[bytes] = []
    size = 0
    try:
        for start in range(0, len(body), 4096):
            parts.append(inflater.decompress(body[start : start + 4096], most + 1 - size))
            size += len(parts[-1])
            if inflater.eof or size > most:
                break
    except zstd.ZstdError:
        pass
    return b"".join(parts), inflater.eof


_UNPACK: dict[str, Callable[[bytes, int], Unpacked]] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstandard,
}
