"""What form an answer must have: the order alone, which `sishu.generate.structured` carries out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["json_schema", "json_object", "regex", "lark", "choice"]
LONGEST = 1 << 18
"""Characters that the text of a guide may have."""


@dataclass(frozen=True)
class Guide:
    """A kind of form and the text that describes it; `of_…` make one from what a user gives.

    - `json_schema`: the text is a JSON schema (Draft 2020-12, as far as llguidance reads it).
    - `json_object`: any JSON object; no text.
    - `regex`: the whole answer matches this regular expression (Rust's syntax, no look-around).
    - `lark`: a grammar in llguidance's variant of Lark, which begins at `start`.
    - `choice`: the text is a JSON list of strings, of which the answer is one.
    """

    kind: Kind
    text: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError where the text is too long."""
        if len(self.text) > LONGEST:
            raise ValueError(f"a guide of {len(self.text):,} characters is longer than {LONGEST:,}")

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> Guide:
        """A guide to JSON that a schema describes; the order of its properties is kept."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False))

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> Guide:
        """A guide to one of these strings; raises ValueError where there is none."""
        if (
            isinstance(choices, str)
            or not choices
            or not all(isinstance(choice, str) and choice for choice in choices)
        ):
            raise ValueError("a choice needs one string or more, none of them empty")
        return cls("choice", json.dumps(list(choices), ensure_ascii=False))

    @property
    def choices(self) -> list[str]:
        """The strings of a `choice`."""
        found: list[str] = json.loads(self.text)
        return found
