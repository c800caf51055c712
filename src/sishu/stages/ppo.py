"""ppo: the assistant improves its answers against the reward model without forgetting its language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from sishu.batches.batch import Batch
from sishu.batches.conversations import read_conversations
from sishu.batches.tokens import Windows, read_tokens
from sishu.config import Section
from sishu.console import UserError, say
from sishu.generate.engine import Sampling
from sishu.generate.rollouts import RewardScale, Rollouts, read_scale
from sishu.models.folder import load_decoder, load_scorer, save_model
from sishu.nn.device import best_device
from sishu.objectives.ppo import PPO, ActorCritic, AdaptiveKL
from sishu.run import StageContext
from sishu.stages.reward import SCALE
from sishu.stages.stage import Need, Stage
from sishu.train.trainer import Trainer, TrainSettings


class PpoTraining(TrainSettings):
    """`batch` counts the answers learnt from in a step; Adam as the source papers set it, but for the warmup:
    its first updates are as large as they can be whatever the gradient, and here that is mostly noise."""

    steps: int = Field(28, ge=1)
    batch: int = Field(128, ge=1)
    micro_batch: int = Field(32, ge=1)
    learning_rate: float = Field(3.5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-5, gt=0)
    warmup: float = Field(0.15, ge=0, le=1)
    cooldown: float = Field(0.6, ge=0, le=1)


class PpoSettings(Section):
    """Rollouts, KL control, and the training."""

    model: Path | None = None
    """A fine-tuned model folder to start from, instead of this run's."""
    reward: Path | None = None
    """A reward model's folder (with its scale.json), instead of this run's."""
    max_tokens: int = Field(64, ge=1)
    """Longest answer."""
    temperature: float = Field(0.7, gt=0)
    """Of the rollouts, and of the probabilities compared; at 1 a small model breaks many by chance."""
    answers: int = Field(8, ge=1)
    """Answers to each prompt."""
    kept: int = Field(2, ge=1)
    """How many of a prompt's answers are learnt from: the worst and the best."""
    passes: int = Field(2, ge=1)
    """Updates on each step's rollouts (inner epochs)."""
    clip: float = Field(0.2, gt=0)
    """How far a probability ratio, or a value, may move and still be rewarded for it."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value model's loss."""
    value_rate: float = Field(4.0, gt=0)
    """The value model's learning rate, as a multiple of the policy's: it has more to learn."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of later rewards."""
    lam: float = Field(0.95, ge=0, le=1)
    """Of generalised advantage estimation."""
    kl_coefficient: float = Field(0.05, ge=0)
    """Where β starts: the weight of the divergence in the loss."""
    kl_target: float = Field(20.0, gt=0)
    """Divergence from the fine-tuned model to hold, in nats per answer."""
    kl_horizon: int = Field(10_000, ge=1)
    """Episodes over which β adapts."""
    kl_stop: float = Field(0.9, gt=0)
    """Learning ends when the divergence has come to this share of its target: β changes what is wanted, and
    alone turns the policy too late to keep it below."""
    unended_penalty: float = Field(1.0, ge=0)
    """Taken from the score of an answer that does not end."""
    sameness_penalty: float = Field(2.5, ge=0)
    """Taken from the score of an answer that is given to every other prompt too, and in proportion from one
    that is so in part: a reward model that cannot tell what belongs to a question likes some phrase best."""
    ptx_coefficient: float = Field(0.05, ge=0)
    """Weight of the pretraining loss mixed into every update; 0 leaves it out."""
    ptx_batch: int = Field(2, ge=1)
    """Windows of pretraining text per step."""
    train: PpoTraining = PpoTraining()


def work(s: PpoSettings, context: StageContext) -> dict[str, Any]:
    """Run PPO and write the policy."""
    if s.kept > s.answers or s.train.batch % s.kept:
        raise UserError(
            f"ppo.kept={s.kept} must not exceed ppo.answers={s.answers} and must divide "
            f"ppo.train.batch={s.train.batch}, the number of answers learnt from in a step."
        )
    device = best_device()
    policy, tokenizer = load_decoder(context.inputs["model"])
    reference, _ = load_decoder(context.inputs["model"])
    reward, reward_tokenizer = load_scorer(context.inputs["reward"])
    value, _ = load_scorer(context.inputs["reward"])
    # read anywhere but at an answer's end, a reward model's scores are far from what answers are worth
    torch.nn.init.zeros_(value.score.weight)
    if reward.config.vocabulary != policy.config.vocabulary or reward_tokenizer.special != tokenizer.special:
        raise UserError("The reward model has another vocabulary than the policy: use models of one run.")
    models = ActorCritic(policy, value).to(device)
    reference.to(device).requires_grad_(False)
    reward.to(device).requires_grad_(False)
    quantiles = read_scale(context.inputs["reward"] / SCALE)

    items = read_conversations(context.inputs["data"])
    prompts = [tokenizer.encode_conversation(i["messages"][:-1], True).ids for i in items]
    limit = policy.config.context_length - s.max_tokens
    prompts = [p for p in prompts if len(p) <= limit]
    if not prompts:
        raise UserError(f"No prompt leaves room for {s.max_tokens} tokens: lower ppo.max_tokens.")
    tokens = read_tokens(context.inputs["tokens"], tokenizer.vocabulary_size)
    windows = Windows(
        tokens,
        policy.config.context_length,
        s.ptx_batch,
        s.train.micro_batch,
        context.seed,
        share=s.ptx_coefficient,
    )

    def ptx(step: int) -> list[Batch]:
        return windows.batches(step) if s.ptx_coefficient > 0 else []

    control = AdaptiveKL(s.kl_coefficient, s.kl_target, s.kl_horizon)
    source = Rollouts(
        models,
        reference,
        RewardScale(reward, quantiles, s.unended_penalty),
        tokenizer,
        prompts,
        sampling=Sampling(max_tokens=s.max_tokens, temperature=s.temperature),
        control=control,
        batch=s.train.batch,
        micro_batch=s.train.micro_batch,
        answers=s.answers,
        kept=s.kept,
        passes=s.passes,
        gamma=s.gamma,
        lam=s.lam,
        precision=s.train.precision,
        seed=context.seed,
        sameness_penalty=s.sameness_penalty,
        kl_stop=s.kl_stop * s.kl_target,
        ptx=ptx,
    )
    trainer = Trainer(
        models,
        PPO(s.clip, s.value_coefficient, s.temperature, reference, control),
        source,
        s.train,
        context,
        steps=s.train.steps,
        learning_rate=s.train.learning_rate,
        rate_factors={"value.": s.value_rate},
    )
    trainer.fit()
    save_model(policy, tokenizer, context.folder / "model")
    trainer.finish()
    lines = (context.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    first, last = steps[0], steps[-5:]

    def mean(name: str) -> float:
        return round(float(sum(step[name] for step in last)) / len(last), 4)

    if source.done():
        say(f"  ended after {len(steps)} steps, the KL having come to {s.kl_stop:.0%} of its target")
    say(f"  reward {first['reward']:.2f} → {mean('reward'):.2f}, KL {mean('kl'):.2f} of {s.kl_target:g} nats")
    return {
        "steps": len(steps),
        "reward_first": round(first["reward"], 4),
        "reward_last": mean("reward"),
        "kl_last": mean("kl"),
        "kl_target": s.kl_target,
        "temperature": s.temperature,
        "length_last": mean("length"),
        "entropy_last": mean("entropy"),
        "ratio_deviation_first_pass": max(step["ratio_deviation"] for step in steps),
        "approxkl_first_pass": max(step["approxkl"] for step in steps),
        "clipfrac_first_pass": max(step["clipfrac"] for step in steps),
        "alarms": source.alarms.rung,
    }


STAGE = Stage(
    "ppo",
    "Improve the answers against the reward model.",
    PpoSettings,
    (
        Need("model", "sft", "model", setting="model"),
        Need("data", "sft", "conversations-reward.jsonl"),
        Need("reward", "reward", "model", setting="reward"),
        Need("tokens", "pretrain", "train.bin"),
    ),
    work,
)
