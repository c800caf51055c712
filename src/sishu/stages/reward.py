"""reward: a model of which answer is better, from ranked answers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from sishu.batches.batch import Batch, shuffled
from sishu.batches.conversations import Rankings, ranking_batch, read_conversations
from sishu.config import Section
from sishu.console import UserError, progress, say
from sishu.corpus.lessons.lessons import damage
from sishu.corpus.lessons.likeness import Likeness
from sishu.files import dump_json, write_atomic
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.models.decoder import Scorer
from sishu.models.folder import load_decoder, save_model
from sishu.nn.device import autocast, best_device
from sishu.objectives.ranking import Ranking, quantiles, rewards_of
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.trainer import Trainer, TrainSettings

RANKS = ("documented", "nearer", "farther", "another's", "damaged")
"""How the answers to a prompt are ranked, best first: nearer and farther are two of the model's own."""

SAMPLED = [RANKS.index("nearer"), RANKS.index("farther")]

TOGETHER = 256
"""Prompts answered at a time, those of one temperature together."""

GLANCE = 100
"""Held-out prompts looked at while training; the final figure uses all."""

SCALE = "scale.json"
"""In the model's folder: the quantiles of its scores on sampled answers."""


class RewardTraining(TrainSettings):
    """Prompts per step; each brings all its ranked answers."""

    batch: int = Field(16, ge=1)
    micro_batch: int = Field(16, ge=1)
    """Prompts worked on at once; fewer need less memory and give the same gradient, but with all at once no
    answer is read twice."""
    learning_rate: float = Field(5e-4, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)
    evaluate_every: int = Field(100, ge=1)


class RewardSettings(Section):
    """The rankings and the training."""

    model: Path | None = None
    """A fine-tuned model folder to start from, instead of this run's."""
    data: Path | None = None
    """Conversations (JSONL) whose answers rank first, instead of this run's."""
    prompts: int = Field(5000, ge=2)
    """Training prompts to rank answers for."""
    held_out_prompts: int = Field(400, ge=1)
    """Held-out prompts to measure accuracy on."""
    max_tokens: int = Field(64, ge=1)
    """Longest answer sampled from the model."""
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0, 0.7), min_length=1)
    """Of the sampled answers, prompt by prompt in turn: the cooler ones show the phrases that the model
    falls back on, which PPO would otherwise find to be thought well of."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the prompts, unless train.steps says otherwise."""
    train: RewardTraining = RewardTraining()


def ranked_answers(
    items: list[dict[str, Any]],
    count: int,
    engine: Engine,
    max_tokens: int,
    seed: int,
    temperatures: Sequence[float] = (1.0,),
) -> list[dict[str, Any]]:
    """For up to `count` conversations: the prompt's ids and five answers as ids, best first (see `RANKS`).

    Two answers are sampled to each prompt, at the `temperatures` in turn, and ranked by `Likeness` to the
    documented one; where neither is nearer, as they were drawn. A prompt is left out where one of them is the
    documented one, there being nothing to rank.
    """
    tokenizer, limit = engine.tokenizer, engine.model.config.context_length
    order: list[int] = []
    prompts: list[list[int]] = []
    for index in shuffled(len(items), "ranked", seed):
        prompt = tokenizer.encode_conversation(items[index]["messages"][:-1], True).ids
        if len(prompt) < limit and len(order) < count:
            order.append(index)
            prompts.append(prompt)
    sampled: list[list[Completion]] = []
    with progress("answers to rank", len(prompts), "prompts") as bar:
        for at in range(0, len(prompts), TOGETHER):
            some = prompts[at : at + TOGETHER]
            made: list[list[Completion]] = [[] for _ in some]
            for turn, temperature in enumerate(temperatures[: len(some)]):
                how = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed * 7919 + at + turn)
                asked = [prompt for prompt in some[turn :: len(temperatures)] for _ in SAMPLED]
                answers = engine.complete(asked, how)
                made[turn :: len(temperatures)] = [
                    answers[i : i + len(SAMPLED)] for i in range(0, len(answers), len(SAMPLED))
                ]
            sampled += made
            bar.advance(len(some))
    ranked = []
    documented = [items[index]["messages"][-1]["content"] for index in order]
    likeness = Likeness(documented)
    for place, (index, prompt) in enumerate(zip(order, prompts, strict=True)):
        answer, other = documented[place], documented[(place + 1) % len(order)]
        broken = damage(answer, random.Random(f"{seed}/{index}"), other)
        nearness = [(-likeness(one.text, answer), turn) for turn, one in enumerate(sampled[place])]
        rows = [
            [*tokenizer.encode(answer), tokenizer.end],
            *(sampled[place][turn].ids for _, turn in sorted(nearness)),
            [*tokenizer.encode(other), tokenizer.end],
            [*tokenizer.encode(broken), tokenizer.end],
        ]
        # the model may say the same twice, which teaches nothing, but does no harm
        distinct = len({tuple(row) for row in rows}) == len(rows) - (rows[1] == rows[2])
        if distinct and max(map(len, rows)) + len(prompt) <= limit:
            ranked.append(
                {
                    "question": "".join(m["content"] for m in items[index]["messages"][-2:-1]),
                    "name": items[index].get("name", ""),
                    "prompt": prompt,
                    "answers": rows,
                }
            )
    return ranked


def full_rows(item: dict[str, Any]) -> list[list[int]]:
    """Prompt and answer together, one row an answer, best first."""
    return [item["prompt"] + answer for answer in item["answers"]]


@torch.no_grad()
def score(model: Scorer, rankings: list[dict[str, Any]], pad: int) -> torch.Tensor:
    """Raw rewards (prompts, answers), float32 throughout."""
    device = next(model.parameters()).device
    parts = []
    for at in range(0, len(rankings), 32):
        rows = [full_rows(item) for item in rankings[at : at + 32]]
        batch: Batch = ranking_batch(rows, pad, 1.0).to(device)
        with autocast(device, "fp32"):
            rewards = rewards_of(model, batch["ids"], batch["last"])
        parts.append(rewards.view(len(rows), -1).cpu())
    return torch.cat(parts)


def accuracy_by_pair(rewards: torch.Tensor) -> dict[str, float]:
    """Share of prompts in which the better answer of each pair of ranks scores higher."""
    return {
        f"{RANKS[better]} > {RANKS[worse]}": round(
            float((rewards[:, better] > rewards[:, worse]).float().mean()), 4
        )
        for better in range(len(RANKS))
        for worse in range(better + 1, len(RANKS))
    }


def load_rankings(path: Path) -> list[dict[str, Any]]:
    """Rankings written by this stage."""
    # not splitlines(), which also cuts at U+2028 and U+0085: JSON may hold both inside a string
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _make_once(path: Path, make: Any) -> list[dict[str, Any]]:
    """Rankings from `path`, made and written there first when it is not there."""
    if not path.exists():
        items = make()
        write_atomic(path, "".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items))
    return load_rankings(path)


def work(s: RewardSettings, context: StageContext) -> dict[str, Any]:
    """Sample answers, rank them, learn the ranking, and put the scores on a common scale."""
    decoder, tokenizer = load_decoder(context.inputs["model"])
    decoder.to(best_device())
    engine = Engine(decoder, tokenizer)
    sides = {}
    for side, count in (("train", s.prompts), ("validation", s.held_out_prompts)):
        source = context.inputs["data" if side == "train" else "held_out"]
        sides[side] = _make_once(
            context.folder / f"rankings-{side}.jsonl",
            lambda source=source, count=count: ranked_answers(
                read_conversations(source), count, engine, s.max_tokens, context.seed, s.temperatures
            ),
        )
    if not sides["train"] or not sides["validation"]:
        raise UserError("There are no answers to rank: the conversations are too long or all alike.")
    return _train(s, context, decoder, tokenizer, sides["train"], sides["validation"])


def _train(
    s: RewardSettings,
    context: StageContext,
    decoder: Any,
    tokenizer: Tokenizer,
    train: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
) -> dict[str, Any]:
    model = Scorer(decoder.config)
    model.start_from(decoder, context.seed)
    model.to(best_device())
    prompts = [full_rows(item) for item in train]
    steps = s.train.steps or max(1, round(s.epochs * len(prompts) / s.train.batch))
    say(
        f"  {len(train):,} prompts with {len(RANKS)} ranked answers, {len(held_out):,} held out, "
        f"{steps} steps"
    )

    def evaluate() -> dict[str, float]:
        pairs = accuracy_by_pair(score(model, held_out[:GLANCE], tokenizer.pad))
        return {"validation_accuracy": sum(pairs.values()) / len(pairs)}

    trainer = Trainer(
        model,
        Ranking(),
        Rankings(prompts, tokenizer.pad, s.train.batch, s.train.micro_batch, context.seed),
        s.train,
        context,
        steps=steps,
        learning_rate=s.train.learning_rate,
        evaluate=evaluate,
    )
    trainer.fit()
    sampled = score(model, train[:512], tokenizer.pad)[:, SAMPLED]
    scale = {"quantiles": quantiles(sampled.flatten())}
    pairs = accuracy_by_pair(score(model, held_out, tokenizer.pad))
    save_model(model, tokenizer, context.folder / "model")
    write_atomic(context.folder / "model" / SCALE, dump_json(scale))
    trainer.finish()
    accuracy = round(sum(pairs.values()) / len(pairs), 4)
    say(f"  held-out accuracy over all pairs: {accuracy:.1%}")
    return {
        "prompts": len(train),
        "held_out_prompts": len(held_out),
        "accuracy": accuracy,
        "accuracy_by_pair": pairs,
    }


STAGE = Stage(
    "reward",
    "Learn which answer is better, from ranked answers.",
    RewardSettings,
    (
        Need("model", "sft", "model", setting="model"),
        Need("data", "sft", "conversations-reward.jsonl", setting="data"),
        Need("held_out", "sft", "conversations-validation.jsonl", setting="data"),
    ),
    work,
)
