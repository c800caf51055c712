"""Strings that end an answer: where one is complete, and how much text might still become one."""

from __future__ import annotations


def stopped_at(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the stop string begins that is complete first, so that the answer does not depend on how its
    text was cut into pieces; the longer of two that end together."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def possible_start(text: str, stops: tuple[str, ...]) -> int:
    """How many of the last characters might be the beginning of a stop string."""
    best = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), best, -1):
            if text.endswith(stop[:size]):
                best = size
                break
    return best
