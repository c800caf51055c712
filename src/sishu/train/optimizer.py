"""Muon for the matrices of the blocks, AdamW for everything else; every weight in exactly one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sishu.nn.device import has_fast_bf16
from sishu.train.shards import local, part_of, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of (…, rows, columns) matrices towards 1 by a Newton-Schulz iteration
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")."""
    a, b, c = COEFFICIENTS
    x = update.bfloat16() if has_fast_bf16(update.device) else update
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(update.dtype)
    return result


def orthogonalise_parts(parts: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The same for updates (N, rows, columns) of N weights of which each process holds a part: the matrices
    are shared out, each is put together on all processes, worked on by one, and given back in parts. What is
    not spread is worked on here."""
    if not isinstance(weights[0], DTensor):
        return orthogonalise(parts)
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = []
    for place, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        matrix = whole(part, weight)
        if place % size == rank:
            mine.append(matrix)
    done = orthogonalise(torch.stack(mine)) if mine else parts
    result = torch.empty_like(parts)
    for place, weight in enumerate(weights):
        mine_now = place % size == rank
        matrix = done[place // size].contiguous() if mine_now else parts.new_empty(weight.shape)
        dist.broadcast(matrix, place % size)
        result[place] = part_of(matrix, weight)
    return result


class Muon:
    """Momentum whose update is orthogonalised, so that every direction of a matrix learns as fast.

    Matrices of one shape are worked on together. `learning_rate` is the step's spectral size for a wide
    matrix and grows by √(rows / columns) for a tall one. Of weights that are spread over processes each has
    its part of the momentum.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        learning_rate: float,
        decay: float,
        momentum: float,
        factors: Mapping[str, float] | None = None,
    ):
        """`factors` multiply the rate of the weights whose names begin with their keys."""
        self.weights, self.learning_rate, self.decay, self.momentum = (
            weights,
            learning_rate,
            decay,
            momentum,
        )
        self.factors = {name: _factor(name, factors or {}) for name in weights}
        self.buffers = {name: torch.zeros_like(local(w)) for name, w in weights.items()}
        self.by_shape: dict[tuple[torch.Size, torch.Size], list[str]] = {}
        for name, weight in weights.items():
            self.by_shape.setdefault((weight.shape, local(weight).shape), []).append(name)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at `factor` times the learning rate."""
        for names in self.by_shape.values():
            self._update(names, self.learning_rate * factor)

    def _update(self, names: list[str], rate: float) -> None:
        """The update of weights of one shape; nothing of it is kept while the next one is made."""
        weights = [self.weights[n] for n in names]
        gradients = torch.stack([_gradient(weight) for weight in weights])
        buffers = torch.stack([self.buffers[n] for n in names])
        buffers.lerp_(gradients, 1 - self.momentum)
        updates = orthogonalise_parts(gradients.lerp(buffers, self.momentum), weights)  # Nesterov
        rows, columns = weights[0].shape
        scale = max(1.0, rows / columns) ** 0.5
        for name, weight, buffer, update in zip(names, weights, buffers, updates, strict=True):
            self.buffers[name].copy_(buffer)
            own = rate * self.factors[name]
            local(weight).mul_(1 - own * self.decay).add_(update, alpha=-own * scale)


def _gradient(weight: Tensor) -> Tensor:
    return local(weight.grad) if weight.grad is not None else torch.zeros_like(local(weight))


def _part(weight: Tensor) -> Tensor:
    """What AdamW is given of a weight: itself, or the part that is here, in the same memory."""
    return nn.Parameter(local(weight.detach())) if isinstance(weight, DTensor) else weight


def _factor(name: str, factors: Mapping[str, float]) -> float:
    return next((factor for prefix, factor in factors.items() if name.startswith(prefix)), 1.0)


class Optimizer:
    """The two together behind one face: `step`, `zero_grad`, and tensors to save and restore. What AdamW does
    it does number by number: where weights are spread over processes, to the part that is here."""

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        matrix_learning_rate: float | None,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        """`learning_rate` is AdamW's; with a `matrix_learning_rate` the blocks' matrices are Muon's.
        `factors` multiply both for the weights whose names begin with their keys ("value.")."""
        named = dict(model.named_parameters())
        matrices = {n: w for n, w in named.items() if w.ndim == 2 and "blocks." in n}
        self.muon: Muon | None = None
        if matrix_learning_rate is not None:
            self.muon = Muon(matrices, matrix_learning_rate, weight_decay, 0.95, factors)
        rest = {n: w for n, w in named.items() if self.muon is None or n not in matrices}
        covered = [*(matrices if self.muon else ()), *rest]
        assert sorted(covered) == sorted(named), "every weight belongs to exactly one group"
        groups: dict[tuple[bool, float], list[str]] = {}  # by whether it decays, and its factor
        for name, weight in rest.items():
            groups.setdefault((weight.ndim == 2, _factor(name, factors or {})), []).append(name)
        self.names = [name for group in groups.values() for name in group]
        self.weights = named
        self.parts = {n: _part(w) for n, w in rest.items()}
        self.learning_rate = learning_rate
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": [self.parts[name] for name in group],
                    "weight_decay": weight_decay if decays else 0.0,
                    "factor": factor,
                }
                for (decays, factor), group in groups.items()
            ],
            lr=learning_rate,
            betas=betas,
            eps=eps,
            fused=True,
        )

    def step(self, factor: float) -> None:
        """One update at `factor` times the learning rates."""
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate * factor * group["factor"]
        for name, part in self.parts.items():
            gradient = self.weights[name].grad
            part.grad = None if gradient is None else local(gradient)
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(factor)

    def zero_grad(self) -> None:
        self.adamw.zero_grad()
        for weight in self.weights.values():
            weight.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors, of which `weight_of` says how they are spread."""
        found = {}
        for name in self.names:
            for key, value in self.adamw.state[self.parts[name]].items():
                found[f"adamw.{key}.{name}"] = value
        if self.muon is not None:
            found |= {f"muon.momentum.{n}": b for n, b in self.muon.buffers.items()}
        return found

    def weight_of(self, tensor: str) -> Tensor | None:
        """The weight that a tensor of this name has a number for each number of, if there is one."""
        _, kind, name = tensor.split(".", 2)
        return None if kind == "step" else self.weights[name]

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave, or their parts of it; a weight that had no state then has none."""
        for name in self.names:
            weight, part = self.weights[name], self.parts[name]
            self.adamw.state.pop(part, None)
            keys = ("step", "exp_avg", "exp_avg_sq")
            if any(f"adamw.{k}.{name}" in tensors for k in keys):
                state = {k: tensors[f"adamw.{k}.{name}"] for k in keys}
                self.adamw.state[part] = {
                    k: (v if k == "step" else part_of(v, weight)).clone().to(part.device)
                    for k, v in state.items()
                }
        if self.muon is not None:
            for name, buffer in self.muon.buffers.items():
                buffer.copy_(part_of(tensors[f"muon.momentum.{name}"], self.weights[name]))
