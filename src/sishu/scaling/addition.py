"""addition: a decoder learns to add two numbers from examples. A task made up for small models.

A question is `d` digits, +, `d` digits, =; the answer is the sum with its lowest digit first, so that every
digit depends on what was read and on the carry just written (Lee et al. 2023, arXiv:2307.03381).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from sishu.batches.batch import IGNORED, Batch, Stateless
from sishu.config import Section
from sishu.models.decoder import Decoder
from sishu.nn.device import best_device
from sishu.objectives.language import next_token
from sishu.run import StageContext
from sishu.stages.shape import ModelSettings, derive_plan
from sishu.stages.stage import Stage
from sishu.train.trainer import Trainer, TrainSettings

Pairs = npt.NDArray[np.int64]

PLUS, EQUALS, VOCABULARY = 10, 11, 12
"""Tokens behind the ten digits, and how many there are."""


class AdditionTraining(TrainSettings):
    """As in pretraining, on short rows and at rates that do not follow the width."""

    steps: int | None = Field(600, ge=1)
    batch: int = Field(64, ge=1)
    micro_batch: int = Field(64, ge=1)
    learning_rate: float | None = Field(0.01, gt=0)
    matrix_learning_rate: float | None = Field(0.03, gt=0)
    warmup: float = Field(0.02, ge=0, le=1)
    cooldown: float = Field(0.6, ge=0, le=1)
    evaluate_every: int = Field(100, ge=1)


class AdditionSettings(Section):
    """The task, the model and its training."""

    digits: int = Field(2, ge=1, le=9)
    """Of each of the two numbers."""
    questions: int = Field(1000, ge=1)
    """Pairs kept out of training, to be asked; at most half of all there are."""
    model: ModelSettings = ModelSettings(depth=2, heads=4, kv_heads=4, context_length=32)
    """Four heads whatever the width: the digits of both numbers and the carry are looked at together, and
    models with one head learnt late or not at all."""
    train: AdditionTraining = AdditionTraining()


class Accuracy(NamedTuple):
    """How well the questions are answered."""

    exact: float
    """Share of answers of which every digit is right."""
    digits: float
    """Share of digits that are right, those before them given."""
    log_likelihood: float
    """Mean log-probability of a right digit, those before it given, in nats."""


def encode(pairs: Pairs, digits: int) -> Pairs:
    """Pairs (N, 2) of numbers -> rows of tokens (N, 3·digits + 3), question and answer."""
    places = 10 ** np.arange(digits + 1)
    a, b = (pairs[:, side, None] // places[digits - 1 :: -1] % 10 for side in (0, 1))
    answer = pairs.sum(1)[:, None] // places % 10
    signs = [np.full((len(pairs), 1), sign) for sign in (PLUS, EQUALS)]
    return np.concatenate([a, signs[0], b, signs[1], answer], axis=1)


def question_length(digits: int) -> int:
    """Tokens before the answer."""
    return 2 * digits + 2


def held_out(digits: int, questions: int, seed: int) -> Pairs:
    """Different pairs (N, 2) that no training sees, as many as asked for or half of all."""
    every = 10 ** (2 * digits)
    rng = np.random.default_rng([seed, 0])
    # drawn with room for doubles; of a small task, a permutation
    few = every < 4 * questions
    codes = rng.permutation(every) if few else rng.integers(0, every, 2 * questions)
    return _pairs(np.array(list(dict.fromkeys(codes.tolist())))[: min(questions, every // 2)], digits)


class Additions(Stateless):
    """Fresh pairs for every step, none of them held out."""

    def __init__(self, digits: int, held: Pairs, batch: int, micro_batch: int, seed: int) -> None:
        self.digits, self.batch, self.micro_batch, self.seed = digits, batch, micro_batch, seed
        self.held = held[:, 0] * 10**digits + held[:, 1]

    def pairs(self, step: int) -> Pairs:
        """The pairs (N, 2) of one step."""
        rng, found = np.random.default_rng([self.seed, 1, step]), np.empty(0, dtype=np.int64)
        while len(found) < self.batch:
            codes = rng.integers(0, 10 ** (2 * self.digits), self.batch)
            found = np.concatenate([found, codes[~np.isin(codes, self.held)]])
        return _pairs(found[: self.batch], self.digits)

    def batches(self, step: int) -> list[Batch]:
        """Batches with `ids` and `targets`, both (B, T) int64; only the answer is a target."""
        rows = torch.from_numpy(encode(self.pairs(step), self.digits))
        targets = rows[:, 1:].clone()
        targets[:, : question_length(self.digits) - 1] = IGNORED
        parts = zip(*(torch.split(x, self.micro_batch) for x in (rows[:, :-1], targets)), strict=True)
        return [
            Batch({"ids": ids, "targets": wanted}, share=len(ids) / len(rows), kind="additions")
            for ids, wanted in parts
        ]


@torch.no_grad()
def accuracy(model: Decoder, held: Pairs, digits: int) -> Accuracy:
    """Asks all questions at once. An answer counts as right where each digit is the likeliest behind the
    right ones before it: just then is it what the model writes when it always takes the likeliest."""
    rows = torch.from_numpy(encode(held, digits)).to(model.embedding.weight.device)
    at = question_length(digits) - 1
    log_p_BTV: Tensor = model(rows[:, :-1])[:, at:].float().log_softmax(-1)
    wanted_BT = rows[:, at + 1 :]
    right_BT = log_p_BTV.argmax(-1) == wanted_BT
    likely = log_p_BTV.gather(-1, wanted_BT[..., None]).double().mean()
    return Accuracy(float(right_BT.all(-1).double().mean()), float(right_BT.double().mean()), float(likely))


def work(s: AdditionSettings, context: StageContext) -> dict[str, Any]:
    """Train, and ask the questions that were kept out."""
    held = held_out(s.digits, s.questions, seed=0)  # the same for every seed
    plan = derive_plan(s.model, s.train, VOCABULARY, 0)
    model = Decoder(plan.config)
    model.initialise(context.seed)
    model.to(best_device())

    def evaluate() -> dict[str, float]:
        found = accuracy(model, held, s.digits)
        return {"validation_loss": -found.log_likelihood, "exact_match": found.exact}

    source = Additions(s.digits, held, s.train.batch, s.train.micro_batch, context.seed)
    trainer = Trainer(
        model,
        next_token,
        source,
        s.train,
        context,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        evaluate=evaluate,
    )
    trainer.fit()
    found = accuracy(model, held, s.digits)
    trainer.finish()
    return {
        "parameters": plan.config.parameters(),
        "weights": plan.config.parameters(embedding=False),
        "examples": plan.steps * s.train.batch,
        "exact_match": found.exact,
        "digit_accuracy": found.digits,
        "log_likelihood": round(found.log_likelihood, 7),
    }


def _pairs(codes: Pairs, digits: int) -> Pairs:
    return np.stack([codes // 10**digits, codes % 10**digits], axis=1)


STAGE = Stage("addition", "A decoder learns to add two numbers.", AdditionSettings, (), work)
