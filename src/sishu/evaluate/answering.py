"""What can be said of a set of answers: whether they end, keep the form, repeat, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sishu.batches.batch import pad_right
from sishu.corpus.lessons.lessons import in_asked_form
from sishu.generate.alarms import distinct, repeats
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.language import log_probabilities
from sishu.objectives.ranking import calibrated, rewards_of


def answer_prompts(
    engine: Engine, prompts: Sequence[list[int]], sampling: Sampling, batch: int = 128
) -> list[Completion]:
    """One answer per prompt, in batches."""
    answers: list[Completion] = []
    for at in range(0, len(prompts), batch):
        answers += engine.complete(prompts[at : at + batch], sampling)
    return answers


def summary(answers: Sequence[Completion]) -> dict[str, float]:
    """Shares of answers that end by themselves, that also have the asked form, that repeat; how many of
    their phrases differ (`distinct`); mean length in tokens."""
    count = len(answers)
    ended = [a for a in answers if a.finish == "stop"]
    return {
        "ended": round(len(ended) / count, 4),
        "in_form": round(sum(in_asked_form(a.text) for a in ended) / count, 4),
        "repetition": round(sum(repeats(a.ids) for a in answers) / count, 4),
        "distinct": round(distinct([a.ids for a in answers]), 4),
        "length": round(sum(len(a.ids) for a in answers) / count, 2),
    }


def named(answers: Sequence[Completion], names: Sequence[str]) -> float:
    """Share of answers that begin with the name of what was asked about, in backticks, perhaps with a
    signature."""
    right = [a.text.startswith((f"`{name}`", f"`{name}(")) for a, name in zip(answers, names, strict=True)]
    return round(sum(right) / len(right), 4)


@torch.no_grad()
def reward_answers(
    model: Scorer,
    quantiles: Sequence[float],
    prompts: Sequence[list[int]],
    answers: Sequence[Completion],
    pad: int,
) -> dict[str, float]:
    """Mean and deviation of the calibrated rewards and of the raw ones, with the answers' repetition, variety
    and length."""
    device = next(model.parameters()).device
    rewards = []
    pairs = list(zip(prompts, answers, strict=True))
    for at in range(0, len(pairs), 64):
        # the engine draws one token past the context, which no model can read
        some, limit = pairs[at : at + 64], model.config.context_length
        rows = [[*prompt, *answer.ids][:limit] for prompt, answer in some]
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        rewards.append(rewards_of(model, pad_right(rows, pad).to(device), last).cpu())
    raw = torch.cat(rewards)
    scaled = calibrated(raw, raw.new_tensor(quantiles))
    about = summary(answers)
    return {
        "mean": round(float(scaled.mean()), 4),
        "std": round(float(scaled.std()), 4),
        "raw_mean": round(float(raw.mean()), 4),
        "raw_std": round(float(raw.std()), 4),
        "repetition": about["repetition"],
        "distinct": about["distinct"],
        "length": about["length"],
    }


@torch.no_grad()
def divergence(
    policy: Decoder,
    reference: Decoder,
    prompts: Sequence[list[int]],
    answers: Sequence[Completion],
    pad: int,
    temperature: float = 1.0,
) -> float:
    """Mean over the policy's answers, drawn at this temperature, of log π - log π_ref, in nats per answer."""
    device = next(policy.parameters()).device
    total = 0.0
    pairs = list(zip(prompts, answers, strict=True))
    for at in range(0, len(pairs), 64):
        some = pairs[at : at + 64]
        rows = [[*prompt, *answer.ids] for prompt, answer in some]
        ids = pad_right(rows, pad).to(device)
        place = torch.arange(1, ids.shape[1], device=device)
        starts = torch.tensor([len(prompt) for prompt, _ in some], device=device)
        ends = torch.tensor([len(row) for row in rows], device=device)
        mask = (place >= starts[:, None]) & (place < ends[:, None])
        policy_log_p, _ = log_probabilities(policy, ids, temperature, mask)
        reference_log_p, _ = log_probabilities(reference, ids, temperature, mask)
        total += float((policy_log_p - reference_log_p).sum())
    return round(total / max(1, len(pairs)), 4)
