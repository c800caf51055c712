"""Signs that a policy is collapsing: repeating itself, giving everyone one answer, running long or short,
losing its entropy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


def repeats(ids: Sequence[int], size: int = 4, times: int = 3) -> bool:
    """Whether some run of `size` tokens occurs `times` times or more."""
    runs = Counter(tuple(ids[i : i + size]) for i in range(len(ids) - size + 1))
    return bool(runs) and max(runs.values()) >= times


def distinct(answers: Sequence[Sequence[int]], size: int = 4) -> float:
    """Share of different ones among the runs of `size` tokens of answers to different prompts
    (distinct-n, Li et al. 2016, arXiv:1510.03055); near 0 where all get the same answer."""
    runs = [tuple(ids[i : i + size]) for ids in answers for i in range(len(ids) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def sameness(answers: Sequence[Sequence[int]], groups: Sequence[int], size: int = 4) -> list[float]:
    """For each answer, how much of it is said to everyone: the mean, over its runs of `size` tokens, of the
    share of the other groups (prompts) to which some answer holds that run; 0 for an answer too short to
    hold one, and where there is one group only."""
    runs = [{tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)} for ids in answers]
    said_to: dict[tuple[int, ...], set[int]] = {}
    for some, group in zip(runs, groups, strict=True):
        for run in some:
            said_to.setdefault(run, set()).add(group)
    others = len(set(groups)) - 1
    return [
        sum(len(said_to[run]) - 1 for run in some) / (len(some) * others) if some and others else 0.0
        for some in runs
    ]


@dataclass
class CollapseAlarms:
    """Compares a policy with what it was at the first step; an alarm rings once it has been wrong for
    `patience` steps in a row."""

    kl_limit: float
    patience: int = 3
    first: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    rung: list[str] = field(default_factory=list)

    def watch(self, step: int, figures: dict[str, float]) -> list[str]:
        """Alarms that ring at this step, each a sentence; needs repetition, distinct, length,
        entropy and kl."""
        self.first = self.first or {
            name: figures[name] for name in ("repetition", "distinct", "length", "entropy")
        }
        first = self.first
        signs = {
            "repetition": figures["repetition"] > first["repetition"] + 0.1,
            "distinct": figures["distinct"] < 0.75 * first["distinct"],
            "length": not 0.5 <= figures["length"] / max(first["length"], 1.0) <= 2.0,
            "entropy": figures["entropy"] < 0.1 * first["entropy"],
            "kl": figures["kl"] > self.kl_limit,
        }
        new = []
        for name, bad in signs.items():
            self.wrong[name] = self.wrong.get(name, 0) + 1 if bad else 0
            if self.wrong[name] == self.patience:
                since = f"{first[name]:.3g} at the start" if name in first else f"limit {self.kl_limit:g}"
                new.append(f"step {step}: {name} is {figures[name]:.3g} ({since})")
        self.rung += new
        return new
