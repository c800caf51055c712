"""The plan of pretraining on many GPUs as the command prints it (`sishu.stages.cluster`)."""

from __future__ import annotations

from sishu.console import UserError, counted, say, show_table
from sishu.models.decoder import DecoderConfig
from sishu.models.flops import forward
from sishu.run import Run
from sishu.stages.cluster import Cluster, Failures, Share, Step, failures_of, share_of, step_of
from sishu.stages.devices import PRICES_OF, device_named
from sishu.stages.facts import Road, gather_facts
from sishu.stages.forecast import plan_stages
from sishu.stages.units import duration, si

KEPT = {False: "kept", True: "worked out again"}


def show_cluster(name: str, road: Road, run: Run | None, *, gpus: int, device: str) -> None:
    """Print what pretraining takes on `gpus` of a device. Raises UserError for a recipe that does not
    pretrain, an unknown device, and numbers that do not go together."""
    if "pretrain" not in road.stages:
        raise UserError(f"{name} does not pretrain: --gpus plans pretraining alone.")
    f, t = gather_facts(road, run), road.pretrain.train
    c, stages = plan_stages(road, f)
    cluster = Cluster(device_named(device), gpus, road.tensor_parallel)
    bf16 = cluster.device.in_bf16(t.precision)
    chosen = t.activation_checkpointing
    ways = {
        again: (
            share_of(c, t, cluster, bf16=bf16, checkpointing=again),
            step_of(c, t, cluster, bf16=bf16, checkpointing=again),
        )
        for again in KEPT
    }
    step = ways[chosen][1]
    for assumed in f.assumed:
        say(f"Assumed: {assumed}.")
    say(
        f"{name} on {gpus:,} × {cluster.device.name} ({counted(cluster.nodes, 'node')}): {c.parameters():,} "
        f"parameters, FSDP2 over {cluster.data:,}, tensor parallel over {cluster.tensor}; steps of "
        f"{step.tokens:,} tokens, for each group {step.micro_batches:,} × {counted(step.rows, 'sequence')} "
        f"of {c.context_length:,}"
    )
    room = 0.9 * cluster.device.memory
    show_table(
        f"Bytes on one GPU, of which {si(room)} can be used; activations kept, or worked out again "
        "(train.activation_checkpointing)",
        ["activations", "weights", "grads", "optim", "fetched", "activ", "(head)", "peak", "fits"],
        [_memory_row(KEPT[again], share, room) for again, (share, _) in ways.items()],
    )
    show_table(
        f"One step with activations {KEPT[chosen]}: in over the links of one GPU, and seconds",
        ["", "bytes", "seconds"],
        _step_rows(cluster, step, _mfu(c, cluster, step, bf16)),
    )
    show_table(
        f"The whole run; list prices of {PRICES_OF}, check yours",
        ["", "all hidden", "nothing hidden"],
        _run_rows(cluster, step, stages[0].steps, failures_of(c, t, cluster)),
    )


def _memory_row(name: str, s: Share, room: float) -> list[str]:
    parts = [s.weights, s.gradients, s.optimizer, s.fetched, s.activations, s.head, s.total]
    return [name, *map(si, parts), "yes" if s.total < room else "no"]


def _mfu(c: DecoderConfig, cluster: Cluster, step: Step, bf16: bool) -> tuple[float, float]:
    """Model FLOPs utilisation with all traffic hidden, and with none: work done twice does not count."""
    d = cluster.device
    work = forward(c, step.tokens, c.context_length, step.tokens).total * 3
    at_peak = work / cluster.gpus / (d.bf16 if bf16 else d.fp32)
    return at_peak / step.shortest, at_peak / step.longest


def _step_rows(cluster: Cluster, s: Step, mfu: tuple[float, float]) -> list[list[str]]:
    rows = [
        [f"arithmetic at {cluster.device.utilisation:.0%} of the peak", "", f"{s.compute_seconds:.3g}"],
        ["weights gathered", si(s.gathered), f"{s.gather_seconds:.3g}"],
        ["gradients scattered", si(s.scattered), f"{s.scatter_seconds:.3g}"],
    ]
    if cluster.tensor > 1:
        rows.append(["all-reduces of tensor parallelism", si(s.reduced), f"{s.reduce_seconds:.3g}"])
    if s.shared_out:
        rows.append(["updates by Muon shared out", si(s.shared_out), f"{s.share_seconds:.3g}"])
    rows += [
        [f"step, all traffic hidden (MFU {mfu[0]:.0%})", "", f"{s.shortest:.3g}"],
        [f"step, nothing hidden (MFU {mfu[1]:.0%})", "", f"{s.longest:.3g}"],
    ]
    return rows


def _run_rows(cluster: Cluster, s: Step, steps: int, f: Failures) -> list[list[str]]:
    times = [seconds * steps for seconds in (s.shortest, s.longest)]
    hours = [seconds / 3600 * cluster.gpus for seconds in times]
    rows = [
        [f"{steps:,} steps, {si(steps * s.tokens)} tokens", *map(duration, times)],
        ["tokens a second", *(si(s.tokens / one) for one in (s.shortest, s.longest))],
        ["GPU-hours", *map(si, hours)],
    ]
    if cluster.device.price is not None:
        rows.append(["cost in $", *(si(one * cluster.device.price) for one in hours)])
    return [
        *rows,
        [f"checkpoint of {si(f.checkpoint_bytes)} bytes", *[duration(f.checkpoint_seconds)] * 2],
        ["failures a day", *[f"{f.per_day:.2g}"] * 2],
        ["checkpoint every", *[duration(f.interval)] * 2],
        ["lost to failures and checkpoints", *[f"{f.lost:.1%}"] * 2],
        ["with what is lost", *(duration(one / (1 - f.lost)) for one in times)],
    ]
