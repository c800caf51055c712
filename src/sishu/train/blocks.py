"""How the blocks of decoders are worked through in training: kept for the way back or worked out again, by
torch as it is or by its compiler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sishu.models.decoder import Block, Decoder, Through, plainly
from sishu.nn.layout import Layout


class Blocks:
    """The blocks of all decoders of a model.

    With `checkpointing` a block keeps what it reads and works the rest out again on the way back (Chen et al.
    2016, arXiv:1604.06174): the same gradients for a third more work and a fraction of the memory. With
    `compiled` torch's compiler makes the blocks, one by one, so that one that is compiled serves all of its
    shape.
    """

    def __init__(self, model: nn.Module, *, checkpointing: bool, compiled: bool) -> None:
        self.decoders = [m for m in model.modules() if isinstance(m, Decoder)]
        self.compiled = compiled
        through: Through = torch.compile(plainly) if compiled else plainly
        self.through = _again(through) if checkpointing else through
        self.compile_seconds = 0.0
        """What the compiler took since this was last set to 0."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The blocks are worked through so meanwhile. What is only read, then or later, is not compiled."""
        for decoder in self.decoders:
            decoder.through = self.through
        try:
            yield
        finally:
            for decoder in self.decoders:
                decoder.through = plainly

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time the compiler meanwhile, the way back included."""
        if not self.compiled:
            yield
            return
        # nothing public tells when the compiler is at work; imported here, for that takes seconds
        from torch._dynamo.callback import callback_handler

        began = [0.0]

        def start(_: object) -> None:
            began[0] = time.monotonic()

        def end(_: object) -> None:
            self.compile_seconds += time.monotonic() - began[0]

        callback_handler.register_start_callback(start)
        callback_handler.register_end_callback(end)
        try:
            yield
        finally:
            callback_handler.remove_start_callback(start)
            callback_handler.remove_end_callback(end)


def _again(through: Through) -> Through:
    def run(block: Block, x_BTD: Tensor, layout: Layout, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        if not torch.is_grad_enabled():
            return through(block, x_BTD, layout, rotary)
        # no state to preserve: a block draws no random numbers
        kept = checkpoint(
            through, block, x_BTD, layout, rotary, use_reentrant=False, preserve_rng_state=False
        )
        return cast(Tensor, kept)

    return run
