"""Metadata as the bytes of a GGUF file."""

from __future__ import annotations

import struct
from typing import Any

from sishu.models.gguf.header import ARRAY, STRING

UINT8, UINT32, INT32, FLOAT32, BOOL, UINT64, INT64 = 0, 4, 5, 6, 7, 10, 11


def pack_text(text: str) -> bytes:
    """A length and UTF-8."""
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def pack_field(key: str, value: Any) -> bytes:
    """A field with its key. Whole numbers become uint32 where they fit, as llama.cpp asks for sizes and ids;
    those of a list int32, as it asks for the types of tokens; fractions float32; bytes an array of them.

    Raises TypeError for what has no form in such files.
    """
    return pack_text(key) + _pack_value(value)


def _pack_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        form, kind = ("I", UINT32) if 0 <= value < 2**32 else ("q", INT64)
        return struct.pack(f"<I{form}", kind, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + pack_text(value)
    if isinstance(value, bytes):
        return struct.pack("<IIQ", ARRAY, UINT8, len(value)) + value
    if isinstance(value, (list, tuple)):
        return struct.pack("<I", ARRAY) + _pack_items(value)
    raise TypeError(f"{type(value).__name__} has no form in GGUF metadata")


def _pack_items(items: list[Any] | tuple[Any, ...]) -> bytes:
    if all(isinstance(item, str) for item in items):
        return struct.pack("<IQ", STRING, len(items)) + b"".join(map(pack_text, items))
    if all(isinstance(item, bool) for item in items):
        return struct.pack(f"<IQ{len(items)}?", BOOL, len(items), *items)
    if all(isinstance(item, int) for item in items):
        return struct.pack(f"<IQ{len(items)}i", INT32, len(items), *items)
    if all(isinstance(item, (int, float)) for item in items):
        return struct.pack(f"<IQ{len(items)}f", FLOAT32, len(items), *items)
    raise TypeError("a list in GGUF metadata holds things of one kind")
