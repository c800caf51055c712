"""What training costs, worked out from a decoder's shape: operations (`sishu.models.flops`) and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sishu.models.decoder import DecoderConfig
from sishu.models.flops import Flops, forward
from sishu.nn.layout import LONGEST_PLAIN
from sishu.objectives.cross_entropy import rows_at_once
from sishu.stages.reward import RANKS
from sishu.train.trainer import TrainSettings


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
    """Temporary copies in Muon's update, when the activations are gone; or, if that is more, the first block
    worked out again (activation checkpointing), when the others' activations are."""
    accumulates: bool
    """Whether gradients of earlier micro-batches are there beside the activations."""

    @property
    def total(self) -> int:
        """The peak: not everything is there at once."""
        working = self.activations + (self.gradients if self.accumulates else 0)
        return self.weights + self.optimizer + max(working, self.gradients + self.update)


def decoding(c: DecoderConfig, rows: float, prompt: int, new: int) -> Flops:
    """Reading `rows` prompts and drawing `new` tokens for each; attention reads the whole cache."""
    read, drawn = forward(c, rows * prompt, prompt + new, rows), rows * max(0, new - 1)
    return Flops(generation=(read + forward(c, drawn, prompt + new, drawn)).total)


def matrices(c: DecoderConfig) -> list[tuple[int, int]]:
    """The matrices of one block that Muon would train."""
    q, k, d, f = c.heads * c.head_width, c.kv_heads * c.head_width, c.width, c.hidden
    return [(q, d), (k, d), (k, d), (d, q), *[(f, d)] * (2 if c.gated else 1), (d, f)]


def muon_flops(c: DecoderConfig) -> float:
    """One update's Newton-Schulz iterations: five times three products of each matrix."""
    sizes = [(min(m), max(m)) for m in matrices(c)]
    return c.layers * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sizes)


def optimizer_bytes(c: DecoderConfig, muon: bool, scorer: bool = False) -> int:
    """AdamW keeps two float32 numbers a weight and a step count a tensor, Muon one number a weight."""
    blocks = c.layers * sum(m * n for m, n in matrices(c))
    weights = c.parameters() + (c.width if scorer else 0)
    norm = 1 if c.norm == "rms" else 2
    biases = 3 * c.attention_bias + c.output_bias + (3 if c.gated else 2) * c.mlp_bias
    tensors = c.layers * (2 * norm + 2 * c.qk_norm + biases) + norm + 1
    tensors += (c.positions == "learned") + (not c.tied) + scorer
    if muon:
        return 4 * blocks + 8 * (weights - blocks) + 4 * tensors
    return 8 * weights + 4 * (tensors + len(matrices(c)) * c.layers)


def muon_update_bytes(c: DecoderConfig, bf16: bool) -> int:
    """Copies alive in Muon's update of the group of matrices of one shape that needs most: three in float32
    and, at the end of an iteration, four of it and a square, or, while squares are made, two and four."""
    groups: dict[tuple[int, int], int] = {}
    for shape in matrices(c):
        groups[shape] = groups.get(shape, 0) + c.layers
    w = 2 if bf16 else 4

    def highest(rows: int, columns: int) -> int:
        numbers, square = rows * columns, min(rows, columns) ** 2
        return 12 * numbers + w * max(4 * numbers + square, 2 * numbers + 4 * square)

    return max(count * highest(*shape) for shape, count in groups.items())


def has_plain_scores(length: int, bf16: bool, cpu: bool) -> bool:
    """Whether `attend` does without the fused kernel, and T×T scores are kept for the backward pass."""
    return bf16 and cpu and length <= LONGEST_PLAIN


def activation_bytes(c: DecoderConfig, tokens: int, length: int, bf16: bool, cpu: bool) -> int:
    """What autograd keeps of the trunk for a backward pass over `tokens` in rows of `length`, by the code of
    `Block`: on a CPU with compiled functions (`sishu.nn.compiled`), elsewhere with torch's as it has them on
    a CPU (a fused norm, as on CUDA, keeps less). With bfloat16 products also the matrices' copies in
    bfloat16, and on a CPU the softmax of plain attention."""
    d, q, k, f = c.width, c.heads * c.head_width, c.kv_heads * c.head_width, c.hidden
    w, plain = 2 if bf16 else 4, has_plain_scores(length, bf16, cpu)
    shares = 2 * c.heads * length if plain else 4 * c.heads  # or the sums of exponents alone
    copies = 2 * c.layers * sum(m * n for m, n in matrices(c)) if bf16 else 0
    if not c.gated:  # GPT-2's block, whose functions are torch's everywhere
        block = 16 * d + 16 + shares + w * (2 * q + 2 * k + 2 * f)
        return tokens * (c.layers * block + 8 * d) + copies
    if cpu:
        block = 4 * (2 * d + c.heads + c.kv_heads + 2) + w * (2 * d + 3 * q + 2 * k + 3 * f) + shares
        block += w * (q + k) if c.qk_norm else 0
        block += 2 * q - 4 * k if plain else 0  # keys and values repeated
        return tokens * (c.layers * block + (6 if bf16 else 8) * d) + copies
    if bf16:
        block = 26 * d + 6 * q + 4 * k + 8 * f + 8 + shares
        block += 8 * (q + k) + 4 * (c.heads + c.kv_heads) if c.qk_norm else 0
        return tokens * (c.layers * block + 12 * d) + copies
    block = 4 * (6 * d + 3 * q + 2 * k + 4 * f + 2) + shares
    block += 8 * (q + k) + 4 * (c.heads + c.kv_heads) if c.qk_norm else 0
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


def head_bytes(c: DecoderConfig, logits: int, bf16: bool, distributions: bool = False) -> int:
    """The highest point at the head, for so many `logits`, of which whole `distributions` may be wanted."""
    return distribution_bytes(c, logits) if distributions else logit_bytes(c, logits, bf16)


def block_bytes(c: DecoderConfig, tokens: int, length: int, bf16: bool, cpu: bool) -> int:
    """The highest point of the way back through a block: in its network, or in its plain attention."""
    attention = 4 * c.heads * length * tokens if has_plain_scores(length, bf16, cpu) else 0
    return max(attention, 4 * (3 * c.hidden + 2 * c.width) * tokens)


def working_bytes(
    c: DecoderConfig,
    tokens: int,
    length: int,
    bf16: bool,
    cpu: bool,
    *,
    checkpointing: bool = False,
    logits: int | None = None,
    distributions: bool = False,
    models: int = 1,
) -> tuple[int, int]:
    """What a micro-batch takes while `models` of one shape learn from it, at the `logits` positions that have
    some (all `tokens` when not given): at its highest point, and of that what is there when all gradients
    are, as far as it matters (with `checkpointing`)."""
    kept = models * activation_bytes(c, tokens, length, bf16, cpu)
    head = head_bytes(c, tokens if logits is None else logits, bf16, distributions)
    back = block_bytes(c, tokens, length, bf16, cpu)
    if not checkpointing:
        return kept + max(head, back), 0
    twice = models * activation_bytes(replace(c, layers=2 * c.layers), tokens, length, bf16, cpu)
    block = (twice - kept) // (models * c.layers)
    rest = kept - models * c.layers * block
    inputs = models * c.layers * 4 * c.width * tokens
    copies = 2 * models * c.layers * sum(m * n for m, n in matrices(c)) if bf16 else 0
    again = block + _way_back(c, tokens, length, bf16, cpu)
    return inputs + max(rest + copies + head, again), again


def _way_back(c: DecoderConfig, tokens: int, length: int, bf16: bool, cpu: bool) -> int:
    """The highest point of the way back through one block above what it keeps, but for what it reads: in its
    network, whose last product's input is gone by then, or, with all that the network kept gone, in its plain
    attention."""
    number, inner = 2 if bf16 else 4, 2 if c.gated else 1
    network = number * inner * c.hidden + 8 * c.width
    attention = 0
    if has_plain_scores(length, bf16, cpu):
        attention = 4 * c.heads * length - number * (inner + 1) * c.hidden
    return (max(network, attention) - 4 * c.width) * tokens


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
    working, last = working_bytes(
        c,
        tokens,
        length,
        bf16,
        cpu,
        checkpointing=t.activation_checkpointing,
        logits=logits,
        distributions=whole,
        models=models,
    )
    head = head_bytes(c, tokens if logits is None else logits, bf16, whole)
    state = optimizer_bytes(c, muon, scorer=bool(scorers))
    if kind == "ppo":
        state += optimizer_bytes(c, muon)
        working += 3 * 4 * c.vocabulary * tokens  # the reference's, and two that the KL keeps
    return Memory(
        weights=weights * models,
        gradients=weights,
        optimizer=state,
        activations=working,
        logits=head,
        update=max(models * muon_update_bytes(c, bf16) if muon else 0, last),
        accumulates=t.batch > t.micro_batch or kind == "ppo",
    )
