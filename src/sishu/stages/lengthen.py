"""lengthen: a model learns to read further than it was trained to, by a little more training at the longer
window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sishu.batches.tokens import Ids, Windows, read_tokens, write_tokens
from sishu.config import Section
from sishu.console import UserError, say
from sishu.corpus.table import read_split
from sishu.models.config_file import empty
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import save_model
from sishu.models.longer import Stretch, longer
from sishu.models.open import open_decoder
from sishu.nn.device import Precision, best_device
from sishu.objectives.language import next_token
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.held_out import bits_per_byte, position_losses
from sishu.train.parallel import rows_at_once
from sishu.train.trainer import Trainer, TrainSettings

HELD_OUT, GLANCE = 65_536, 8_192
"""Held-out tokens that the figures look at, and those looked at while training."""


class LengthenTraining(TrainSettings):
    """AdamW alone, a few steps at a small rate: the weights know the language, they need only get used to the
    angles."""

    steps: int = Field(50, ge=1)
    batch: int = Field(4, ge=1)
    micro_batch: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup: float = Field(0.1, ge=0, le=1)
    evaluate_every: int = Field(10, ge=1)


class LengthenSettings(Section):
    """How much longer, by which angles, and the training."""

    model: Path | None = None
    """A model folder or GGUF file to start from, instead of this run's pretrained model."""
    factor: float = Field(4.0, gt=1)
    """How many times the model's present context."""
    kind: Stretch = "yarn"
    """How rotary angles are stretched (`sishu.nn.rotary.RopeScaling`)."""
    train: LengthenTraining = LengthenTraining()


def windows(tokens: Ids, length: int, most: int) -> Tensor:
    """Neighbouring windows of `length` + 1 ids, (N, length + 1), that hold at most `most` tokens together but
    are at least one. Raises UserError where the text is shorter than one window."""
    if len(tokens) <= length:
        raise UserError(
            f"The held-out text has {len(tokens):,} tokens and the longer window {length:,}: give more text, "
            "hold out more of it (corpus.held_out), or lower lengthen.factor."
        )
    count = min(max(1, most // length), (len(tokens) - 1) // length)
    rows = [np.asarray(tokens[i * length : (i + 1) * length + 1]).astype(np.int64) for i in range(count)]
    return torch.from_numpy(np.stack(rows))


def byte_sizes(tokenizer: Tokenizer, vocabulary: int) -> Tensor:
    """Bytes that each token stands for, (V,); 0 for special ones."""
    return torch.tensor([len(tokenizer.bytes_of(index)) for index in range(vocabulary)])


def bits_from(model: Decoder, rows_NT: Tensor, sizes_V: Tensor, start: int, precision: Precision) -> float:
    """Bits per byte of what stands at the positions from `start` on, given all before it; special tokens are
    context, not counted."""
    losses_NT = position_losses(model, rows_NT, precision=precision)[:, start:]
    sizes_NT = sizes_V[rows_NT[:, 1:]][:, start:]
    nats = float(losses_NT[sizes_NT > 0].double().sum())
    return bits_per_byte(nats, max(1, int(sizes_NT.sum())))


def stretched(model: Decoder, config: DecoderConfig) -> Decoder:
    """A decoder of the new shape over the same weights, which both then share."""
    new = empty(Decoder, config)
    new.load_state_dict(model.state_dict(), assign=True)
    return new


def work(s: LengthenSettings, context: StageContext) -> dict[str, Any]:
    """Stretch the angles, train at the longer window, and save the model folder."""
    model, tokenizer = open_decoder(context.inputs["model"])
    config, precision = longer(model.config, s.factor, s.kind), s.train.precision
    old, new = model.config.context_length, config.context_length
    for side in ("train", "validation"):
        texts = (document.text for document in read_split(context.inputs["documents"], side))
        if context.processes.first:
            write_tokens(texts, tokenizer, context.folder / f"{side}.bin")
    context.processes.wait()
    train = read_tokens(context.folder / "train.bin", tokenizer.vocabulary_size)
    held_out = read_tokens(context.folder / "validation.bin", tokenizer.vocabulary_size)
    rows, short = windows(held_out, new, HELD_OUT), windows(held_out, old, HELD_OUT)
    glance = rows[: max(1, GLANCE // new)]
    sizes, last = byte_sizes(tokenizer, config.vocabulary), new * 3 // 4
    say(
        f"  context {old:,} -> {new:,} tokens by {s.kind}; {s.train.steps:,} steps of {s.train.batch * new:,}"
    )

    def measured(one: Decoder) -> dict[str, float]:
        one.eval()
        far = bits_from(one, rows, sizes, last, precision)
        near = bits_from(one, short, sizes, 0, precision)
        return {"last_quarter": round(far, 5), "old_window": round(near, 5)}

    model.to(best_device())
    before = measured(model)
    model = stretched(model, config)
    untrained = measured(model)
    together = rows_at_once(s.train.batch, s.train.micro_batch, context)
    trainer = Trainer(
        model,
        next_token,
        Windows(train, new, s.train.batch, together, context.seed),
        s.train,
        context,
        steps=s.train.steps,
        learning_rate=s.train.learning_rate,
        evaluate=lambda: {"last_quarter": bits_from(model, glance, sizes, last, precision)},
    )
    trainer.fit()
    trained = measured(model)
    trainer.finish(lambda whole: save_model(whole, tokenizer, context.folder / "model"))
    say(f"  {'bits per byte of held-out text':<34}before  stretched  trained")
    for name, place in (
        ("last_quarter", f"last quarter of {new:,} tokens"),
        ("old_window", f"{old:,} tokens"),
    ):
        say(f"  {place:<34}{before[name]:6.3f}  {untrained[name]:9.3f}  {trained[name]:7.3f}")
    return {
        "old_context": old,
        "context": new,
        "tokens_seen": s.train.steps * s.train.batch * new,
        "bits_per_byte_before": before,
        "bits_per_byte_untrained": untrained,
        "bits_per_byte": trained,
    }


STAGE = Stage(
    "lengthen",
    "Teach a model to read a longer context.",
    LengthenSettings,
    (
        Need("model", "pretrain", "model", setting="model"),
        Need("documents", "corpus", "documents.parquet"),
    ),
    work,
    together=True,
)
