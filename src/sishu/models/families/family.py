"""What is said of a family of models: its name, how its published configuration reads as a shape, and what
its weights are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Fields = dict[str, Any]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Rule:
    """One line of the dictionary between our weights and published ones.

    One name on each side: the same tensor. Several of ours: they lie one after another in the published
    tensor, by first dimension. Several published: they are the slices of ours. `transposed`: matrices are
    published as (inputs, outputs), as GPT-2's are.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transposed: bool = False

    def to_ours(self, theirs: Mapping[str, Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """Our tensors from published ones; `sizes` are the first dimensions of ours."""
        tensors = [theirs[name].T if self.transposed else theirs[name] for name in self.theirs]
        if len(tensors) > 1:
            return {self.ours[0]: torch.stack(tensors)}
        return dict(zip(self.ours, torch.split(tensors[0], sizes), strict=True))

    def to_theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors from ours."""
        tensors = [ours[name] for name in self.ours]
        if len(self.theirs) > 1:
            return dict(zip(self.theirs, tensors[0].unbind(), strict=True))
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return {self.theirs[0]: joined.T if self.transposed else joined}

    def shapes(self, ours: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The published shapes, from the shapes of our weights."""
        shape = ours[self.ours[0]]
        if len(self.theirs) > 1:
            return dict.fromkeys(self.theirs, shape[1:])
        shape = (sum(ours[name][0] for name in self.ours), *shape[1:])
        return {self.theirs[0]: shape[::-1] if self.transposed else shape}


def same(pairs: Mapping[str, str], ours: str = "", theirs: str = "") -> list[Rule]:
    """Rules for tensors that differ by name alone, with what stands before both names."""
    return [Rule((ours + a,), (theirs + b,)) for a, b in pairs.items()]


def with_biases(pairs: Mapping[str, str], biased: Iterable[str]) -> dict[str, str]:
    """Names of modules as names of their weights, and of the biases of those that have one."""
    named = {f"{a}.weight": f"{b}.weight" for a, b in pairs.items()}
    return named | {f"{a}.bias": f"{pairs[a]}.bias" for a in biased}


@dataclass(frozen=True)
class Family(Generic[Config]):
    """A family: everything that files of its models differ in from those of another."""

    name: str
    """`model_type` in a published configuration."""
    causal: str
    """The architecture that a language model's configuration names (an encoder's: the bare model)."""
    sequence: str
    """The architecture of a model with one number per text."""
    rules: Callable[[Config], list[Rule]]
    from_published: Callable[[Fields], Config]
    """A published configuration as a shape; raises KeyError naming a field that is missing and ValueError
    for what is not supported."""
    to_published: Callable[[Config], Fields]
    ignored: tuple[str, ...] = ()
    """Ends of the names of tensors that old files hold and nobody needs (masks, frequencies)."""
