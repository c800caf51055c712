"""What computes: devices by name, and this machine measured."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch

from sishu.batches.batch import Batch
from sishu.console import UserError
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.flops import forward
from sishu.nn.device import Precision, autocast, best_device, has_fast_bf16
from sishu.objectives.language import next_token
from sishu.stages.cost import Memory
from sishu.stages.forecast import StagePlan
from sishu.train.throughput import PEAKS, per_second, products_per_second


@dataclass(frozen=True)
class Device:
    """Peak dense FLOP/s without sparsity, bytes, bytes per second, seconds to start a kernel, list price an
    hour, and bytes per second each way to the other devices of a node and, a device, to other nodes."""

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
    link: float = 32e9
    network: float = 1.25e9

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
    Device("RTX 4090", *PEAKS["RTX 4090"], 24e9, 1008e9, 0.35, 0.69),
    Device("A100 80GB", *PEAKS["A100"], 80e9, 2039e9, 0.35, 1.49, link=300e9, network=25e9),
    Device("H100 SXM", *PEAKS["H100 80GB HBM3"], 80e9, 3350e9, 0.35, 2.99, link=450e9, network=50e9),
    Device("H200", *PEAKS["H200"], 141e9, 4800e9, 0.35, 3.79, link=450e9, network=50e9),
)
"""Peaks, memory and bandwidths from the makers' data sheets: PCIe 4.0 and 10 Gb/s, NVLink 3 and 200 Gb/s a
GPU (DGX A100), NVLink 4 and 400 Gb/s (DGX H100); prices are typical single-device list prices."""


def device_named(name: str) -> Device:
    """The device whose name begins so, such as h100; raises UserError for a name of none or of several."""
    found = [d for d in DEVICES if d.name.lower().startswith(name.lower())] if name else []
    if len(found) != 1:
        raise UserError(f"There is no device {name!r}: those known are {', '.join(d.name for d in DEVICES)}.")
    return found[0]


def measure(c: DecoderConfig, precision: Precision, price: float | None) -> Device:
    """This machine, in about two seconds: matrix products, copying, and training a slice of the model."""
    device = best_device()
    cpu = device.type == "cpu"
    threads = torch.get_num_threads()
    rates = {d: products_per_second(device, d, threads) for d in (torch.float32, torch.bfloat16)}
    read, written = torch.ones(1 << 24, device=device), torch.ones(1 << 24, device=device)
    bandwidth = 2 * 4 * read.numel() * per_second(lambda: written.copy_(read), 0.1)
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
    return work_flops.total * per_second(work, 0.8)


def _memory_here() -> float:
    """Bytes of the best device of this machine; infinite when the system does not say."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
