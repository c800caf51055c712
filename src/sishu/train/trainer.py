"""The loop: batches from a source, a loss from an objective, an update; evaluated, logged, never lost."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field
from torch import nn

from sishu.batches.batch import Batch, Source
from sishu.config import Section
from sishu.console import UserError, progress
from sishu.nn.device import Precision, autocast
from sishu.objectives.loss import Loss
from sishu.run import StageContext
from sishu.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from sishu.train.optimizer import Optimizer
from sishu.train.schedule import trapezoid


class TrainSettings(Section):
    """How a training stage learns."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps; derived from the amount of data when not given."""
    batch: int = Field(32, ge=1)
    """Sequences (for ranked answers: prompts) per step."""
    micro_batch: int = Field(32, ge=1)
    """Sequences worked on at once; fewer need less memory and give the same gradient."""
    learning_rate: float | None = Field(None, gt=0)
    """AdamW's rate; derived from the width when not given."""
    matrix_learning_rate: float | None = Field(None, gt=0)
    """Muon's rate for the matrices of the blocks; without it AdamW trains them too."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay of matrices and embeddings, per unit of learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's floor under the root of the squared gradient."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the steps over which the rate rises."""
    cooldown: float = Field(1.0, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls to zero."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    precision: Precision = "auto"
    """bfloat16 matrix products where the hardware is fast at them, or as told."""
    evaluate_every: int = Field(50, ge=1)
    """Steps between evaluations on held-out data."""
    checkpoint_seconds: float = Field(20.0, ge=0)
    """Seconds between checkpoints: at most this much work is lost in a kill."""


Objective = Callable[[Any, Batch], Loss]
"""(model, micro-batch) -> Loss."""


class Trainer:
    """Trains `model` for `steps` steps, going on from the stage's checkpoint when there is one.

    Every step is a function of the weights, the optimizer's state and the source's batches for that step, so
    a run that was killed and resumed ends with the bytes of one that was not.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: Source,
        settings: TrainSettings,
        context: StageContext,
        *,
        steps: int,
        learning_rate: float,
        rate_factors: Mapping[str, float] | None = None,
        evaluate: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """`rate_factors` multiply the rates of the weights whose names begin with their keys."""
        self.model, self.objective, self.source = model, objective, source
        self.settings, self.context, self.steps = settings, context, steps
        self.evaluate = evaluate
        self.device = next(model.parameters()).device
        self.optimizer = Optimizer(
            model,
            learning_rate=learning_rate,
            matrix_learning_rate=settings.matrix_learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            factors=rate_factors,
        )

    def fit(self) -> None:
        """Train to the end, or until the source is done; raises UserError when the loss is not a number."""
        folder = self.context.folder / "checkpoint"
        found = load_checkpoint(folder, self.model, self.optimizer) if self.context.resumed else None
        start = 0 if found is None else found.step
        metrics = self.context.metrics(None if found is None else found.metrics_offset)
        if found is not None:
            self.source.restore(found.source)
        saved = time.monotonic()
        with progress(self.context.name, self.steps, "steps", start) as bar:
            for step in range(start, self.steps):
                if self.source.done():
                    break
                began = time.monotonic()
                figures = self._step(step)
                self.source.after(step, figures)
                line: dict[str, Any] = {
                    "step": step,
                    "seconds": round(self.context.seconds(), 3),
                }
                line |= {name: _round(value) for name, value in figures.items()}
                line["step_seconds"] = round(time.monotonic() - began, 4)
                last = step + 1 == self.steps or self.source.done()
                if self.evaluate and ((step + 1) % self.settings.evaluate_every == 0 or last):
                    self.model.eval()
                    line |= {name: _round(value) for name, value in self.evaluate().items()}
                    self.model.train()
                metrics.write(line)
                if time.monotonic() - saved >= self.settings.checkpoint_seconds or last:
                    done = Progress(step + 1, metrics.offset(), self.source.state())
                    save_checkpoint(folder, self.model, self.optimizer, done)
                    self.context.note_time()
                    saved = time.monotonic()
                main = next(iter(figures.items()))
                bar.advance(1, f"{main[0]} {main[1]:.3f}")

    def finish(self) -> None:
        """Drop the checkpoints: call it when the stage's artifact is written."""
        folder = self.context.folder / "checkpoint"
        if folder.exists():  # out of sight in one step: half of it, after a kill, would be a damaged one
            hidden = folder.with_name(".checkpoint")
            shutil.rmtree(hidden, ignore_errors=True)
            folder.replace(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _step(self, step: int) -> dict[str, float]:
        s = self.settings
        factor = trapezoid(step, self.steps, s.warmup, s.cooldown)
        batches = [batch.to(self.device) for batch in self.source.batches(step)]
        whole: dict[str, float] = {}  # the summed share of each kind, so that figures are means
        for batch in batches:
            whole[batch.kind] = whole.get(batch.kind, 0.0) + batch.share
        first: dict[str, float] = {}
        for update in range(self.source.passes):
            sums: dict[str, float] = {}
            for batch in batches:
                with autocast(self.device, s.precision):
                    loss = self.objective(self.model, batch)
                (loss.total * batch.share).backward()  # type: ignore[no-untyped-call]
                for name, value in loss.figures.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * batch.share / whole[batch.kind]
            norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), s.clip))
            if not math.isfinite(norm):
                raise UserError(
                    f"The {self.context.name} stage diverged: the gradient at step {step} is not a number; "
                    "lower the learning rate or set train.precision=fp32."
                )
            self.optimizer.step(factor)
            self.optimizer.zero_grad()
            if update == 0:
                first = sums | {"gradient_norm": norm}
        last = {f"last_{k}": v for k, v in sums.items()} if self.source.passes > 1 else {}
        return first | last | {"learning_rate": self.optimizer.learning_rate * factor}


def _round(value: float) -> float:
    return float(f"{value:.7g}") if math.isfinite(value) else value
