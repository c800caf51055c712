"""How large activations and gradients are, layer by layer: where training that goes wrong goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS, GRADIENTS = "layer_activation_rms", "layer_gradient_norm"


class LayerNorms:
    """Figures of the layers of a model: of each block, of its embedding, and of what else has weights.

    - `layer_activation_rms/NAME`: root mean square of what the layer gives, over the step's micro-batches.
    - `layer_gradient_norm/NAME`: norm of the gradient of its weights before clipping; the squares sum to that
      of `gradient_norm`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(_layers(model))
        self._squares: dict[str, tuple[Tensor, int]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """What the layers give meanwhile counts."""
        handles = [layer.register_forward_hook(self._hear(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def figures(self) -> dict[str, float]:
        """Of what was heard since the last call, and of the gradients there are."""
        found = {f"{ACTIVATIONS}/{n}": (s / count).sqrt() for n, (s, count) in self._squares.items()}
        self._squares = {}
        seen: set[int] = set()
        for name, layer in self.layers.items():
            own = [w.grad for w in layer.parameters() if w.grad is not None and id(w) not in seen]
            seen |= {id(w) for w in layer.parameters()}
            if own:
                found[f"{GRADIENTS}/{name}"] = torch.stack([g.norm() for g in own]).norm()
        return {name: float(value) for name, value in found.items()}

    def _hear(self, name: str) -> Any:
        @torch.no_grad()
        def hook(layer: nn.Module, given: object, gives: Tensor) -> None:
            squares, count = self._squares.get(name, (0, 0))
            self._squares[name] = (squares + gives.detach().float().square().sum(), count + gives.numel())

        return hook


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules that have weights, each weight in one: the blocks, and down to the leaves what is none."""
    for name, child in module.named_children():
        if isinstance(module, nn.ModuleList) or not any(True for _ in child.children()):
            if any(True for _ in child.parameters()):
                yield prefix + name, child
        else:
            yield from _layers(child, f"{prefix}{name}.")
