"""What computes: devices by name, and this machine measured."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sishu.batches.batch import Batch
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.nn.device import Precision, autocast, best_device, has_fast_bf16
from sishu.objectives.language import next_token
from sishu.stages.cost import Memory, forward
from sishu.stages.forecast import StagePlan


@dataclass(frozen=True)
class Device:
    """Peak dense FLOP/s without sparsity, bytes, bytes per second, seconds to start a kernel, list price."""

    name: str
    bf16: float
    """0 where the hardware has no bfloat16 products."""
    fp32: float
    memory: float
    bandwidth: float
    utilisation: float
    """Share of the peak reached; assumed except where measured."""
    price: float | None
    overhead: float = 8e-6
    cpu: bool = False

    def in_bf16(self, precision: Precision) -> bool:
        """Whether matrix products run in bfloat16."""
        return self.bf16 > 0 and precision != "fp32"

    def fits(self, stage: StagePlan) -> bool:
        """Whether the stage's peak leaves a tenth of the memory to the system and to fragments."""
        return self.memory_of(stage).total < 0.9 * self.memory

    def memory_of(self, stage: StagePlan) -> Memory:
        """What the stage takes in this device's precision and by the functions it has."""
        return stage.memories[self.in_bf16(stage.precision), self.cpu]

    def seconds(self, stage: StagePlan) -> float:
        """Time for the arithmetic at the utilisation, and for starting kernels."""
        rate = self.utilisation * (self.bf16 if self.in_bf16(stage.precision) else self.fp32)
        dense = (stage.flops.total - stage.flops.generation) / rate
        drawing = max(
            stage.flops.generation / (self.utilisation * self.fp32),
            stage.decode_steps * stage.decode_bytes / self.bandwidth,
        )
        return dense + drawing + stage.kernels * self.overhead


PRICES_OF = "May 2026"
DEVICES = (
    Device("2-core CPU", 0, 150e9, 8e9, 20e9, 0.5, 0.10, cpu=True),
    Device("RTX 4090", 165.2e12, 82.6e12, 24e9, 1008e9, 0.35, 0.69),
    Device("A100 80GB", 312e12, 19.5e12, 80e9, 2039e9, 0.35, 1.49),
    Device("H100 SXM", 989.4e12, 66.9e12, 80e9, 3350e9, 0.35, 2.99),
    Device("H200", 989.4e12, 66.9e12, 141e9, 4800e9, 0.35, 3.79),
)
"""Peaks, memory and bandwidth from the makers' data sheets; prices are typical single-device list prices."""


def measure(c: DecoderConfig, precision: Precision, price: float | None) -> Device:
    """This machine, in about two seconds: matrix products, copying, and training a slice of the model."""
    device = best_device()
    cpu = device.type == "cpu"
    size = 768 if cpu else 4096
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device).to(dtype)
        rates[dtype] = 2 * size**3 * _per_second(lambda a=a: a @ a, 0.2)  # type: ignore[misc]
    read, written = torch.ones(1 << 24, device=device), torch.ones(1 << 24, device=device)
    bandwidth = 2 * 4 * read.numel() * _per_second(lambda: written.copy_(read), 0.1)
    bf16 = rates[torch.bfloat16] if has_fast_bf16(device) else 0.0
    peak = bf16 if bf16 and precision != "fp32" else rates[torch.float32]
    return Device(
        "this machine",
        bf16,
        rates[torch.float32],
        _memory_here(),
        bandwidth,
        _decoder_rate(c, device, precision) / peak,
        price,
        cpu=cpu,
    )


def _per_second(work: Callable[[], object], seconds: float) -> float:
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


def _decoder_rate(c: DecoderConfig, device: torch.device, precision: Precision) -> float:
    """FLOP/s of forward and backward passes of at most two blocks and the head on a few rows."""
    c = replace(c, layers=min(2, c.layers))
    budget = 1e10 if device.type == "cpu" else 1e13
    length = int(max(16, min(c.context_length, budget / (6 * c.parameters()))))
    rows = int(max(1, min(32, budget / (6 * c.parameters() * length))))
    model = Decoder(c).to(device)
    ids = torch.zeros(rows, length, dtype=torch.long, device=device)

    def work() -> None:
        model.zero_grad()
        with autocast(device, precision):
            loss = next_token(model, Batch({"ids": ids, "targets": ids}, share=1.0))
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch gives it no types

    work_flops = forward(c, rows * length, length, rows * length) * 3
    return work_flops.total * _per_second(work, 0.8)


def _memory_here() -> float:
    """Bytes of the best device of this machine; infinite when the system does not say."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
