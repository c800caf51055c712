"""The tasks that a corpus is made of, by name, so that any process that sees the folder can do one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sishu.corpus.pipeline.buckets import gather, list_passages, settle
from sishu.corpus.pipeline.parts import Watch, clean_part
from sishu.corpus.pipeline.plan import Plan
from sishu.files import dump_json, write_atomic

PART = "part"
_OF_BUCKETS: dict[str, Callable[[Plan, int], dict[str, Any]]] = {
    "gather": gather,
    "passages": list_passages,
    "settle": settle,
}


def do_task(plan: Plan, task: str, number: int, watch: Watch) -> None:
    """Does a task and notes what it says; a task done again leaves the same.

    Args:
        plan: of the corpus.
        task: `part`, or one of a bucket: `gather`, `passages`, `settle`.
        number: of the part or bucket.
        watch: told what item of a part is worked on, and what is done.
    """
    result = clean_part(plan, number, watch) if task == PART else _OF_BUCKETS[task](plan, number)
    note_done(plan, task, number, result)


def note_done(plan: Plan, task: str, number: int, result: dict[str, Any]) -> None:
    """Writes down that a task is done and what it said."""
    write_atomic(plan.path(task, number, "json"), dump_json(result))


def undone(plan: Plan, task: str) -> list[int]:
    """The numbers of the tasks of a kind that are still to be done."""
    count = len(plan.parts) if task == PART else plan.buckets
    return [number for number in range(count) if not plan.path(task, number, "json").is_file()]
