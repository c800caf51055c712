"""Muon for the matrices of the blocks, AdamW for everything else; every weight in exactly one group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sishu.nn.device import has_fast_bf16

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


class Muon:
    """Momentum whose update is orthogonalised, so that every direction of a matrix learns as fast.

    Matrices of one shape are worked on together. `learning_rate` is the step's spectral size for a wide
    matrix and grows by √(rows / columns) for a tall one.
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
        self.buffers = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.by_shape: dict[torch.Size, list[str]] = {}
        for name, weight in weights.items():
            self.by_shape.setdefault(weight.shape, []).append(name)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at `factor` times the learning rate."""
        rate = self.learning_rate * factor
        for shape, names in self.by_shape.items():
            gradients = torch.stack([_gradient(self.weights[n]) for n in names])
            buffers = torch.stack([self.buffers[n] for n in names])
            buffers.lerp_(gradients, 1 - self.momentum)
            updates = orthogonalise(gradients.lerp(buffers, self.momentum))  # Nesterov
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for name, buffer, update in zip(names, buffers, updates, strict=True):
                self.buffers[name].copy_(buffer)
                own = rate * self.factors[name]
                self.weights[name].mul_(1 - own * self.decay).add_(update, alpha=-own * scale)


def _gradient(weight: Tensor) -> Tensor:
    return weight.grad if weight.grad is not None else torch.zeros_like(weight)


def _factor(name: str, factors: Mapping[str, float]) -> float:
    return next((factor for prefix, factor in factors.items() if name.startswith(prefix)), 1.0)


class Optimizer:
    """The two together behind one face: `step`, `zero_grad`, and tensors to save and restore."""

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
        self.learning_rate = learning_rate
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": [rest[name] for name in group],
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
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(factor)

    def zero_grad(self) -> None:
        self.adamw.zero_grad()
        if self.muon is not None:
            for weight in self.muon.weights.values():
                weight.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors."""
        found = {}
        weights = [w for group in self.adamw.param_groups for w in group["params"]]
        for name, weight in zip(self.names, weights, strict=True):
            for key, value in self.adamw.state[weight].items():
                found[f"adamw.{key}.{name}"] = value
        if self.muon is not None:
            found |= {f"muon.momentum.{n}": b for n, b in self.muon.buffers.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave; a weight that had no state then has none."""
        weights = [w for group in self.adamw.param_groups for w in group["params"]]
        for name, weight in zip(self.names, weights, strict=True):
            self.adamw.state.pop(weight, None)
            keys = ("step", "exp_avg", "exp_avg_sq")
            if any(f"adamw.{k}.{name}" in tensors for k in keys):
                state = {k: tensors[f"adamw.{k}.{name}"].clone() for k in keys}
                self.adamw.state[weight] = {
                    k: v if k == "step" and weight.device.type == "cpu" else v.to(weight.device)
                    for k, v in state.items()
                }
        if self.muon is not None:
            for name, buffer in self.muon.buffers.items():
                buffer.copy_(tensors[f"muon.momentum.{name}"])
