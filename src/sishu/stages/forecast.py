"""What each training stage of a recipe will take: steps, tokens, operations, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sishu.generate.rehearsal import RUNNING
from sishu.models.decoder_config import DecoderConfig
from sishu.models.flops import Flops, forward
from sishu.models.open import open_config
from sishu.nn.device import Precision
from sishu.stages.continue_pretrain import GLANCE, HELD_OUT, ContinuePretrainSettings
from sishu.stages.cost import (
    Memory,
    decoding,
    memory,
    muon_flops,
    working_bytes,
)
from sishu.stages.facts import Facts, Road, open_model
from sishu.stages.ppo import PpoSettings
from sishu.stages.reward import RANKS, SAMPLED, TOGETHER, RewardSettings
from sishu.stages.sft import SftSettings
from sishu.stages.shape import derive_plan
from sishu.train.trainer import TrainSettings

SIDES = ((False, False), (False, True), (True, False), (True, True))
"""Whether in bfloat16 and whether on a CPU, for the memories of a `StagePlan`."""
UNKNOWN_CORPUS = 1 << 60
"""Stands for a corpus large enough for any plan."""
KERNELS_FORWARD, KERNELS_LEARN, KERNELS_UPDATE = 55, 155, 33
"""Kernels a block starts, counted on `Decoder` with a dispatch mode; each costs `Device.overhead`."""


@dataclass(frozen=True)
class StagePlan:
    """One training stage. Its memory depends on `SIDES`: products in bfloat16 halve what is kept, and a CPU
    keeps less by compiled functions, but in bfloat16 also the T×T shares of attention."""

    name: str
    parameters: int
    steps: int
    tokens: int
    """Trained on, over all steps and passes, padding included."""
    flops: Flops
    memories: Mapping[tuple[bool, bool], Memory]
    kernels: int
    precision: Precision = "auto"
    decode_steps: int = 0
    """Tokens drawn one after another, each for a whole batch of rows."""
    decode_bytes: int = 0
    """Read for each of them: the weights in float32."""


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
    again = Flops(recomputed=forward(c, tokens, length, 0).total if t.activation_checkpointing else 0.0)
    micro = math.ceil(t.batch / t.micro_batch)
    logits = round(learnt * longest * min(t.batch, t.micro_batch))
    memories = {side: memory(c, t, longest, side[0], cpu=side[1], logits=logits, kind=kind) for side in SIDES}
    return StagePlan(
        name=name,
        parameters=c.parameters() + (c.width if kind else 0),
        steps=steps,
        tokens=tokens,
        flops=forward(c, tokens, length, learnt * tokens) * 3 + Flops(optimizer=muon) + again,
        memories=memories,
        kernels=steps * c.layers * (micro * _kernels(t) + KERNELS_UPDATE),
        precision=t.precision,
    )


def continue_plan(s: ContinuePretrainSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Going on from a model: the text of the field and what is replayed beside it, the looks at held-out text
    of both kinds before, between and after, and what the model writes itself."""
    length, kinds = min(s.context_length, c.context_length), 1 + bool(s.replay.data or s.replay.generated)
    share = s.replay.share if kinds == 2 else 0.0
    rows = s.passes * math.ceil(f.domain_tokens / length) / (1 - share)
    steps = s.train.steps or math.ceil(rows / s.train.batch)
    plan = _training("continue_pretrain", c, s.train, steps, length, length)
    looked_at = kinds * (2 * HELD_OUT + math.ceil(steps / s.train.evaluate_every) * GLANCE)
    flops = plan.flops + forward(c, looked_at, length, looked_at)
    if s.replay.data or not s.replay.generated:
        return replace(plan, flops=flops)
    texts = math.ceil(s.replay.generated / length)
    drawn = math.ceil(texts / RUNNING) * length
    return replace(
        plan,
        flops=flops + decoding(c, texts, 2, length - 2),
        kernels=plan.kernels + drawn * c.layers * KERNELS_FORWARD,
        decode_steps=drawn,
        decode_bytes=4 * c.parameters(),
    )


def _kernels(t: TrainSettings) -> int:
    """Kernels that a block starts for a micro-batch."""
    return KERNELS_LEARN + (KERNELS_FORWARD if t.activation_checkpointing else 0)


def sft_plan(s: SftSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Fine-tuning; logits only for the assistant's words."""
    steps = s.train.steps or max(1, round(s.epochs * f.conversations / s.train.batch))
    row, longest = min(f.row, c.context_length), min(f.longest, c.context_length)
    return _training("sft", c, s.train, steps, row, longest, learnt=max(0.0, 1 - f.prompt / row))


def reward_plan(s: RewardSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Drawing two answers for every prompt, then learning the ranking; answers as long as allowed."""
    prompts = min(s.prompts, f.conversations)
    length = min(c.context_length, f.prompt + s.max_tokens)
    steps = s.train.steps or max(1, round(s.epochs * prompts / s.train.batch))
    plan = _training("reward", c, s.train, steps, length, length, learnt=0.0, kind="scorer")
    batches = math.ceil(prompts / TOGETHER) + math.ceil(s.held_out_prompts / TOGETHER)
    calls = batches * len(s.temperatures)
    drawn = calls * s.max_tokens
    return replace(
        plan,
        flops=plan.flops + decoding(c, len(SAMPLED) * (prompts + s.held_out_prompts), f.prompt, s.max_tokens),
        kernels=plan.kernels + drawn * c.layers * KERNELS_FORWARD,
        decode_steps=drawn,
        decode_bytes=4 * c.parameters(),
    )


def ppo_plan(s: PpoSettings, c: DecoderConfig, f: Facts) -> StagePlan:
    """Each step draws answers as long as allowed, and the reward model reads them; policy and reference with
    logits and the value model without read those that are kept; then every pass trains policy and value on
    these, the reference read once more beside them, and the policy on text (ptx)."""
    t, context = s.train, c.context_length
    steps, length = t.steps, min(context, f.prompt + s.max_tokens)
    tokens, ptx_rows = t.batch * length, s.ptx_batch if s.ptx_coefficient > 0 else 0
    ptx, drawn = ptx_rows * context, t.batch // s.kept * s.answers
    read = forward(c, tokens, length, tokens) + forward(c, tokens, length, 0)
    measured = read + forward(c, tokens, length, tokens) + forward(c, drawn * length, length, 0)
    learn = (read + forward(c, ptx, context, ptx)) * 3 + forward(c, tokens, length, tokens)
    muon = 2 * muon_flops(c) if t.matrix_learning_rate is not None else 0.0
    if t.activation_checkpointing:
        again = forward(c, ptx, context, 0) + forward(c, tokens, length, 0) * 2
        learn += Flops(recomputed=again.total)
    step = measured + (learn + Flops(optimizer=muon)) * s.passes + decoding(c, drawn, f.prompt, s.max_tokens)
    micro, ptx_micro = math.ceil(t.batch / t.micro_batch), math.ceil(ptx_rows / t.micro_batch)
    scored = math.ceil(drawn / t.micro_batch)
    reads = (3 + s.passes) * micro + scored + s.max_tokens
    updates = s.passes * ((2 * micro + ptx_micro) * _kernels(t) + 2 * KERNELS_UPDATE)
    memories = {}
    for side in SIDES:
        m = memory(c, t, length, side[0], cpu=side[1], kind="ppo")
        text = min(ptx_rows, t.micro_batch) * context
        kept, _ = working_bytes(c, text, context, *side, checkpointing=t.activation_checkpointing)
        memories[side] = replace(m, activations=max(m.activations, kept))
    return StagePlan(
        name="ppo",
        parameters=2 * c.parameters() + c.width,
        steps=steps,
        tokens=steps * s.passes * (tokens + ptx),
        flops=step * steps,
        memories=memories,
        kernels=steps * c.layers * (updates + reads * KERNELS_FORWARD),
        precision=t.precision,
        decode_steps=steps * s.max_tokens,
        decode_bytes=4 * c.parameters(),
    )


def plan_stages(road: Road, f: Facts) -> tuple[DecoderConfig, list[StagePlan]]:
    """The model, and the training stages a recipe walks, in order."""
    s = road.pretrain
    shape = derive_plan(s.model, s.train, f.vocabulary, f.corpus_tokens or UNKNOWN_CORPUS)
    c, length = shape.config, shape.config.context_length
    model = open_model(road)
    further = c if model is None else open_config(model)  # of the stages behind
    every: dict[str, Callable[[], StagePlan]] = {
        "pretrain": lambda: _training("pretrain", c, s.train, shape.steps, length, length),
        "continue_pretrain": lambda: continue_plan(road.continue_pretrain, further, f),
        "sft": lambda: sft_plan(road.sft, further, f),
        "reward": lambda: reward_plan(road.reward, further, f),
        "ppo": lambda: ppo_plan(road.ppo, further, f),
    }
    return further, [make() for name, make in every.items() if name in road.stages]
