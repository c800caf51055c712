"""What training costs, worked out from a decoder's shape: operations and memory.

FLOPs of a forward pass are 2 per weight and token for the matrix products, the tied output head among the
weights (its other use, the embedding, is a look-up), and 4·L·H·K·T per token for the attention, of whose T×T
square the causal half counts too; a backward pass takes twice as much. So training takes 6·N + 12·L·H·K·T a
token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, app. B).
Left out: norms, softmax, clipping, AdamW, and the evaluations on the way, together a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sishu.models.decoder import DecoderConfig
from sishu.nn.layout import LONGEST_PLAIN
from sishu.objectives.cross_entropy import rows_at_once
from sishu.stages.reward import RANKS
from sishu.train.trainer import TrainSettings


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


def has_plain_scores(length: int, bf16: bool, cpu: bool) -> bool:
    """Whether `attend` does without the fused kernel, and T×T scores are kept for the backward pass."""
    return bf16 and cpu and length <= LONGEST_PLAIN


def activation_bytes(c: DecoderConfig, tokens: int, length: int, bf16: bool, cpu: bool) -> int:
    """What autograd keeps of the trunk for a backward pass over `tokens` in rows of `length`, by the code of
    `Block`: on a CPU with compiled functions (`sishu.nn.compiled`), elsewhere with torch's as it has them on
    a CPU (a fused norm, as on CUDA, keeps less). With bfloat16 products also the matrices' copies in
    bfloat16, and on a CPU the softmax of plain attention."""
    d, q, k, f = c.width, c.heads * c.head_width, c.kv_heads * c.head_width, c.hidden
    copies = 2 * c.layers * sum(m * n for m, n in matrices(c)) if bf16 else 0
    if cpu:
        block = 4 * (2 * d + c.heads + c.kv_heads + 2) + (2 if bf16 else 4) * (2 * d + 4 * q + 3 * k + 3 * f)
        if has_plain_scores(length, bf16, cpu):  # and keys and values repeated
            block += 2 * c.heads * length + 2 * q - 4 * k
        else:
            block += 4 * c.heads  # sums of exponents
        return tokens * (c.layers * block + (6 if bf16 else 8) * d) + copies
    if bf16:
        block = 26 * d + 14 * q + 12 * k + 8 * f + 8 * c.heads + 4 * c.kv_heads + 8
        return tokens * (c.layers * block + 12 * d) + copies
    block = 4 * (6 * d + 5 * q + 4 * k + 4 * f + 2 * c.heads + c.kv_heads + 2)
    return tokens * (c.layers * block + 12 * d)


def logit_bytes(c: DecoderConfig, tokens: int, bf16: bool) -> int:
    """The logits that `head_cross_entropy` forms at once and the head's gradient; in bfloat16 also the head
    and a product in it, and where it goes in pieces, what is added to the gradient."""
    some, matrix = min(tokens, rows_at_once(c.vocabulary)), c.vocabulary * c.width
    pieces = 4 * matrix if some < tokens else 0
    return (2 if bf16 else 4) * c.vocabulary * some + (8 if bf16 else 4) * matrix + pieces


def distribution_bytes(c: DecoderConfig, tokens: int) -> int:
    """Log-probabilities, their gradient and that of the logits, float32, all alive in the backward pass."""
    return 12 * c.vocabulary * tokens


def backward_bytes(
    c: DecoderConfig,
    tokens: int,
    length: int,
    bf16: bool,
    cpu: bool,
    *,
    logits: int | None = None,
    distributions: bool = False,
) -> int:
    """The highest point of a backward pass above what autograd keeps of the trunk: at the `logits` positions
    that have some (all `tokens` when not given), of which whole `distributions` may be wanted, in the last
    block's network, or in its plain attention."""
    counted = tokens if logits is None else logits
    head = distribution_bytes(c, counted) if distributions else logit_bytes(c, counted, bf16)
    points = [head, 4 * (3 * c.hidden + 2 * c.width) * tokens]
    if has_plain_scores(length, bf16, cpu):
        points.append(4 * c.heads * length * tokens)
    return max(points)


def memory(
    c: DecoderConfig,
    t: TrainSettings,
    length: int,
    bf16: bool,
    *,
    cpu: bool,
    logits: int | None = None,
    kind: str = "",
) -> Memory:
    """A stage that trains a decoder, a "scorer", or for "ppo" both, beside two that are frozen.

    `logits` is how many positions of the micro-batch have logits; all when not given."""
    models, scorers = (2, 1) if kind == "ppo" else (1, int(kind == "scorer"))
    rows = min(t.batch, t.micro_batch) * (len(RANKS) if kind == "scorer" else 1)
    tokens, muon = rows * length, t.matrix_learning_rate is not None
    weights = 4 * (models * c.parameters() + scorers * c.width)
    whole = kind == "ppo"
    head = backward_bytes(c, tokens, length, bf16, cpu, logits=logits, distributions=whole)
    state = optimizer_bytes(c, muon, scorer=bool(scorers))
    activations = models * activation_bytes(c, tokens, length, bf16, cpu)
    if kind == "ppo":
        state += optimizer_bytes(c, muon)
        activations += 3 * 4 * c.vocabulary * tokens  # the reference's, and two that the KL keeps
    return Memory(
        weights=weights * models,
        gradients=weights,
        optimizer=state,
        activations=activations + head,
        logits=head,
        update=models * muon_update_bytes(c, bf16) if muon else 0,
        accumulates=t.batch > t.micro_batch or kind == "ppo",
    )
