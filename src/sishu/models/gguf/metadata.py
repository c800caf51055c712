"""The metadata of one model in a GGUF file, asked for by what follows the architecture's name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sishu.console import UserError

LARGEST = 2**31
"""Sizes above this are taken for damage, before memory is asked for."""


class Metadata:
    """Typed access to the fields of a file; raises UserError for what is missing or makes no sense."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        architecture = fields.get("general.architecture")
        if not isinstance(architecture, str):
            raise UserError(f"{path} does not tell its general.architecture: it holds no model.")
        self.path, self.fields, self.architecture = path, fields, architecture

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return f"{self.architecture}.{name}" in self.fields

    def is_set(self, name: str) -> bool:
        """Whether there is such a field that is not 0, which some files write for what they have none of."""
        return self.has(name) and self.fields[f"{self.architecture}.{name}"] != 0

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            raise self.wrong(name, value, "a positive whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.wrong(name, value, "a positive number")
        return float(value)

    def word(self, name: str, default: str) -> str:
        """A text."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, value, "a text")
        return value

    def wrong(self, name: str, value: Any, wanted: str) -> UserError:
        """The error for a field that is not what it must be."""
        return UserError(
            f"{self.path}: {self.architecture}.{name} must be {wanted}, not {str(value)[:80]!r}."
        )

    def _get(self, name: str, default: Any) -> Any:
        value = self.fields.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise UserError(f"{self.path} lacks {self.architecture}.{name}, which its model needs.")
        return value
