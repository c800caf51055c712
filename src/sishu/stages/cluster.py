"""A training stage on many GPUs, worked out on paper: memory, traffic and time of a step, and what fails.

The processes are those of `sishu.train.parallel`: along `tensor` they share heads and inner width (Shoeybi et
al. 2019, arXiv:1909.08053), along `data` micro-batches and, by FSDP2, weights, gradients and optimizer state
(Zhao et al. 2023, arXiv:2304.11277). A block's weights are fetched in 16 bits for the way there and once more
for the way back; embedding, head and last norm once for both, in float32. Gradients are summed in float32,
after the last micro-batch of a step.

What a ring moves for an all-gather or a reduce-scatter of S bytes among n is S (n - 1) / n in and out of
each, and twice that for an all-reduce (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sishu.console import UserError, counted
from sishu.models.decoder import DecoderConfig
from sishu.models.flops import forward
from sishu.stages.cost import (
    activation_bytes,
    block_bytes,
    head_bytes,
    matrices,
    muon_flops,
    optimizer_bytes,
)
from sishu.stages.devices import Device
from sishu.stages.forecast import KERNELS_FORWARD, KERNELS_LEARN, KERNELS_UPDATE
from sishu.train.trainer import TrainSettings

GPU_HOURS_A_FAILURE = 54 * 24 * 16_384 / 419
"""GPU-hours between unexpected interruptions: 419 in 54 days of 16,384 H100s (Grattafiori et al. 2024,
arXiv:2407.21783, section 3.3.4)."""
REACHED = 0.8
"""Share of a link's data sheet that large collectives reach; assumed."""
STORAGE = 2e9
"""Bytes a second that a node writes to storage; assumed."""
RESTART = 600.0
"""Seconds from a failure to the first step after it; assumed."""


@dataclass(frozen=True)
class Cluster:
    """`gpus` of a kind, in nodes of `node`, of which `tensor` neighbours share the blocks' matrices."""

    device: Device
    gpus: int
    tensor: int = 1
    node: int = 8

    def __post_init__(self) -> None:
        """Raises UserError where the numbers do not go together."""
        if self.gpus % self.tensor or self.tensor > self.node:
            raise UserError(
                f"{counted(self.gpus, 'GPU')} cannot be cut into groups of {self.tensor} within nodes of "
                f"{self.node}: choose another tensor_parallel."
            )

    @property
    def data(self) -> int:
        """Groups that work on micro-batches of their own."""
        return self.gpus // self.tensor

    @property
    def nodes(self) -> int:
        return math.ceil(self.gpus / self.node)

    def fetch_seconds(self, size: float) -> float:
        """To gather or scatter `size` bytes a GPU along `data`: the slower of the links within the nodes and
        of the network between them, which a node's GPUs that hold the same part of the matrices share."""
        together = max(1, min(self.node, self.gpus) // self.tensor)
        inside = size * (self.data - 1) / self.data / self.device.link if together > 1 else 0.0
        across = size * (self.nodes - 1) / self.nodes / (together * self.device.network)
        return max(inside, across) / REACHED


@dataclass(frozen=True)
class Share:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    """Its part; whole where several micro-batches are summed up."""
    optimizer: float
    fetched: float
    """Weights of two blocks at once and of what all share, and the gradients on their way out."""
    activations: float
    """Of one micro-batch, with `head`, or the way back through a block where that takes more."""
    head: float
    """At the logits."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.fetched + self.activations


@dataclass(frozen=True)
class Step:
    """One step: what a GPU takes in over its links, in bytes, and seconds."""

    tokens: int
    micro_batches: int
    """Of each group, one after another."""
    rows: int
    """Sequences of a micro-batch."""
    gathered: float
    scattered: float
    reduced: float
    """In the all-reduces of tensor parallelism."""
    shared_out: float
    """Matrices that Muon puts together on every GPU, and their updates from the one that worked on each."""
    compute_seconds: float
    gather_seconds: float
    scatter_seconds: float
    reduce_seconds: float
    share_seconds: float

    @property
    def shortest(self) -> float:
        """Seconds where fetching weights and summing gradients hide behind arithmetic as far as they can; the
        all-reduces of tensor parallelism and what Muon sends hide behind nothing."""
        open_work = self.compute_seconds + self.reduce_seconds
        return max(open_work, self.gather_seconds + self.scatter_seconds) + self.share_seconds

    @property
    def longest(self) -> float:
        """Seconds where nothing hides."""
        fetching = self.gather_seconds + self.scatter_seconds
        return self.compute_seconds + self.reduce_seconds + fetching + self.share_seconds


@dataclass(frozen=True)
class Failures:
    """What interruptions cost a run."""

    per_day: float
    checkpoint_bytes: float
    checkpoint_seconds: float
    interval: float
    """Seconds between checkpoints that lose least, √(2 · one · time between failures) (Young 1974)."""
    lost: float
    """Share of the time that goes into checkpoints, work done twice, and starting again."""


def rows_of(t: TrainSettings, cluster: Cluster) -> tuple[int, int]:
    """Sequences of a micro-batch, and how many of these each group works on in a step, as
    `sishu.train.parallel.rows_at_once` has it. Raises UserError where there is not a sequence for each."""
    if t.batch < cluster.data:
        raise UserError(
            f"A step has {counted(t.batch, 'sequence')} for {cluster.data} groups of GPUs: raise "
            "train.batch, or take fewer GPUs."
        )
    rounds = math.ceil(t.batch / (cluster.data * t.micro_batch))
    return math.ceil(t.batch / (cluster.data * rounds)), rounds


def split_shape(c: DecoderConfig, tensor: int) -> DecoderConfig:
    """What each of `tensor` GPUs holds of the blocks. Raises UserError for a shape that cannot be split."""
    for what, count in (("heads", c.heads), ("key-value heads", c.kv_heads), ("inner width", c.hidden)):
        if count % tensor:
            raise UserError(f"Tensor parallelism over {tensor} cannot split {count:,} ({what}).")
    return replace(c, heads=c.heads // tensor, kv_heads=c.kv_heads // tensor, hidden=c.hidden // tensor)


def share_of(
    c: DecoderConfig, t: TrainSettings, cluster: Cluster, *, bf16: bool, checkpointing: bool
) -> Share:
    """What one GPU holds while it trains, at the most."""
    own, rows, rounds = split_shape(c, cluster.tensor), *rows_of(t, cluster)
    blocks, common, alone = _block_weights(own), c.parameters() - _block_weights(c), cluster.data == 1
    part, product = (blocks + common) / cluster.data, 2 if bf16 else 4
    copies = 2 * own.layers * sum(m * n for m, n in matrices(own)) if bf16 and alone else 0
    return Share(
        weights=4 * part,
        gradients=4 * part + (4 * (blocks + common) if rounds > 1 and not alone else 0),
        optimizer=optimizer_bytes(c, t.matrix_learning_rate is not None) * part / c.parameters(),
        fetched=0 if alone else (3 * product + 4) * blocks / c.layers + 8 * common,
        activations=copies + _activations(own, rows, bf16, checkpointing),
        head=head_bytes(own, rows * c.context_length, bf16),
    )


def step_of(c: DecoderConfig, t: TrainSettings, cluster: Cluster, *, bf16: bool, checkpointing: bool) -> Step:
    """A step's traffic and time. The logits are worked out by each GPU of a tensor group."""
    own, length, device = split_shape(c, cluster.tensor), c.context_length, cluster.device
    rows, rounds = rows_of(t, cluster)
    tokens = rows * rounds * length  # of one group
    blocks, common = _block_weights(own), c.parameters() - _block_weights(c)
    product = 2 if bf16 else 4
    gather = rounds * (2 * product * blocks + 4 * common)
    scatter = 4 * (blocks + common)
    moved = (cluster.data - 1) / cluster.data
    # each all-reduce is of the stream: two on the way there, in the products' precision, two on the way back,
    # in float32, and one more where a block is worked out again, which stops before the last
    streams = 2 * product + 2 * 4 + (product if checkpointing else 0)
    reduced = c.layers * c.width * tokens * streams * 2 * (cluster.tensor - 1) / cluster.tensor
    body, head = forward(c, tokens, length, 0), forward(c, tokens, length, tokens)
    passes = 4 if checkpointing else 3
    work = body.total * passes / cluster.tensor + (head.products - body.products) * 3
    rate = device.utilisation * (device.bf16 if bf16 else device.fp32)
    every = Cluster(device, cluster.gpus, node=cluster.node)
    updates = 0
    if t.matrix_learning_rate is not None:
        work += muon_flops(c) / cluster.gpus
        updates = 8 * c.layers * sum(m * n for m, n in matrices(c)) if cluster.gpus > 1 else 0
    learn = KERNELS_LEARN + (KERNELS_FORWARD if checkpointing else 0)
    kernels = c.layers * (rounds * learn + KERNELS_UPDATE)
    return Step(
        tokens=t.batch * length,
        micro_batches=rounds,
        rows=rows,
        gathered=gather * moved,
        scattered=scatter * moved,
        reduced=reduced,
        shared_out=updates * (cluster.gpus - 1) / cluster.gpus,
        compute_seconds=work / rate + kernels * device.overhead,
        gather_seconds=cluster.fetch_seconds(gather),
        scatter_seconds=cluster.fetch_seconds(scatter),
        reduce_seconds=reduced / device.link / REACHED,
        share_seconds=every.fetch_seconds(updates),
    )


def failures_of(c: DecoderConfig, t: TrainSettings, cluster: Cluster) -> Failures:
    """What interruptions cost, each part of a checkpoint being written by the node that holds it while
    training waits."""
    size = 4 * c.parameters() + optimizer_bytes(c, t.matrix_learning_rate is not None)
    seconds = size / cluster.nodes / STORAGE
    between = GPU_HOURS_A_FAILURE / cluster.gpus * 3600
    interval = math.sqrt(2 * seconds * between)
    lost = seconds / interval + (interval / 2 + RESTART) / between
    return Failures(86_400 / between, size, seconds, interval, lost)


def _block_weights(c: DecoderConfig) -> int:
    """Weights of the blocks alone."""
    return c.layers * (replace(c, layers=2).parameters() - replace(c, layers=1).parameters())


def _activations(c: DecoderConfig, rows: int, bf16: bool, checkpointing: bool) -> int:
    """At the highest point of a micro-batch, without the matrices' copies in 16 bits, which are what FSDP2
    fetches and frees; as `sishu.stages.cost.working_bytes`."""

    def kept(layers: int) -> int:
        shape = replace(c, layers=layers)
        whole, copies = (activation_bytes(shape, n, c.context_length, bf16, False) for n in (tokens, 0))
        return whole - copies

    tokens = rows * c.context_length
    head, back = head_bytes(c, tokens, bf16), block_bytes(c, tokens, c.context_length, bf16, False)
    if not checkpointing:
        return kept(c.layers) + max(head, back)
    block = kept(2) - kept(1)
    return kept(1) - block + 4 * c.width * tokens * c.layers + max(head, block + back)
