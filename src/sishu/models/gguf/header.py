"""The header of a GGUF file: its metadata, and where its tensors lie. Every length in the file is held
against the bytes that are there before anything is made of it, because files come from strangers."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sishu.console import UserError
from sishu.models.gguf.types import TYPES, StoredType, decode

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MOST_DIMENSIONS = 4

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of metadata by their number, as `struct` writes them."""
FLOAT32, STRING, ARRAY = 6, 8, 9
SMALLEST_FIELD = 8 + 4 + 1
"""Bytes of a field with an empty name and a number of one byte."""
SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file."""

    shape: tuple[int, ...]
    """Rows first, as in PyTorch; files tell it the other way round."""
    kind: StoredType
    offset: int
    size: int


class _Damaged(Exception):
    """What is wrong with a file, in the words after its name."""


class GGUF:
    """An open file: `fields` by key (numbers, truth values, text; arrays as lists of text or as numpy
    arrays) and `tensors` by name. Nothing of a tensor is read until asked for."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for a file that is no GGUF, damaged, or cut."""
        self.path = path
        try:
            with path.open("rb") as file:
                start = file.read(len(MAGIC))
                if start != MAGIC:
                    raise UserError(f"{path} is no GGUF file: it begins with {start!r} instead of {MAGIC!r}.")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error
        try:
            cursor = _Cursor(self._map, len(MAGIC))
            self.fields, count = _read_fields(cursor)
            self.tensors = _read_tensors(cursor, count, _alignment(self.fields))
        except _Damaged as error:
            raise UserError(f"{path} is damaged or cut: {error}; get the file again.") from error

    def read(self, name: str) -> Tensor:
        """A tensor: plain types as they are stored, blocks in float32."""
        stored = self.tensors[name]
        data = np.frombuffer(self._map, np.uint8, stored.size, stored.offset)
        return decode(data, stored.kind, stored.shape)


class _Cursor:
    """Reads numbers and text one after another, never beyond the end."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> int:
        """Where the next `size` bytes begin, which are then behind."""
        if size > self.left:
            raise _Damaged(f"{what} takes {size:,} bytes and {self.left:,} are left")
        self.at += size
        return self.at - size

    def number(self, form: str, what: str) -> Any:
        return struct.unpack_from(f"<{form}", self.data, self.take(struct.calcsize(form), what))[0]

    def text(self, what: str, errors: str = "strict") -> str:
        size = self.number("Q", what)
        at = self.take(size, what)
        try:
            return self.data[at : at + size].decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise _Damaged(f"{what} is no text ({error.reason})") from error

    def count(self, smallest: int, what: str) -> int:
        """How many things of at least `smallest` bytes follow."""
        count: int = self.number("Q", what)
        if count * smallest > self.left:
            raise _Damaged(f"{count:,} {what} do not fit in the {self.left:,} bytes left")
        return count


def _read_fields(cursor: _Cursor) -> tuple[dict[str, Any], int]:
    """The metadata, and how many tensors the file says it has."""
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        if version & 0xFFFF == 0:
            raise _Damaged("its numbers are big-endian, which is not read here")
        raise _Damaged(f"its version is {version}, and versions {VERSIONS} are read")
    tensors: int = cursor.number("Q", "the number of tensors")
    fields: dict[str, Any] = {}
    for _ in range(cursor.count(SMALLEST_FIELD, "fields of metadata")):
        key = cursor.text("the name of a field")
        if key in fields:
            raise _Damaged(f"the field {key!r} is there twice")
        fields[key] = _read_value(cursor, cursor.number("I", key), key)
    if tensors * SMALLEST_TENSOR > cursor.left:
        raise _Damaged(f"{tensors:,} tensors do not fit in the {cursor.left:,} bytes left")
    return fields, tensors


def _read_value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind == FLOAT32:
        # the shortest fraction that is stored as this: 1e-05 rather than 9.999999747378752e-06
        return float(str(np.float32(cursor.number("f", key))))
    if kind in SCALARS:
        return cursor.number(SCALARS[kind], key)
    if kind == STRING:
        return cursor.text(key, "replace")
    if kind != ARRAY:
        raise _Damaged(f"{key} is of an unknown type, {kind}")
    kind = cursor.number("I", key)
    if kind == STRING:
        return [cursor.text(key, "replace") for _ in range(cursor.count(8, f"texts of {key}"))]
    if kind not in SCALARS:
        raise _Damaged(f"{key} is an array of an unknown type, {kind}")
    form = np.dtype(SCALARS[kind]).newbyteorder("<")
    count = cursor.count(form.itemsize, f"numbers of {key}")
    # a copy, so that the file can be closed while the tokenizer lives on
    return np.frombuffer(cursor.data, form, count, cursor.take(count * form.itemsize, key)).copy()


def _alignment(fields: dict[str, Any]) -> int:
    alignment = fields.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1) or alignment > 2**31:
        raise _Damaged(f"general.alignment is {alignment!r}, which is no power of two from 8")
    return alignment


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, StoredTensor]:
    """Where the tensors lie; they neither overlap nor reach beyond the end."""
    told = [_read_tensor(cursor) for _ in range(count)]
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    end, before = start, "the header"
    for name, shape, kind, offset in sorted(told, key=lambda one: one[3]):
        if name in tensors:
            raise _Damaged(f"the tensor {name!r} is there twice")
        if offset % alignment:
            raise _Damaged(f"the tensor {name!r} begins at {offset:,}, no multiple of {alignment}")
        try:
            size = kind.bytes_of(shape)
        except ValueError as error:
            raise _Damaged(f"the tensor {name!r} of type {kind.name}: {error}") from error
        if start + offset < end:
            raise _Damaged(f"the tensor {name!r} begins within {before}")
        end, before = start + offset + size, repr(name)
        if end > len(cursor.data):
            raise _Damaged(f"the tensor {name!r} ends at {end:,} and the file at {len(cursor.data):,}")
        tensors[name] = StoredTensor(shape, kind, start + offset, size)
    return tensors


def _read_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], StoredType, int]:
    name = cursor.text("the name of a tensor")
    dimensions = cursor.number("I", name)
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise _Damaged(f"the tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q", name) for _ in range(dimensions))[::-1]
    if not all(shape):
        raise _Damaged(f"the tensor {name!r} has the shape {list(shape)}")
    kind = cursor.number("I", name)
    if kind not in TYPES:
        raise _Damaged(f"the tensor {name!r} is of type {kind}, which is unknown or not read here")
    return name, shape, TYPES[kind], cursor.number("Q", name)
