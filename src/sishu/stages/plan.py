"""plan: what walking a recipe will take, worked out without training: operations, memory, hours, money.

FLOPs of a forward pass are 2 per weight and token for the matrix products, the tied output head among the
weights (its other use, the embedding, is a look-up), and 4·L·H·K·T per token for the attention, of whose T×T
square the causal half counts too; a backward pass takes twice as much. So training takes 6·N + 12·L·H·K·T a
token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, app. B).
Left out: norms, softmax, clipping, AdamW, and the evaluations on the way, together a few per cent.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch

from sishu.batches.conversations import encode_all, read_conversations
from sishu.console import say, show_table
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.nn.device import Precision, autocast, best_device, has_fast_bf16
from sishu.objectives.language import token_losses
from sishu.run import Run
from sishu.stages.ppo import PpoSettings
from sishu.stages.pretrain import PretrainSettings
from sishu.stages.reward import RANKS, RewardSettings
from sishu.stages.sft import SftSettings
from sishu.stages.shape import ModelSettings, derive_plan, derive_shape
from sishu.stages.tokenizer import TokenizerSettings
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.trainer import TrainSettings

UNKNOWN_CORPUS = 1 << 60
"""Stands for a corpus large enough for any plan."""
KERNELS_FORWARD, KERNELS_LEARN, KERNELS_UPDATE = 55, 155, 33
"""Kernels a block starts, counted on `Decoder` with a dispatch mode; each costs `Device.overhead`."""


class Road(Protocol):
    """The part of a recipe that decides the work."""

    @property
    def stages(self) -> list[str]: ...
    @property
    def price_per_hour(self) -> float | None: ...
    @property
    def tokenizer(self) -> TokenizerSettings: ...
    @property
    def pretrain(self) -> PretrainSettings: ...
    @property
    def sft(self) -> SftSettings: ...
    @property
    def reward(self) -> RewardSettings: ...
    @property
    def ppo(self) -> PpoSettings: ...


@dataclass(frozen=True)
class Facts:
    """What only the data tells; measured where a run has it, else assumed. Lengths in tokens."""

    vocabulary: int = 32_768
    corpus_tokens: int | None = None
    conversations: int = 10_000
    """Conversations to learn from."""
    prompt: int = 24
    """Mean length of a question."""
    row: int = 50
    """Mean length of a conversation."""
    longest: int = 100
    """Length of the longest conversation."""
    assumed: tuple[str, ...] = ()
    """What of all this was assumed."""
    seconds: Mapping[str, float] | None = None
    """Measured working time of the run's finished stages."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations."""

    products: float = 0.0
    attention: float = 0.0
    optimizer: float = 0.0
    generation: float = 0.0
    """Answers drawn token by token: bound by memory traffic and overhead, so timed apart."""

    @property
    def total(self) -> float:
        return self.products + self.attention + self.optimizer + self.generation

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> Flops:
        return Flops(*(getattr(self, f.name) * factor for f in fields(self)))


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while training."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of one micro-batch, with `logits`."""
    logits: int
    update: int
    """Temporary copies in Muon's update, when the activations are gone."""
    accumulates: bool
    """Whether gradients of earlier micro-batches are there beside the activations."""

    @property
    def total(self) -> int:
        """The peak: not everything is there at once."""
        working = self.activations + (self.gradients if self.accumulates else 0)
        return self.weights + self.optimizer + max(working, self.gradients + self.update)


@dataclass(frozen=True)
class StagePlan:
    """One training stage. `memory` is with float32 activations, `memory_bf16` with bfloat16 products."""

    name: str
    parameters: int
    steps: int
    tokens: int
    """Trained on, over all steps and passes, padding included."""
    flops: Flops
    memory: Memory
    memory_bf16: Memory
    kernels: int
    precision: Precision = "auto"
    decode_steps: int = 0
    """Tokens drawn one after another, each for a whole batch of rows."""
    decode_bytes: int = 0
    """Read for each of them: the weights in float32."""


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

    def in_bf16(self, precision: Precision) -> bool:
        """Whether matrix products run in bfloat16."""
        return self.bf16 > 0 and precision != "fp32"

    def fits(self, stage: StagePlan) -> bool:
        """Whether the stage's peak leaves a tenth of the memory to the system and to fragments."""
        return self.memory_of(stage).total < 0.9 * self.memory

    def memory_of(self, stage: StagePlan) -> Memory:
        """Of the two, the one in this device's precision."""
        return stage.memory_bf16 if self.in_bf16(stage.precision) else stage.memory

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
    Device("2-core CPU", 0, 150e9, 8e9, 20e9, 0.5, 0.10),
    Device("RTX 4090", 165.2e12, 82.6e12, 24e9, 1008e9, 0.35, 0.69),
    Device("A100 80GB", 312e12, 19.5e12, 80e9, 2039e9, 0.35, 1.49),
    Device("H100 SXM", 989.4e12, 66.9e12, 80e9, 3350e9, 0.35, 2.99),
    Device("H200", 989.4e12, 66.9e12, 141e9, 4800e9, 0.35, 3.79),
)
"""Peaks, memory and bandwidth from the makers' data sheets; prices are typical single-device list prices."""


def forward(c: DecoderConfig, tokens: float, length: float, head_tokens: float) -> Flops:
    """A forward pass over `tokens` in rows of `length`, with logits for `head_tokens` of them."""
    body, head = c.parameters(embedding=False), c.vocabulary * c.width
    attention = 4 * c.layers * c.heads * c.head_width * length * tokens
    return Flops(2 * (body * tokens + head * head_tokens), attention)


def decoding(c: DecoderConfig, rows: float, prompt: int, new: int) -> Flops:
    """Reading `rows` prompts and drawing `new` tokens for each; attention reads the whole cache."""
    read, drawn = forward(c, rows * prompt, prompt + new, rows), rows * max(0, new - 1)
    return Flops(generation=(read + forward(c, drawn, prompt + new, drawn)).total)


def matrices(c: DecoderConfig) -> list[tuple[int, int]]:
    """The matrices of one block that Muon would train."""
    q, k, d, f = c.heads * c.head_width, c.kv_heads * c.head_width, c.width, c.hidden
    return [(q, d), (k, d), (k, d), (d, q), (f, d), (f, d), (d, f)]


def muon_flops(c: DecoderConfig) -> float:
    """One update's Newton-Schulz iterations: five times three products of each matrix."""
    sizes = [(min(m), max(m)) for m in matrices(c)]
    return c.layers * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sizes)


def optimizer_bytes(c: DecoderConfig, muon: bool, scorer: bool = False) -> int:
    """AdamW keeps two float32 numbers a weight and a step count a tensor, Muon one number a weight."""
    blocks = c.layers * sum(m * n for m, n in matrices(c))
    weights = c.parameters() + (c.width if scorer else 0)
    tensors = 4 * c.layers + 2 + (not c.tied) + scorer
    if muon:
        return 4 * blocks + 8 * (weights - blocks) + 4 * tensors
    return 8 * weights + 4 * (tensors + 7 * c.layers)


def muon_update_bytes(c: DecoderConfig, bf16: bool) -> int:
    """Copies alive in Muon's update of the largest group of matrices of one shape."""
    groups: dict[tuple[int, int], int] = {}
    for shape in matrices(c):
        groups[shape] = groups.get(shape, 0) + c.layers
    whole, square = (20, 6) if bf16 else (28, 12)
    return max(n * (whole * a * b + square * min(a, b) ** 2) for (a, b), n in groups.items())


def activation_bytes(c: DecoderConfig, tokens: int, bf16: bool) -> int:
    """What autograd keeps of the trunk for a backward pass over `tokens`, by the code of `Block` on a CPU (a
    fused norm, as on CUDA, keeps less). With bfloat16 products also the matrices' bfloat16 copies."""
    d, q, k, f = c.width, c.heads * c.head_width, c.kv_heads * c.head_width, c.hidden
    if bf16:
        block = 26 * d + 18 * q + 8 * k + 8 * f + 8 * c.heads + 4 * c.kv_heads + 8
        copies = 2 * (c.layers * sum(m * n for m, n in matrices(c)) + c.vocabulary * d)
        return tokens * (c.layers * block + 10 * d) + copies
    block = 4 * (6 * d + 7 * q + 2 * k + 4 * f + 2 * c.heads + c.kv_heads + 2)
    return tokens * (c.layers * block + 12 * d)


def logit_bytes(c: DecoderConfig, tokens: int) -> int:
    """Log-probabilities, their gradient and that of the logits, float32, all alive in the backward pass."""
    return 12 * c.vocabulary * tokens


def memory(
    c: DecoderConfig, t: TrainSettings, length: int, bf16: bool, *, logits: int | None = None, kind: str = ""
) -> Memory:
    """A stage that trains a decoder, a "scorer", or for "ppo" both, beside two that are frozen.

    `logits` is how many positions of the micro-batch have logits; all when not given."""
    models, scorers = (2, 1) if kind == "ppo" else (1, int(kind == "scorer"))
    rows = min(t.batch, t.micro_batch) * (len(RANKS) if kind == "scorer" else 1)
    tokens, muon = rows * length, t.matrix_learning_rate is not None
    weights = 4 * (models * c.parameters() + scorers * c.width)
    head = logit_bytes(c, tokens if logits is None else logits)
    # without logits the first gradients of the last block are the highest point
    head = max(head, 4 * (3 * c.hidden + 2 * c.width) * tokens)
    state = optimizer_bytes(c, muon, scorer=bool(scorers))
    if kind == "ppo":
        state += optimizer_bytes(c, muon)
    return Memory(
        weights=weights * models,
        gradients=weights,
        optimizer=state,
        activations=models * activation_bytes(c, tokens, bf16) + head,
        logits=head,
        update=models * muon_update_bytes(c, bf16) if muon else 0,
        accumulates=t.batch > t.micro_batch or kind == "ppo",
    )


def _training(
    name: str,
    c: DecoderConfig,
    t: TrainSettings,
    steps: int,
    length: int,
    longest: int,
    *,
    learnt: float = 1.0,
    kind: str = "",
) -> StagePlan:
    """A stage of rows of `length` tokens on average, the share `learnt` of which have logits."""
    rows = t.batch * (len(RANKS) if kind == "scorer" else 1)
    tokens = steps * rows * length
    muon = muon_flops(c) * steps if t.matrix_learning_rate is not None else 0.0
    micro = math.ceil(t.batch / t.micro_batch)
    logits = round(learnt * longest * min(t.batch, t.micro_batch))
    return StagePlan(
        name=name,
        parameters=c.parameters() + (c.width if kind else 0),
        steps=steps,
        tokens=tokens,
        flops=forward(c, tokens, length, learnt * tokens) * 3 + Flops(optimizer=muon),
        memory=memory(c, t, longest, False, logits=logits, kind=kind),
        memory_bf16=memory(c, t, longest, True, logits=logits, kind=kind),
        kernels=steps * c.layers * (micro * KERNELS_LEARN + KERNELS_UPDATE),
        precision=t.precision,
    )


def sft_plan(s: SftSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Fine-tuning; logits only for the assistant's words."""
    steps = s.train.steps or max(1, round(s.epochs * f.conversations / s.train.batch))
    row, longest = min(f.row, c.context_length), min(f.longest, c.context_length)
    return _training("sft", c, s.train, steps, row, longest, learnt=max(0.0, 1 - f.prompt / row))


def reward_plan(s: RewardSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Drawing an answer for every prompt, then learning the ranking; answers as long as allowed."""
    prompts = min(s.prompts, f.conversations)
    length = min(c.context_length, f.prompt + s.max_tokens)
    steps = s.train.steps or max(1, round(s.epochs * prompts / s.train.batch))
    plan = _training("reward", c, s.train, steps, length, length, learnt=0.0, kind="scorer")
    # drawn 128 at a time
    drawn = (math.ceil(prompts / 128) + math.ceil(s.held_out_prompts / 128)) * s.max_tokens
    return replace(
        plan,
        flops=plan.flops + decoding(c, prompts + s.held_out_prompts, f.prompt, s.max_tokens),
        kernels=plan.kernels + drawn * c.layers * KERNELS_FORWARD,
        decode_steps=drawn,
        decode_bytes=4 * c.parameters(),
    )


def ppo_plan(s: PpoSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Each step draws answers as long as allowed; policy and reference with logits and value and reward
    without read them once; then every pass trains policy and value on them and the policy on text (ptx)."""
    t, context = s.train, c.context_length
    steps, length = t.steps or 40, min(context, f.prompt + s.max_tokens)
    tokens, ptx_rows = t.batch * length, s.ptx_batch if s.ptx_coefficient > 0 else 0
    ptx = ptx_rows * context
    read = forward(c, tokens, length, tokens) + forward(c, tokens, length, 0)
    learn = (read + forward(c, ptx, context, ptx)) * 3
    muon = 2 * muon_flops(c) if t.matrix_learning_rate is not None else 0.0
    step = (
        read * 2 + (learn + Flops(optimizer=muon)) * s.passes + decoding(c, t.batch, f.prompt, s.max_tokens)
    )
    micro, ptx_micro = math.ceil(t.batch / t.micro_batch), math.ceil(ptx_rows / t.micro_batch)
    updates = s.passes * ((2 * micro + ptx_micro) * KERNELS_LEARN + 2 * KERNELS_UPDATE)
    sides = []
    for bf16 in (False, True):
        m = memory(c, t, length, bf16, kind="ppo")
        text = min(ptx_rows, t.micro_batch) * context
        kept = max(m.activations, activation_bytes(c, text, bf16) + logit_bytes(c, text))
        sides.append(replace(m, activations=kept))
    return StagePlan(
        name="ppo",
        parameters=2 * c.parameters() + c.width,
        steps=steps,
        tokens=steps * s.passes * (tokens + ptx),
        flops=step * steps,
        memory=sides[0],
        memory_bf16=sides[1],
        kernels=steps * c.layers * (updates + (4 * micro + s.max_tokens) * KERNELS_FORWARD),
        precision=t.precision,
        decode_steps=steps * s.max_tokens,
        decode_bytes=4 * c.parameters(),
    )


def plan_stages(road: Road, f: Facts) -> tuple[DecoderConfig, list[StagePlan]]:
    """The model, and the training stages a recipe walks, in order."""
    s = road.pretrain
    shape = derive_plan(s.model, s.train, f.vocabulary, f.corpus_tokens or UNKNOWN_CORPUS)
    c, length = shape.config, shape.config.context_length
    every: dict[str, Callable[[], StagePlan]] = {
        "pretrain": lambda: _training("pretrain", c, s.train, shape.steps, length, length),
        "sft": lambda: sft_plan(road.sft, c, f),
        "reward": lambda: reward_plan(road.reward, c, f),
        "ppo": lambda: ppo_plan(road.ppo, c, f),
    }
    return c, [make() for name, make in every.items() if name in road.stages]


def gather_facts(road: Road, run: Run | None) -> Facts:
    """What a run's finished stages tell of the data; the rest assumed, and said so."""
    made = {name: run.manifest(name) if run else None for name in (*road.stages, "corpus", "tokenizer")}
    figures = {name: m["figures"] for name, m in made.items() if m is not None}
    f, assumed = Facts(), []
    vocabulary = road.tokenizer.vocabulary or figures.get("tokenizer", {}).get("vocabulary")
    if vocabulary is None:
        assumed.append(f"a vocabulary of {f.vocabulary:,}, the largest derived (tokenizer.vocabulary)")
    corpus = figures.get("pretrain", {}).get("train_tokens")
    if corpus is None and "tokenizer" in figures and "corpus" in figures:
        per_token, each = figures["tokenizer"]["bytes_per_token"], figures["tokenizer"]["baselines"]
        corpus = round(figures["corpus"]["train"]["characters"] * each["characters"] / per_token)
    if run is not None and "sft" in figures and "tokenizer" in figures:
        tokenizer = Tokenizer.load(run.folder / "tokenizer")
        items = read_conversations(run.folder / "sft" / "conversations-train.jsonl")[:256]
        rows = [len(r.ids) for r in encode_all(items, tokenizer, road.pretrain.model.context_length)]
        asked = [len(tokenizer.encode_conversation(i["messages"][:-1], True).ids) for i in items]
        f = replace(
            f,
            conversations=figures["sft"]["conversations"],
            prompt=round(sum(asked) / len(asked)),
            row=round(sum(rows) / max(1, len(rows))),
            longest=max(rows, default=f.longest),
        )
    elif {"sft", "reward", "ppo"} & set(road.stages):
        assumed.append(
            f"{f.conversations:,} conversations of {f.row} tokens, at most {f.longest}, questions {f.prompt}"
        )
    seconds = {name: m["seconds"] for name, m in made.items() if m is not None}
    return replace(
        f,
        vocabulary=vocabulary or f.vocabulary,
        corpus_tokens=corpus,
        assumed=tuple(assumed),
        seconds=seconds,
    )


def chinchilla(flops: float) -> tuple[float, float]:
    """Parameters and tokens that spend `flops` best: 20 tokens a parameter, so both grow with C^0.5
    (Hoffmann et al. 2022, arXiv:2203.15556, from C = 6·N·D)."""
    parameters = math.sqrt(flops / 120)
    return parameters, 20 * parameters


def effective_tokens(unique: float, passes: float) -> float:
    """New tokens that `passes` over `unique` ones are worth (Muennighoff et al. 2023, arXiv:2305.16264,
    with their R* = 15.39): four passes nearly four times, endless ones 16 times."""
    if passes <= 1:
        return unique * passes
    return unique * (1 + 15.39 * (1 - math.exp(-(passes - 1) / 15.39)))


def deepest(m: ModelSettings, vocabulary: int, tokens: float) -> int | None:
    """The largest depth whose model has 20 tokens a parameter, None when the smallest has not."""
    best = None
    for depth in range(1, 129):
        c, _ = derive_shape(m.model_copy(update={"depth": depth}), vocabulary)
        if 20 * c.parameters() > tokens:
            break
        best = depth
    return best


def advice(road: Road, f: Facts, c: DecoderConfig, stage: StagePlan) -> list[str]:
    """What the scaling laws say about a pretraining stage, each sentence with its source."""
    n, inner = c.parameters(), c.parameters(embedding=False)
    best, tokens = chinchilla(stage.flops.products + stage.flops.attention)
    said = [
        f"{stage.tokens / n:.1f} tokens per parameter; compute-optimal is about 20, that is {si(best)} "
        f"parameters on {si(tokens)} tokens for the same FLOPs; both grow with C^0.5 (Hoffmann et al. 2022, "
        "arXiv:2203.15556, fitted from 70M parameters up).",
        f"{stage.tokens / inner:.1f} tokens per parameter outside the embedding; nanochat trains on 12.",
    ]
    if f.corpus_tokens is None:
        said.append(
            f"The corpus is unknown: 20 tokens a parameter are {si(20 * n)}; with four passes {si(5 * n)} "
            "suffice. Give the run's folder when its tokenizer is made."
        )
        return said
    passes = stage.tokens / f.corpus_tokens
    worth = effective_tokens(f.corpus_tokens, passes)
    depth = deepest(road.pretrain.model, f.vocabulary, effective_tokens(f.corpus_tokens, 4))
    fitting = f"up to model.depth={depth}" if depth else "none, not even model.depth=1: find more text"
    said += [
        f"{passes:.1f} passes over {si(f.corpus_tokens)} tokens, worth {si(worth)} new ones: up to 4 "
        "passes are nearly as good as new text, beyond 16 little is gained (Muennighoff et al. 2023, "
        "arXiv:2305.16264).",
        f"Models with 20 tokens a parameter within 4 passes over this corpus: {fitting}.",
    ]
    return said


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
            loss = token_losses(model, ids, ids).mean()
        loss.backward()  # type: ignore[no-untyped-call]

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


def si(x: float) -> str:
    """Three digits and a prefix: 12,345,678 -> 12.3M."""
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= limit:
            return f"{x / limit:.3g}{prefix}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """90 -> 1.5min."""
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * limit or (unit == "min" and seconds >= limit):
            return f"{seconds / limit:,.1f}{unit}"
    return f"{seconds:.2g}s" if seconds < 10 else f"{seconds:.0f}s"


def show_plan(name: str, road: Road, run: Run | None, *, quick: bool = False) -> None:
    """Print the plan of a recipe; `quick` leaves out measuring this machine."""
    f = gather_facts(road, run)
    c, stages = plan_stages(road, f)
    for assumed in f.assumed:
        say(f"Assumed: {assumed}.")
    say(
        f"{name}: {c.parameters():,} parameters, {c.parameters(embedding=False):,} without the embedding "
        f"({c.layers} blocks of width {c.width}, vocabulary {c.vocabulary:,}, context {c.context_length})"
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
    show_table(
        f"Time and cost: list prices of {PRICES_OF}, check yours; share used is assumed"
        f"{', measured on this machine' if here else ''}",
        ["", *(d.name for d in devices)],
        _device_rows(devices, stages),
    )
    if f.seconds:
        estimates = {s.name: ours.seconds(s) for s in stages}
        show_table(
            f"Measured in the run beside the estimate for {ours.name} (seconds)",
            ["stage", "estimate", "measured", "measured / estimate"],
            [_measured_row(n, f.seconds[n], estimates.get(n)) for n in road.stages if n in f.seconds],
        )
    if stages[0].name == "pretrain":
        for sentence in advice(road, f, c, stages[0]):
            say(f"- {sentence}")


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


def _measured_row(name: str, seconds: float, estimate: float | None) -> list[str]:
    if estimate is None:
        return [name, "", f"{seconds:,.1f}", ""]
    return [name, f"{estimate:,.1f}", f"{seconds:,.1f}", f"{seconds / estimate:.2f}"]
