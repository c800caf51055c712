"""The loop: batches from a source, a loss from an objective, an update; evaluated, logged, never lost."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sishu.batches.batch import Batch, Source
from sishu.config import Section
from sishu.console import Bar, Metrics, UserError, progress, say
from sishu.nn.device import Precision, autocast
from sishu.objectives.loss import Loss, Together
from sishu.run import StageContext
from sishu.train.blocks import Blocks
from sishu.train.checkpoint import Progress, checkpoint_name, load_checkpoint, save_checkpoint
from sishu.train.health import MOST_ROLLBACKS, Health, Spike
from sishu.train.layer_norms import LayerNorms
from sishu.train.loss_scale import LossScale
from sishu.train.optimizer import Optimizer
from sishu.train.parallel import parallel
from sishu.train.schedule import Schedule, rate_factor
from sishu.train.throughput import Throughput


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
    schedule: Schedule = "trapezoid"
    """The rate over time, after the warmup: flat and then down in a line, or all the way down by half a
    cosine or in a line."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the steps over which the rate rises."""
    cooldown: float = Field(1.0, ge=0, le=1)
    """Share of the steps, at the end, over which a trapezoid falls."""
    final: float = Field(0.0, ge=0, le=1)
    """Share of the rate that is left at the end."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    precision: Precision = "auto"
    """bfloat16 matrix products where the hardware is fast at them, or as told: fp32, bf16, or, for GPUs that
    have no bfloat16, fp16 with a loss that is scaled."""
    activation_checkpointing: bool = False
    """Whether the way back works out again what blocks made instead of keeping it: less memory, more time."""
    compile: bool = False
    """Whether torch's compiler makes the blocks. On a CPU it stands in for compiled functions that are there
    anyway."""
    patience_skips: int = Field(10, ge=1)
    """Updates in a row that may be left out, their loss or gradient not being a number, before it stops."""
    rollback: bool = False
    """Whether to go back to the last checkpoint, and on with other data, where the loss jumps. Checkpoints
    are then written every `evaluate_every` steps and not by the clock, so that every machine goes back
    equally far."""
    evaluate_every: int = Field(50, ge=1)
    """Steps between evaluations on held-out data."""
    layer_norms_every: int | None = Field(None, ge=1)
    """Steps between those whose metrics say how large each layer's activations and gradients are."""
    checkpoint_seconds: float = Field(20.0, ge=0)
    """Seconds between checkpoints: at most this much work is lost in a kill."""
    checkpoints: int = Field(2, ge=1)
    """How many of the last checkpoints are kept, in case the newest is damaged; the best one is kept too."""


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
        """`rate_factors` multiply the rates of the weights whose names begin with their keys. Of several
        processes each makes the whole model, which is then spread over them."""
        if settings.layer_norms_every is not None and context.processes.size > 1:
            raise UserError(
                "train.layer_norms_every looks at whole layers: leave it out with many processes."
            )
        self.model, self.objective, self.source = model, objective, source
        self.settings, self.context, self.steps = settings, context, steps
        self.evaluate = evaluate
        self.device = next(model.parameters()).device
        self.processes, self.parallel = context.processes, parallel(model, context, settings.precision)
        self.optimizer = Optimizer(
            model,
            learning_rate=learning_rate,
            matrix_learning_rate=settings.matrix_learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            factors=rate_factors,
        )
        self.folder = context.folder / "checkpoint"
        self.blocks = Blocks(
            model, checkpointing=settings.activation_checkpointing, compiled=settings.compile
        )
        self.layer_norms = LayerNorms(model)
        self.loss_scale = LossScale() if settings.precision == "fp16" else None
        self.throughput = Throughput(model, settings.precision, self.processes.size)
        self.metrics: Metrics
        self.step, self.data_step, self.rollbacks = 0, 0, 0
        self.health = Health()
        self.best: dict[str, Any] | None = None

    def fit(self) -> None:
        """Train to the end, or until the source is done. An update whose loss or gradient is not a number is
        left out; raises UserError when there are too many in a row, or too many jumps of the loss."""
        s = self.settings
        self.context.expect(self.steps)
        if not self.context.resumed or not self._restore():
            torch.manual_seed(self.context.seed)
            self.metrics = self.context.metrics()
            if s.rollback:
                self._save()  # to have somewhere to go back to
        saved = time.monotonic()
        self.throughput.begin(self.step, self.context.seconds())
        with progress(self.context.name, self.steps, "steps", self.step) as bar:
            while self.step < self.steps and not self.source.done():
                began = time.monotonic()
                try:
                    with self.blocks.timed():
                        figures = self._step(self.step)
                except Spike as spike:
                    self._roll_back(spike, bar)
                    continue
                self.source.after(self.data_step, figures)
                line: dict[str, Any] = {"step": self.step, "seconds": round(self.context.seconds(), 3)}
                line |= {name: _round(value) for name, value in figures.items()}
                took = time.monotonic() - began
                line["step_seconds"] = round(took, 4)
                speed = self.throughput.figures(took, self.step + 1, self.steps, self.context.seconds())
                line |= {name: float(f"{value:.4g}") for name, value in speed.items()}
                if self.blocks.compile_seconds:
                    line["compile_seconds"] = round(self.blocks.compile_seconds, 3)
                    self.blocks.compile_seconds = 0.0
                if self.rollbacks:
                    line |= {"rollbacks": self.rollbacks, "data_step": self.data_step}
                self.step, self.data_step = self.step + 1, self.data_step + 1
                last = self.step == self.steps or self.source.done()
                pause, better = self.step % s.evaluate_every == 0 or last, False
                if self.evaluate and pause:
                    self.model.eval()
                    found = self.processes.tell(dict(self.evaluate()))
                    self.model.train()
                    line |= {name: _round(value) for name, value in found.items()}
                    better = self._better(found)
                self.metrics.write(line)
                due = pause if s.rollback else time.monotonic() - saved >= s.checkpoint_seconds
                due = self.processes.tell(due)  # the first one's clock counts
                if due or better or last:
                    self._save()
                    self.context.note_time()
                    saved = time.monotonic()
                main = next(iter(figures.items()))
                bar.advance(1, f"{main[0]} {main[1]:.3f}")

    def finish(self, save: Callable[[Any], None] | None = None) -> None:
        """Have the trained model saved, whole, by the first process, and drop the checkpoints: call it when
        the stage's other artifacts are written."""
        model = self.parallel.whole()
        if save is not None and self.processes.first:
            save(model)
        if self.processes.first and self.folder.exists():
            # out of sight in one step: half of it, after a kill, would be a damaged one
            hidden = self.folder.with_name(".checkpoint")
            shutil.rmtree(hidden, ignore_errors=True)
            self.folder.replace(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _save(self) -> None:
        """Write a checkpoint."""
        if self.processes.first:
            with (self.context.folder / "metrics.jsonl").open("rb") as file:
                os.fsync(file.fileno())  # the checkpoint counts on these lines
        done = Progress(
            self.step,
            self.metrics.offset(),
            self.source.state(),
            self.data_step,
            self.rollbacks,
            asdict(self.health),
            self.best,
            asdict(self.loss_scale) if self.loss_scale else {},
        )
        keep, processes = self.settings.checkpoints, self.processes
        save_checkpoint(self.folder, self.model, self.optimizer, done, keep, processes)

    def _restore(self) -> bool:
        """Take everything back from the newest sound checkpoint, the metrics' length too; whether there is
        one."""
        found = load_checkpoint(self.folder, self.model, self.optimizer, self.processes)
        if found is None:
            return False
        self.step, self.data_step, self.rollbacks = found.step, found.data_step, found.rollbacks
        self.health, self.best = Health(**found.health), found.best
        if self.loss_scale is not None:
            self.loss_scale = LossScale(**found.loss_scale)
        self.source.restore(found.source)
        self.metrics = self.context.metrics(found.metrics_offset)
        return True

    def _roll_back(self, spike: Spike, bar: Bar) -> None:
        """Take back the last checkpoint and go on with the data after the jump; raises UserError when that
        was done too often."""
        step, data_step, rollbacks = self.step, self.data_step, self.rollbacks
        if rollbacks == MOST_ROLLBACKS:
            self.health.spiked(self.context.name, step, data_step, spike)
        self.optimizer.zero_grad()
        self._restore()
        self.data_step, self.rollbacks = data_step + 1, rollbacks + 1
        self.throughput.begin(self.step, self.context.seconds())
        say(f"  step {step}: {spike}; back to step {self.step}, on with the data of step {self.data_step}")
        bar.advance(self.step - step)

    def _better(self, found: Mapping[str, float]) -> bool:
        """Whether an evaluation is the best so far: the lowest of its first figure that is a loss or bits."""
        figure = next((name for name in found if "loss" in name or "bits" in name), None)
        if figure is None or not math.isfinite(found[figure]):
            return False
        if self.best is not None and found[figure] >= self.best["value"]:
            return False
        self.best = {"checkpoint": checkpoint_name(self.step), "figure": figure, "value": found[figure]}
        return True

    def _step(self, step: int) -> dict[str, float]:
        """The updates of a step; raises Spike, before any, where the loss has jumped."""
        s = self.settings
        factor = rate_factor(
            s.schedule, step, self.steps, warmup=s.warmup, cooldown=s.cooldown, final=s.final
        )
        given = self.source.batches(self.data_step)
        self.throughput.count(given, self.source.passes)
        batches = [batch.to(self.device) for batch in given]
        whole: dict[str, float] = {}  # the summed share of each kind, so that figures are means
        for batch in batches:
            whole[batch.kind] = whole.get(batch.kind, 0.0) + batch.share
        first: dict[str, float] = {}
        skipped = 0
        looks = s.layer_norms_every is not None and step % s.layer_norms_every == 0
        scale = {"loss_scale": self.loss_scale.scale} if self.loss_scale else {}
        for update in range(self.source.passes):
            sums, loss, norm = self._gradient(batches, whole, looks=looks and update == 0)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                skipped += 1
                if not (math.isfinite(loss) and self.loss_scale and self.loss_scale.overflowed()):
                    self._skip("the gradient" if math.isfinite(loss) else "the loss")
            else:
                if s.rollback and update == 0:
                    self.health.check(loss)
                self.optimizer.step(factor)
                self.health.good(loss, norm)
                if self.loss_scale:
                    self.loss_scale.updated()
            self.optimizer.zero_grad()
            if update == 0:
                first = sums | {"gradient_norm": norm}
        last = {f"last_{k}": v for k, v in sums.items()} if self.source.passes > 1 else {}
        rate = {"learning_rate": self.optimizer.learning_rate * factor}
        return first | last | rate | scale | ({"skipped": float(skipped)} if skipped else {})

    def _gradient(
        self, batches: list[Batch], whole: Mapping[str, float], *, looks: bool
    ) -> tuple[dict[str, float], float, float]:
        """The gradient of the micro-batches into the weights, clipped: the mean figures, the loss and the
        gradient's norm before; where it `looks`, also those of the layers. A micro-batch whose loss is not a
        number is not gone back through where looking at it costs nothing (on the processor)."""
        sums: dict[str, float] = {}
        total = torch.zeros((), device=self.device)
        together = self.processes.size > 1  # then all go back through equally many
        if isinstance(self.objective, Together):
            with autocast(self.device, self.settings.precision):
                batches = self.objective.together(self.model, batches)
        batches = self.parallel.mine(batches)
        for place, batch in enumerate(batches, 1):
            self.parallel.more_to_come(place < len(batches))
            with (
                autocast(self.device, self.settings.precision),
                self.blocks.at_work(),
                self.layer_norms.listening() if looks else nullcontext(),
            ):
                loss = self.objective(self.model, batch)
            share: Tensor = loss.total * batch.share
            total += share.detach()
            if together or self.device.type != "cpu" or math.isfinite(total):
                scaled = share if self.loss_scale is None else share * self.loss_scale.scale
                scaled.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            for name, value in loss.figures.items():
                sums[name] = sums.get(name, 0.0) + float(value) * batch.share / whole[batch.kind]
        if self.loss_scale is not None:
            self.loss_scale.undo(self.model.parameters())
        if looks:
            sums |= self.layer_norms.figures()
        norm = self.parallel.clip(self.settings.clip)
        found, size = torch.stack([total, norm.to(total)]).tolist()  # one wait for the device
        found, size, sums = self.parallel.added(found, size, sums)
        return sums, found, size if math.isfinite(found) else math.nan

    def _skip(self, what: str) -> None:
        """Leave an update out; raises UserError when it is one too many."""
        self.health.skipped += 1
        if self.health.skipped >= min(self.settings.patience_skips, self.steps):
            self.health.diverged(self.context.name, self.step, self.data_step, what)


def _round(value: float) -> float:
    return float(f"{value:.7g}") if math.isfinite(value) else value
