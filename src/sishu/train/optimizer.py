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
    ):
        self.weights, self.learning_rate, self.decay, self.momentum = (
            weights,
            learning_rate,
            decay,
            momentum,
        )
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
                self.weights[name].mul_(1 - rate * self.decay).add_(update, alpha=-rate * scale)


def _gradient(weight: Tensor) -> Tensor:
    return weight.grad if weight.grad is not None else torch.zeros_like(weight)


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
    ) -> None:
        """`learning_rate` is AdamW's; with a `matrix_learning_rate` the blocks' matrices are Muon's."""
        named = dict(model.named_parameters())
        matrices = {n: w for n, w in named.items() if w.ndim == 2 and "blocks." in n}
        self.muon: Muon | None = None
        if matrix_learning_rate is not None:
            self.muon = Muon(matrices, matrix_learning_rate, weight_decay, momentum=0.95)
        rest = {n: w for n, w in named.items() if self.muon is None or n not in matrices}
        decayed = {n: w for n, w in rest.items() if w.ndim == 2}
        plain = {n: w for n, w in rest.items() if w.ndim != 2}
        covered = [*(matrices if self.muon else ()), *decayed, *plain]
        assert sorted(covered) == sorted(named), "every weight belongs to exactly one group"
        self.names = [*decayed, *plain]
        self.learning_rate = learning_rate
        self.adamw = torch.optim.AdamW(
            [
                {"params": list(decayed.values()), "weight_decay": weight_decay},
                {"params": list(plain.values()), "weight_decay": 0.0},
            ],
            lr=learning_rate,
            betas=betas,
            eps=eps,
            fused=True,
        )

    def step(self, factor: float) -> None:
        """One update at `factor` times the learning rates."""
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate * factor
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
        """Take back what `tensors` gave."""
        weights = [w for group in self.adamw.param_groups for w in group["params"]]
        for name, weight in zip(self.names, weights, strict=True):
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
