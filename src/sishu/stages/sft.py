"""sft: the base model learns to answer, from conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from sishu.batches.conversations import (
    Conversations,
    encode_all,
    in_micro_batches,
    read_conversations,
    write_conversations,
)
from sishu.config import Section
from sishu.console import UserError, say
from sishu.corpus.lessons.lessons import conversation, make_lessons, renamed
from sishu.corpus.pipeline.split import is_held_out
from sishu.corpus.read.warc import read_pages
from sishu.files import write_atomic
from sishu.models.decoder import Decoder
from sishu.models.folder import load_decoder, save_model
from sishu.nn.device import Precision, autocast, best_device
from sishu.objectives.language import next_token, token_losses
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.chat import Conversation
from sishu.train.parallel import rows_at_once
from sishu.train.trainer import Trainer, TrainSettings

GLANCE = 256
"""Held-out conversations looked at while training; the final figure uses all."""


class SftTraining(TrainSettings):
    """AdamW alone, gently, unless the matrices are given a rate for Muon."""

    batch: int = Field(64, ge=1)
    micro_batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)


class SftSettings(Section):
    """The conversations and the training."""

    data: Path | None = None
    """Conversations as JSONL, one object with `messages` a line; when not given, questions and answers are
    made from the crawled documentation pages."""
    model: Path | None = None
    """A model folder to start from, instead of this run's pretrained one."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of the groups (modules, or single conversations) kept for evaluation."""
    for_reward: float = Field(0.0, ge=0, lt=1)
    """Share of the remaining groups left to the reward model and PPO, which then judge and improve answers
    about things that the assistant was not taught; with 0 they use what it was taught."""
    renamed: int = Field(2, ge=0)
    """Further copies of every lesson under made-up names, so that the model learns to take the name from the
    question; only for questions made from documentation."""
    epochs: float = Field(1.0, gt=0)
    """Passes over conversations and copies, unless train.steps says otherwise."""
    train: SftTraining = SftTraining()


def split(
    items: list[dict[str, Any]], share: float, salt: str = ""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rest and the `share` taken out; those of one group stay on one side, and neither is empty."""
    if len(items) < 2:
        raise UserError("Fine-tuning needs at least two conversations for each use: to learn, to evaluate.")
    keys = [salt + str(item.get("group") or item["messages"]) for item in items]
    out = [is_held_out(key, share) for key in keys]
    if all(out) or not any(out):
        count = min(max(1, round(share * len(items))), len(items) - 1)
        out = [i >= len(items) - count for i in range(len(items))]
    rest = [item for item, taken in zip(items, out, strict=True) if not taken]
    return rest, [item for item, taken in zip(items, out, strict=True) if taken]


@torch.no_grad()
def answer_loss(model: Decoder, rows: list[Conversation], pad: int, precision: Precision) -> float:
    """Mean nats per token of the assistant's words."""
    device, total, count = next(model.parameters()).device, 0.0, 0
    for batch in in_micro_batches(rows, pad, 32):
        with autocast(device, precision):
            losses = token_losses(model, batch["ids"].to(device), batch["targets"].to(device))
        total, count = total + float(losses.double().sum()), count + losses.numel()
    return total / max(1, count)


def work(s: SftSettings, context: StageContext) -> dict[str, Any]:
    """Fine-tune on the assistant's words only."""
    source = context.inputs["data"]
    if s.data is None:
        lessons = make_lessons(read_pages(source))
        items: list[dict[str, Any]] = [dict(conversation(lesson)) for lesson in lessons]
        if not items:
            raise UserError(
                "The crawled pages hold no documentation to make questions from: give conversations "
                "with sft.data=FILE.jsonl."
            )
    else:
        items = read_conversations(source)
    learnable, held_out = split(items, s.held_out)
    train, for_reward = split(learnable, s.for_reward, "reward/") if s.for_reward else (learnable, learnable)
    model, tokenizer = load_decoder(context.inputs["model"])
    if s.data is None:
        taught = {item["group"] for item in train}
        named = [lesson for lesson in lessons if lesson.group in taught and lesson.kind != "topic"]
        tokens = [tokenizer.decode([i]) for i in range(tokenizer.vocabulary_size)]
        for copy in range(s.renamed):
            copies = renamed(named, f"{context.seed}/{copy}", tokens)
            train = train + [dict(conversation(lesson)) for lesson in copies]
    for name, some in (("train", train), ("reward", for_reward), ("validation", held_out)):
        if context.processes.first:
            write_atomic(context.folder / f"conversations-{name}.jsonl", write_conversations(some))

    model.to(best_device())
    rows = encode_all(train, tokenizer, model.config.context_length)
    held_rows = encode_all(held_out, tokenizer, model.config.context_length)
    if not rows or not held_rows:
        raise UserError(
            f"No conversation fits the model's context of {model.config.context_length} tokens: shorten them "
            "or train with a larger model.context_length."
        )
    steps = s.train.steps or max(1, round(s.epochs * len(rows) / s.train.batch))
    say(f"  {len(rows):,} conversations, {len(held_rows):,} held out, {steps} steps")

    def evaluate() -> dict[str, float]:
        return {"validation_loss": answer_loss(model, held_rows[:GLANCE], tokenizer.pad, s.train.precision)}

    together = rows_at_once(s.train.batch, s.train.micro_batch, context)
    trainer = Trainer(
        model,
        next_token,
        Conversations(rows, tokenizer.pad, s.train.batch, together, context.seed),
        s.train,
        context,
        steps=steps,
        learning_rate=s.train.learning_rate,
        evaluate=evaluate,
    )
    trainer.fit()
    figures = {
        "conversations": len(rows),
        "held_out_conversations": len(held_rows),
        "left_for_reward": len(for_reward),
        "left_out_too_long": len(train) + len(held_out) - len(rows) - len(held_rows),
        "validation_loss": round(answer_loss(model, held_rows, tokenizer.pad, s.train.precision), 5),
    }
    trainer.finish(lambda whole: save_model(whole, tokenizer, context.folder / "model"))
    say(f"  held-out answers: {figures['validation_loss']:.3f} nats per token")
    return figures


STAGE = Stage(
    "sft",
    "Teach the base model to answer, from conversations.",
    SftSettings,
    (
        Need("data", "crawl", "pages.warc.gz", setting="data"),
        Need("model", "pretrain", "model", setting="model"),
    ),
    work,
    together=True,
)
