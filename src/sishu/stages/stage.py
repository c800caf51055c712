"""What a stage is: settings, what it needs, and the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sishu.config import Section
from sishu.run import StageContext


@dataclass(frozen=True)
class Need:
    """An artifact that a stage reads: of an earlier stage of the run, or, when the setting of the same
    name as `setting` is given, of a path outside it."""

    name: str
    stage: str
    path: str
    setting: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Stage:
    """A step of the road. `work(settings, context)` returns the figures for the manifest."""

    name: str
    purpose: str
    settings: type[Section]
    needs: tuple[Need, ...]
    work: Callable[[Any, StageContext], dict[str, Any]]
    files: tuple[str, ...] = ()
    """Settings, dotted, that name further files from outside the run, each one or a list of them."""
    together: bool = False
    """Whether all processes that a launcher started work on it; else the first one does, and they wait."""
