"""continue_pretrain: an open or earlier model goes on reading, in the text of a field and, so that it keeps
what it knew, in general text beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from sishu.batches.mixture import Mixture, whole_weights
from sishu.batches.tokens import Ids, Windows, read_tokens, write_tokens
from sishu.config import Section
from sishu.console import UserError, counted, say
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.pipeline.split import split_documents
from sishu.corpus.read.sources import read_documents_or_pages
from sishu.corpus.table import SPLITS, read_split
from sishu.files import dump_json, read_json, write_atomic
from sishu.generate.rehearsal import rehearse
from sishu.models.decoder import Decoder
from sishu.models.folder import save_model
from sishu.models.open import open_decoder
from sishu.nn.device import Precision, best_device
from sishu.objectives.language import next_token
from sishu.run import StageContext
from sishu.stages.lengthen import bits_from, byte_sizes
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.parallel import rows_at_once
from sishu.train.schedule import Schedule
from sishu.train.trainer import Trainer, TrainSettings

DOCUMENTS = "documents.parquet"
HELD_OUT, GLANCE = 16_384, 4_096
"""Held-out tokens of each kind of text that the figures look at, and those looked at while training."""
GENERAL_HELD_OUT = 0.2
"""Share of the general text that is never replayed, so that forgetting can be measured on it."""


class ContinueTraining(TrainSettings):
    """AdamW. The rate rises once more and falls once more, from a peak below that of pretraining (Ibrahim et
    al. 2024, arXiv:2403.08763)."""

    batch: int = Field(16, ge=1)
    micro_batch: int = Field(4, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    schedule: Schedule = "cosine"
    warmup: float = Field(0.1, ge=0, le=1)
    final: float = Field(0.1, ge=0, le=1)
    evaluate_every: int = Field(10, ge=1)
    checkpoint_seconds: float = Field(120.0, ge=0)  # an open model's are gigabytes


class Replay(Section):
    """General text that is read again, beside that of the field."""

    data: Path | None = None
    """Text such as the model learnt from: a file or folder of texts, or a run's documents.parquet."""
    share: float = Field(0.2, ge=0, lt=1)
    """Of all rows of the training, this share is general text; with 0 it is only measured."""
    generated: int = Field(0, ge=0)
    """Without `data`: so many tokens that the model writes itself before it learns stand for it."""

    @field_validator("share")
    @classmethod
    def _in_whole_rows(cls, share: float) -> float:
        whole_weights([1 - share, share])
        return share


class ContinuePretrainSettings(Section):
    """Which model, how much of the text of the field (the corpus stage's), and what beside it."""

    model: Path | None = None
    """A model folder or GGUF file to start from, instead of this run's pretrained model: an open one, or that
    of an earlier run of this stage."""
    context_length: int = Field(512, ge=2)
    """Tokens of a row; the model keeps its own context, which is the most that is taken."""
    passes: float = Field(1.0, gt=0)
    """How often the text of the field is read, where `train.steps` does not say how long."""
    replay: Replay = Replay()
    train: ContinueTraining = ContinueTraining()


def general_texts(path: Path) -> dict[str, Iterable[str]]:
    """General text by side, "train" and "validation": as a run's corpus stage split it, or else about
    `GENERAL_HELD_OUT` of the documents, or of the only one, held out. Raises UserError for web pages, which
    are not text yet."""
    if path.name == DOCUMENTS:
        return {side: (document.text for document in read_split(path, side)) for side in SPLITS}
    documents: list[Document] = []
    for item in read_documents_or_pages(path, lambda line: say(f"  {line}")):
        if isinstance(item, Page):
            raise UserError(
                f"{path} holds web pages: make text of them with `sishu corpus data={path} --run FOLDER` "
                f"and give FOLDER/corpus/{DOCUMENTS} as continue_pretrain.replay.data."
            )
        documents.append(item)
    return _split(documents)


def generated_texts(texts: Iterable[str]) -> dict[str, Iterable[str]]:
    """The same of texts without an origin."""
    urls = ((f"generated#{number}", text) for number, text in enumerate(texts))
    return _split([Document(document_id(url), url, "", text) for url, text in urls if text.strip()])


def _split(documents: list[Document]) -> dict[str, Iterable[str]]:
    sides = zip(SPLITS, split_documents(documents, GENERAL_HELD_OUT), strict=True)
    return {side: [document.text for document in part] for side, part in sides}


def spread(tokens: Ids, length: int, most: int, what: str) -> Tensor:
    """Windows of `length` + 1 ids at even distances over a row of tokens, (N, length + 1), which overlap in
    one id at most and hold at most `most` tokens together, but are at least one. Raises UserError where there
    is not enough of this text (`what`) for one."""
    places = (len(tokens) - 1) // length
    if places < 1:
        raise UserError(
            f"The held-out {what} text has {len(tokens):,} tokens, less than a row of {length:,}: give more "
            "of it, or lower continue_pretrain.context_length."
        )
    count = min(max(1, most // length), places)
    starts = [i * places // count * length for i in range(count)]
    rows = [np.asarray(tokens[start : start + length + 1]).astype(np.int64) for start in starts]
    return torch.from_numpy(np.stack(rows))


class Measure:
    """Bits per byte of held-out text of each kind: how well the field is known, and what was forgotten.

    Rows start with nothing before them, so the figures are those of a context of one row."""

    def __init__(self, rows: Mapping[str, Tensor], sizes_V: Tensor, precision: Precision) -> None:
        """`rows` are ids by the kind of text, (N, T + 1)."""
        self.rows, self.sizes, self.precision = rows, sizes_V, precision

    def __call__(self, model: Decoder, most: int = HELD_OUT) -> dict[str, float]:
        """By the kind of text, looking at `most` tokens of each at most, at even distances."""
        found = {}
        for name, rows_NT in self.rows.items():
            count = min(len(rows_NT), max(1, most // (rows_NT.shape[1] - 1)))
            some = rows_NT[[i * len(rows_NT) // count for i in range(count)]]
            found[name] = bits_from(model, some, self.sizes, 0, self.precision)
        return found


def write_kinds(s: ContinuePretrainSettings, context: StageContext, tokenizer: Tokenizer) -> list[str]:
    """Write the text of the field ("domain") and, where there is some, the general text as tokens, side by
    side; the kinds there are. Raises UserError where one has no text."""
    documents = context.inputs["documents"]
    kinds: dict[str, Mapping[str, Iterable[str]]] = {
        "domain": {side: (document.text for document in read_split(documents, side)) for side in SPLITS}
    }
    if (general := find_general(s, context)) is not None:
        kinds["general"] = general
    for name, texts in kinds.items():
        for side in SPLITS:
            if not write_tokens(texts[side], tokenizer, tokens_file(context.folder, name, side)):
                raise UserError(f"There is no {name} text for {side}: give more of it.")
    return list(kinds)


def tokens_file(folder: Path, kind: str, side: str) -> Path:
    """Where the tokens of a kind of text are."""
    return folder / f"{kind}-{side}.bin"


def find_general(s: ContinuePretrainSettings, context: StageContext) -> dict[str, Iterable[str]] | None:
    """The general text by side, the user's or the model's own; None where there is neither."""
    if "replay.data" in context.inputs:
        return general_texts(context.inputs["replay.data"])
    if s.replay.generated:
        kept = context.folder / "generated.json"  # so that a killed run need not write it all again
        if not kept.is_file():
            say("  the model writes text that stands for what it learnt from")
            made = rehearse(context.inputs["model"], s.replay.generated, s.context_length, context.seed)
            write_atomic(kept, dump_json({"texts": made}))
        return generated_texts(read_json(kept)["texts"])
    say(
        "  no general text is given: nothing keeps what the model knew, and what it forgets is not measured; "
        "give text such as it learnt from (continue_pretrain.replay.data=FILE), or let it write some itself "
        "(continue_pretrain.replay.generated=50000)"
    )
    return None


def mixture_of(
    s: ContinuePretrainSettings, train: Mapping[str, Ids], length: int, context: StageContext
) -> tuple[Mixture, int]:
    """Rows of the kinds of text in `train` ("domain", "general"), and the steps to take."""
    share = s.replay.share if "general" in train else 0.0
    weights = whole_weights([1 - share, share])
    sources = [Windows(tokens, length, 1, 1, context.seed) for tokens in train.values()]
    together = rows_at_once(s.train.batch, s.train.micro_batch, context)
    mixture = Mixture(sources, weights[: len(sources)], s.train.batch, together, context.seed)
    rows = s.passes * sources[0].per_epoch * mixture.period / weights[0]
    return mixture, s.train.steps or math.ceil(rows / s.train.batch)


def measured_before(model: Decoder, measure: Measure, context: StageContext) -> dict[str, float]:
    """What the model knows before it learns; a stage that goes on after a kill has it written down."""
    file = context.folder / "before.json"
    known = context.processes.tell(read_json(file) if file.is_file() else None)
    if known is None:
        known = measure(model)
        if context.processes.first:
            write_atomic(file, dump_json(known))
    return {name: float(value) for name, value in known.items()}


def work(s: ContinuePretrainSettings, context: StageContext) -> dict[str, Any]:
    """Measure, train on the mixture, measure again, and save the model folder."""
    model, tokenizer = open_decoder(context.inputs["model"])
    length = min(s.context_length, model.config.context_length)
    kinds = write_kinds(s, context, tokenizer) if context.processes.first else []
    kinds = context.processes.tell(kinds)  # the others wait for what is written

    def tokens(side: str) -> dict[str, Ids]:
        files = {kind: tokens_file(context.folder, kind, side) for kind in kinds}
        return {kind: read_tokens(file, tokenizer.vocabulary_size) for kind, file in files.items()}

    train = tokens("train")
    held_out = {kind: spread(ids, length, HELD_OUT, kind) for kind, ids in tokens("validation").items()}
    measure = Measure(held_out, byte_sizes(tokenizer, model.config.vocabulary), s.train.precision)
    mixture, steps = mixture_of(s, train, length, context)
    rows = dict(zip(train, mixture.given(steps), strict=True))
    for name, count in rows.items():
        passes = count * length / len(train[name])
        say(f"  {name} text: {count * length:,} tokens, {passes:.2g} passes over {len(train[name]):,}")
    say(f"  {counted(steps, 'step')} of {s.train.batch * length:,} tokens")

    model.to(best_device()).eval()
    before = measured_before(model, measure, context)
    trainer = Trainer(
        model,
        next_token,
        mixture,
        s.train,
        context,
        steps=steps,
        learning_rate=s.train.learning_rate,
        evaluate=lambda: {f"{k}_bits_per_byte": v for k, v in measure(model, GLANCE).items()},
    )
    trainer.fit()
    model.eval()
    after = measure(model)
    trainer.finish(lambda whole: save_model(whole, tokenizer, context.folder / "model"))
    change = {name: after[name] / before[name] - 1 for name in before}
    say(f"  {'bits per byte of held-out text':<34}before   after  change")
    for name in before:
        say(f"  {name:<34}{before[name]:6.3f}  {after[name]:6.3f}  {change[name]:+6.1%}")
    return {
        "parameters": model.config.parameters(),
        "context_length": length,
        "steps": steps,
        "tokens_seen": {name: count * length for name, count in rows.items()},
        "train_tokens": {name: len(tokens) for name, tokens in train.items()},
        "general_text": _whose(s, kinds),
        "bits_per_byte_before": _rounded(before),
        "bits_per_byte": _rounded(after),
        "change": _rounded(change),
    }


def _whose(s: ContinuePretrainSettings, kinds: list[str]) -> str:
    return "none" if "general" not in kinds else "generated" if s.replay.data is None else "given"


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in figures.items()}


STAGE = Stage(
    "continue_pretrain",
    "Let a model go on reading, in the text of a field beside general text.",
    ContinuePretrainSettings,
    (
        Need("model", "pretrain", "model", setting="model"),
        Need("documents", "corpus", "documents.parquet"),
    ),
    work,
    files=("replay.data",),
    together=True,
)
