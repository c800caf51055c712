"""What a foreign chat template may use up: time, steps, and characters, all counted while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jinja2

from sishu.console import UserError

MOST_SECONDS = 5.0
MOST_STEPS = 1_000_000
MOST_WORK = 32_000_000
"""Characters and items a rendering may handle in all, beside 32 times what it is given."""
LARGEST_VALUE = 2_000_000
"""Characters and items of one value, beside 4 times what the template is given."""
NODE = 8
"""What an item weighs in characters."""
LARGEST_NUMBER = 1 << 64


@dataclass
class Budget:
    """What is left to a rendering."""

    work: int
    largest: int
    steps: int = MOST_STEPS
    until: float = field(default_factory=lambda: time.monotonic() + MOST_SECONDS)

    def spend(self, work: int = 1) -> None:
        """Take a step that handles so many characters; raises TemplateError when nothing is left."""
        self.work -= work
        self.steps -= 1
        if self.work < 0 or self.steps < 0:
            raise jinja2.TemplateError("it does more work than a chat template may")
        if self.steps % 64 == 0:
            self.check_time()

    def check_time(self) -> None:
        """Raises TemplateError when the time is up."""
        if time.monotonic() > self.until:
            raise jinja2.TemplateError("it takes longer than a chat template may")

    def weigh(self, value: Any) -> Any:
        """Let a value through if it is small; its parts are counted as often as they occur."""
        weight, todo = 0, [value]
        count = 0
        while todo:
            item = todo.pop()
            weight += NODE
            count += 1
            if count % 4096 == 0:
                self.check_time()
            if isinstance(item, str):
                weight += len(item)
            elif isinstance(item, Mapping):
                todo += item.keys()
                todo += item.values()
            elif isinstance(item, (list, tuple)):
                todo += item
            elif isinstance(item, (int, float)) and abs(item) > LARGEST_NUMBER and item == item:
                raise jinja2.TemplateError("it makes a number too large")
            if weight + len(todo) > self.largest:
                raise jinja2.TemplateError("it makes a value too large")
        self.spend(weight)
        return value


current: ContextVar[Budget] = ContextVar("budget")
"""The budget of the rendering that runs."""


def weight(value: Any) -> int:
    """Characters and items of plain data."""
    if isinstance(value, str):
        return NODE + len(value)
    if isinstance(value, Mapping):
        return NODE + sum(weight(k) + weight(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return NODE + sum(map(weight, value))
    return NODE


def plain(value: Any) -> Any:
    """A copy of nothing but JSON's types: what a template gets to see has no methods of its own.

    Raises UserError for anything else.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise UserError(f"A conversation holds texts, numbers, lists and objects, not a {type(value).__name__}.")
