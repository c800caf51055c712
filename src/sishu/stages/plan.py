"""plan: what walking a recipe will take, worked out without training: operations, memory, hours, money.

Here it is printed; how it is worked out is in `facts`, `cost`, `forecast`, `devices` and `advice`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from sishu.console import counted, say, show_table
from sishu.models.cache_size import cache_bytes
from sishu.models.decoder_config import DecoderConfig
from sishu.run import Run
from sishu.stages.advice import advice
from sishu.stages.cost import Memory
from sishu.stages.devices import DEVICES, PRICES_OF, Device, measure
from sishu.stages.facts import Facts, Road, gather_facts
from sishu.stages.forecast import StagePlan, plan_stages
from sishu.stages.units import duration, si


def show_plan(name: str, road: Road, run: Run | None, *, quick: bool = False) -> None:
    """Print the plan of a recipe; `quick` leaves out measuring this machine."""
    f = gather_facts(road, run)
    c, stages = plan_stages(road, f)
    for assumed in f.assumed:
        say(f"Assumed: {assumed}.")
    say(
        f"{name}: {c.parameters():,} parameters, {c.parameters(embedding=False):,} without the embedding "
        f"({counted(c.layers, 'block')} of width {c.width}, vocabulary {c.vocabulary:,}, "
        f"context {c.context_length})"
    )
    if not stages:
        say("It trains nothing.")
        return
    show_table(
        "Work in FLOPs: 6·N·tokens in matrix products, 12·L·H·K·T·tokens in attention (PaLM, app. B)",
        ["stage", "N", "steps", "tokens", "products", "attn", "Muon", "drawn", "total"],
        [_work_row(s) for s in stages],
    )
    here = None if quick else measure(c, stages[0].precision, road.price_per_hour)
    devices = [*([here] if here else []), *DEVICES]
    ours = devices[0]
    kind = "bfloat16" if ours.in_bf16(stages[0].precision) else "float32"
    show_table(
        f"Memory for training on {ours.name} with {kind} products, in bytes; peak: not all at once",
        ["stage", "weights", "grads", "optim", "activ", "(logits)", "update", "peak"],
        [_memory_row(s.name, ours.memory_of(s)) for s in stages],
    )
    say(serving(c, ours))
    show_table(
        f"Time and cost: list prices of {PRICES_OF}, check yours; share used is assumed"
        f"{', measured on this machine' if here else ''}",
        ["", *(d.name for d in devices)],
        _device_rows(devices, stages),
    )
    if f.seconds:
        show_table(
            f"Measured in the run beside the estimate for {ours.name} (seconds)",
            ["stage", "estimate", "measured", "measured / estimate"],
            _measured_rows(f, road, {s.name: ours.seconds(s) for s in stages}),
        )
    if stages[0].name == "pretrain":
        for sentence in advice(road, f, c, stages[0]):
            say(f"- {sentence}")


def serving(c: DecoderConfig, device: Device) -> str:
    """What a text takes in the cache when the model is served, and how many fit beside float32 weights."""
    whole, half = (cache_bytes(c, c.context_length, kind) for kind in (torch.float32, torch.bfloat16))
    room = int(max(0.0, 0.9 * device.memory - 4 * c.parameters()) // whole) if device.memory < math.inf else 0
    told = f"; {device.name} has room for {counted(room, 'such text')} beside the weights" if room else ""
    return (
        f"Serving: the keys and values of a text of {c.context_length:,} tokens take {si(whole)} bytes in "
        f"float32, {si(half)} in bfloat16{told}."
    )


def _work_row(s: StagePlan) -> list[str]:
    f = s.flops
    parts = [f.products, f.attention, f.optimizer, f.generation, f.total]
    return [s.name, si(s.parameters), f"{s.steps:,}", si(s.tokens), *map(si, parts)]


def _memory_row(name: str, m: Memory) -> list[str]:
    parts = [m.weights, m.gradients, m.optimizer, m.activations, m.logits, m.update, m.total]
    return [name, *map(si, parts)]


def _device_rows(devices: Sequence[Device], stages: Sequence[StagePlan]) -> list[list[str]]:
    """One column a device; a stage without a time does not fit into its memory."""
    times = [[d.seconds(s) if d.fits(s) else None for s in stages] for d in devices]
    whole = [None if None in column else sum(filter(None, column)) for column in times]
    half = [d.in_bf16(stages[0].precision) for d in devices]
    return [
        ["products", *("bf16" if h else "fp32" for h in half)],
        ["peak FLOP/s", *(si(d.bf16 if h else d.fp32) for d, h in zip(devices, half, strict=True))],
        ["used", *(f"{d.utilisation:.0%}" for d in devices)],
        ["memory", *(si(d.memory) for d in devices)],
        *([s.name, *(_time(column[i]) for column in times)] for i, s in enumerate(stages)),
        ["total", *map(_time, whole)],
        ["$ an hour", *("" if d.price is None else f"{d.price:.2f}" for d in devices)],
        [
            "cost in $",
            *(
                "" if t is None or d.price is None else f"{t / 3600 * d.price:.2g}"
                for d, t in zip(devices, whole, strict=True)
            ),
        ],
    ]


def _time(seconds: float | None) -> str:
    return "too small" if seconds is None else duration(seconds)


def _measured_rows(f: Facts, road: Road, estimates: Mapping[str, float]) -> list[list[str]]:
    """One row a finished stage; those that do not train have no estimate."""
    measured = {name: f.seconds[name] for name in road.stages if f.seconds and name in f.seconds}
    return [_measured_row(name, seconds, estimates.get(name)) for name, seconds in measured.items()]


def _measured_row(name: str, seconds: float, estimate: float | None) -> list[str]:
    if estimate is None:
        return [name, "", f"{seconds:,.1f}", ""]
    return [name, f"{estimate:,.1f}", f"{seconds:,.1f}", f"{seconds / estimate:.2f}"]
