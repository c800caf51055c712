"""How fast a training stage is: tokens a second, the share of what the device can do, the time left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import nn

from sishu.batches.batch import IGNORED, Batch
from sishu.models.decoder import Decoder, Scorer
from sishu.models.flops import forward
from sishu.nn.device import Precision, products_in

PEAKS = {
    "RTX 4090": (165.2e12, 82.6e12),
    "A100": (312e12, 19.5e12),
    "H100 80GB HBM3": (989.4e12, 66.9e12),
    "H200": (989.4e12, 66.9e12),
}
"""Operations a second of dense matrix products in 16 bits and in float32, by the makers' data sheets; the
names are parts of what the driver says."""
BY_THE_CLOCK = (
    *("seconds", "step_seconds", "eta_seconds", "compile_seconds"),
    *("tokens_per_second", "model_flops_utilisation"),
)
"""Figures of a stage's metrics that the clock decides: all others are those of any run of the same work."""
PACE = 100
"""Steps that the remaining time is reckoned from."""


class Throughput:
    """What a stage's metrics say of its speed.

    - `tokens_per_second`: tokens of a step's batches, padding not counted, by the step's seconds.
    - `model_flops_utilisation`: operations that learning from them takes (`sishu.models.flops`), of all
      passes over them, by the step's seconds, as a share of the peak: the data sheet's where the GPU is
      known, else the rate of a large matrix product, measured when training begins. Rollouts and passes of
      models that do not learn take time and add no operations; nor does what is worked out twice to save
      memory.
    - `eta_seconds`: working time until the last step at the pace of the last steps, evaluations and
      checkpoints among them.
    """

    def __init__(self, model: nn.Module, precision: Precision, devices: int = 1) -> None:
        """`devices` like this one work on every step."""
        device = next(model.parameters()).device
        self.peak = devices * peak(device, products_in(device, precision))
        scorers = [m for m in model.modules() if isinstance(m, Scorer)]
        without_head = {id(s.trunk) for s in scorers}
        decoders = [m for m in model.modules() if isinstance(m, Decoder)]
        self.trunks = [(d.config, id(d) not in without_head) for d in decoders]
        self._times: deque[tuple[int, float]] = deque(maxlen=PACE + 1)
        self._tokens, self._flops = 0, 0.0

    def begin(self, step: int, seconds: float) -> None:
        """`step` steps are done, after `seconds` of working time."""
        self._times.clear()
        self._times.append((step, seconds))

    def count(self, batches: Sequence[Batch], passes: int) -> None:
        """These are the batches of the step that begins."""
        self._tokens, self._flops = 0, 0.0
        for batch in batches:
            ids = batch.tensors.get("ids")
            if ids is None:
                continue
            tokens = ids.numel() if batch.tokens is None else batch.tokens
            self._tokens += tokens
            for config, has_head in self.trunks:
                learnt = _learnt(batch, tokens) if has_head else 0
                self._flops += 3 * passes * forward(config, tokens, tokens / len(ids), learnt).total

    def figures(self, step_seconds: float, step: int, steps: int, seconds: float) -> dict[str, float]:
        """Of the step that is done, the `step`-th of `steps`, after `seconds` of working time."""
        self._times.append((step, seconds))
        (first, began), (last, now) = self._times[0], self._times[-1]
        found = {"eta_seconds": (now - began) / max(1, last - first) * (steps - step)}
        if self._tokens:
            found["tokens_per_second"] = self._tokens / step_seconds
        if self._flops:
            found["model_flops_utilisation"] = self._flops / (step_seconds * self.peak)
        return found


def _learnt(batch: Batch, tokens: int) -> int:
    """Tokens of a batch whose logits are formed."""
    if "targets" in batch.tensors:
        return int((batch["targets"] != IGNORED).sum())
    return int(batch["mask"].sum()) if "mask" in batch.tensors else tokens


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of matrix products: by the data sheet where the GPU is known, else measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = next((rates for part, rates in PEAKS.items() if part in name), None)
    if known is not None:
        return known[dtype == torch.float32]
    return products_per_second(device, dtype, torch.get_num_threads())


@lru_cache
def products_per_second(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Operations a second of large matrix products, measured in about a quarter of a second, once for each
    device, type and number of `threads`, which are those that torch has."""
    size = 768 if device.type == "cpu" else 4096
    generator = torch.Generator(device).manual_seed(0)  # not the one that training draws from
    a = torch.randn(size, size, device=device, generator=generator).to(dtype)
    return 2 * size**3 * per_second(lambda: a @ a, 0.2)


def per_second(work: Callable[[], object], seconds: float) -> float:
    """How often `work` is done in a second, tried for about `seconds` after a warm-up."""
    began, done = 0.0, -1
    while done < 1 or time.perf_counter() - began < seconds:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        done += 1
        if done == 0:
            began = time.perf_counter()
    return done / (time.perf_counter() - began)
