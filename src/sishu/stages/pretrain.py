"""pretrain: a decoder from random weights on the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from sishu.batches.packed import Packed
from sishu.batches.tokens import Windows, document_start, read_ends, read_tokens, write_tokens
from sishu.config import Section
from sishu.console import say
from sishu.corpus.table import read_split
from sishu.models.decoder import Decoder
from sishu.models.folder import save_model
from sishu.nn.device import best_device
from sishu.objectives.language import next_token_of_bytes
from sishu.run import StageContext
from sishu.stages.shape import ModelSettings, derive_plan
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.held_out import bits_per_byte, held_out_nats
from sishu.train.parallel import rows_at_once
from sishu.train.trainer import Trainer, TrainSettings

GLANCE = 20_000
"""Held-out tokens looked at while training; the final figure uses all."""


class PretrainTraining(TrainSettings):
    """Muon for the matrices; the rate falls over the last part of the run."""

    batch: int = Field(4, ge=1)
    micro_batch: int = Field(4, ge=1)
    matrix_learning_rate: float | None = Field(0.01, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.02, ge=0, le=1)
    evaluate_every: int = Field(100, ge=1)
    cooldown: float = Field(0.6, ge=0, le=1)


class PretrainSettings(Section):
    """The model and its training."""

    model: ModelSettings = ModelSettings()
    documents: Literal["across", "separate"] = "across"
    """Rows of text cut across documents, which see those before them; or packed of documents that each see
    themselves alone, from position 0."""
    train: PretrainTraining = PretrainTraining()


def work(s: PretrainSettings, context: StageContext) -> dict[str, Any]:
    """Train, writing tokens, metrics, and the model folder."""
    tokenizer = Tokenizer.load(context.inputs["tokenizer"].parent)
    start, size = document_start(tokenizer), {"train": 0, "validation": 0}

    def texts(side: str) -> Iterator[str]:
        for document in read_split(context.inputs["documents"], side):
            size[side] += len(document.text.encode())
            yield document.text

    if context.processes.first:
        for side in ("train", "validation"):
            write_tokens(texts(side), tokenizer, context.folder / f"{side}.bin")
    size = context.processes.tell(size)  # the others wait for what is written
    train = read_tokens(context.folder / "train.bin", tokenizer.vocabulary_size)
    held_out = read_tokens(context.folder / "validation.bin", tokenizer.vocabulary_size)
    plan = derive_plan(s.model, s.train, tokenizer.vocabulary_size, len(train))
    for name, value, why in plan.reasons:
        say(f"  {name} = {value}: {why}")
    parameters = plan.config.parameters()
    say(f"  {parameters:,} parameters, {plan.tokens:,} tokens ({plan.tokens / len(train):.1f} passes)")

    model = Decoder(plan.config)
    model.initialise(context.seed)
    model.to(best_device())
    glance = held_out[:GLANCE]
    bytes_per_token = size["validation"] / max(1, len(held_out))
    separate = s.documents == "separate"

    def evaluate() -> dict[str, float]:
        nats, count = held_out_nats(
            model,
            glance,
            start,
            stride=s.model.context_length,
            precision=s.train.precision,
            separate=separate,
        )
        loss = nats / max(1, count)
        return {
            "validation_loss": loss,
            "validation_bits_per_byte": bits_per_byte(loss, 1) / bytes_per_token,
        }

    together = rows_at_once(s.train.batch, s.train.micro_batch, context)
    rows = s.model.context_length, s.train.batch, together, context.seed
    ends = read_ends(context.folder / "train.bin")
    trainer = Trainer(
        model,
        next_token_of_bytes(size["train"] / len(train)),
        Packed(train, ends, *rows) if separate else Windows(train, *rows),
        s.train,
        context,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        evaluate=evaluate,
    )
    trainer.fit()
    nats, _ = held_out_nats(
        model,
        held_out,
        start,
        stride=s.model.context_length // 2,
        precision=s.train.precision,
        separate=separate,
    )
    trainer.finish(lambda whole: save_model(whole, tokenizer, context.folder / "model"))
    figures = {
        "parameters": parameters,
        "train_tokens": len(train),
        "tokens_seen": plan.tokens,
        "bytes_per_token": round(size["train"] / len(train), 4),
        "flops": 6 * plan.config.parameters() * plan.tokens,
        "validation_bits_per_byte": round(bits_per_byte(nats, max(1, size["validation"])), 5),
        "tokens_per_second": round(plan.tokens / context.seconds()),
    }
    say(f"  held-out text: {figures['validation_bits_per_byte']:.3f} bits per byte")
    return figures


STAGE = Stage(
    "pretrain",
    "Train a decoder from random weights on the corpus.",
    PretrainSettings,
    (
        Need("documents", "corpus", "documents.parquet"),
        Need("tokenizer", "tokenizer", "tokenizer.json"),
    ),
    work,
    together=True,
)
