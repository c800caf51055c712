"""Rollouts: the policy answers prompts, the reward model scores, and advantages are worked out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sishu.batches.batch import Batch, draw, pad_right
from sishu.console import UserError, warn
from sishu.files import read_json
from sishu.generate.alarms import CollapseAlarms, distinct, repeats, sameness
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.models.decoder import Decoder, Scorer
from sishu.nn.device import Precision, autocast
from sishu.objectives.language import distributions, divergences, entropies, taken
from sishu.objectives.ppo import ActorCritic, AdaptiveKL, advantages, token_rewards, whiten
from sishu.objectives.ranking import calibrated, rewards_of
from sishu.tokenizer.tokenizer import Tokenizer


def read_scale(path: Path) -> list[float]:
    """The quantiles in a reward model's scale.json; raises UserError when it has none."""
    found = read_json(path).get("quantiles") if path.is_file() else None
    if not isinstance(found, list) or len(found) < 2:
        raise UserError(f"{path} does not say how to scale rewards: train the reward model again.")
    return [float(quantile) for quantile in found]


class RewardScale:
    """The reward model's scores, calibrated so that reference answers have mean 0 and deviation 1, with a
    penalty for an answer that does not end."""

    def __init__(self, model: Scorer, quantiles: Sequence[float], unended_penalty: float = 0.0) -> None:
        self.model, self.quantiles, self.unended_penalty = model, quantiles, unended_penalty

    @torch.no_grad()
    def __call__(self, ids_BT: Tensor, last_B: Tensor, ended_B: Tensor) -> Tensor:
        """Scores (B,) of rows of ids padded on the right, read at `last_B`."""
        raw_B = rewards_of(self.model, ids_BT, last_B).float()
        return calibrated(raw_B, raw_B.new_tensor(self.quantiles)) - self.unended_penalty * (~ended_B).float()


def furthest(scores_PK: Tensor, kept: int) -> Tensor:
    """The places of the `kept` outermost scores of each row, (P, kept): half of them the lowest, the rest
    the highest, in rising order."""
    order_PK = scores_PK.argsort(dim=1, stable=True)
    low = kept // 2
    return torch.cat([order_PK[:, :low], order_PK[:, scores_PK.shape[1] - kept + low :]], dim=1)


def above_prompt(worths: Sequence[float], answers: int) -> list[float]:
    """What answers are worth beyond the mean of all `answers` to their prompt, those to one prompt together:
    how well a prompt can be answered at all is nothing that the policy decides. An answer alone keeps its
    worth."""
    if answers == 1:
        return list(worths)
    worths_PK = torch.tensor(worths, dtype=torch.float64).view(-1, answers)
    return [float(worth) for worth in (worths_PK - worths_PK.mean(1, keepdim=True)).flatten()]


class Answered(NamedTuple):
    """One answer to one prompt: the reward model's score, how much of it other prompts are told too, and
    what it earns."""

    prompt: list[int]
    completion: Completion
    score: float
    sameness: float
    earned: float

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.completion.ids]


class Rollouts:
    """The source of PPO's batches. Each step answers fresh prompts with the policy as it is.

    Every prompt is answered `answers` times, and the `kept` best and worst of these are learnt from: to
    write and score an answer costs a fifth of learning from it, and the extremes tell most about what is
    worth saying (Xu et al. 2025, "Not All Rollouts are Useful", arXiv:2504.13818). An answer earns what it is
    worth beyond the mean of all to its prompt (as in RLOO, Ahmadian et al. 2024, arXiv:2402.14740, and GRPO,
    Shao et al. 2024, arXiv:2402.03300); the value model learns what is left. `batch` counts the answers
    learnt from. The source is done once a step's answers diverge by `kl_stop` nats.
    """

    def __init__(
        self,
        models: ActorCritic,
        reference: Decoder,
        reward: RewardScale,
        tokenizer: Tokenizer,
        prompts: Sequence[list[int]],
        *,
        sampling: Sampling,
        control: AdaptiveKL,
        batch: int,
        micro_batch: int,
        answers: int = 1,
        kept: int = 1,
        passes: int,
        gamma: float,
        lam: float,
        precision: Precision,
        seed: int,
        sameness_penalty: float = 0.0,
        kl_stop: float = math.inf,
        ptx: Callable[[int], list[Batch]],
    ) -> None:
        self.models, self.reference, self.reward = models, reference, reward
        self.tokenizer, self.prompts, self.sampling = tokenizer, prompts, sampling
        self.control, self.batch, self.micro_batch, self.passes = (
            control,
            batch,
            micro_batch,
            passes,
        )
        self.answers, self.kept = answers, kept
        self.gamma, self.lam, self.precision, self.seed, self.ptx = (
            gamma,
            lam,
            precision,
            seed,
            ptx,
        )
        self.kl_stop = kl_stop
        self.sameness_penalty = sameness_penalty
        self.engine = Engine(models.policy, tokenizer)
        self.alarms = CollapseAlarms(kl_limit=1.5 * control.target)
        self.figures: dict[str, float] = {}
        self.far = False

    def batches(self, step: int) -> list[Batch]:
        given = self._answer(step)
        places = furthest(torch.tensor([a.earned for a in given]).view(-1, self.answers), self.kept)
        kept = [
            given[row * self.answers + place] for row, some in enumerate(places.tolist()) for place in some
        ]
        kept.sort(key=lambda answered: len(answered.ids))
        parts = [self._measure(kept[i : i + self.micro_batch]) for i in range(0, len(kept), self.micro_batch)]
        self._note(given, parts)
        total = sum(int(p["mask"].sum()) for p in parts)
        return self._with_advantages(parts, total) + self.ptx(step)

    @torch.no_grad()
    def _answer(self, step: int) -> list[Answered]:
        """All answers of a step with their scores, those to one prompt together."""
        drawn = draw(len(self.prompts), self.batch // self.kept, step, "prompts", self.seed)
        chosen = [self.prompts[i] for i in drawn for _ in range(self.answers)]
        seeded = Sampling(
            self.sampling.max_tokens,
            temperature=self.sampling.temperature,
            seed=self.seed * 1_000_003 + step,
        )
        answers = self.engine.complete(chosen, seeded)
        rows = [[*prompt, *answer.ids] for prompt, answer in zip(chosen, answers, strict=True)]
        device = next(self.models.parameters()).device
        scores = [0.0] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for at in range(0, len(rows), self.micro_batch):
            some = by_length[at : at + self.micro_batch]
            ids = pad_right([rows[i] for i in some], self.tokenizer.pad).to(device)
            last = torch.tensor([len(rows[i]) - 1 for i in some], device=device)
            ended = torch.tensor([answers[i].finish == "stop" for i in some], device=device)
            with autocast(device, self.precision):
                found = self.reward(ids, last, ended)
            for i, score in zip(some, found.tolist(), strict=True):
                scores[i] = score
        prompt_of = [i // self.answers for i in range(len(rows))]
        same = sameness([answer.ids for answer in answers], prompt_of)
        worths = [a - self.sameness_penalty * b for a, b in zip(scores, same, strict=True)]
        earned = above_prompt(worths, self.answers)
        return [Answered(*one) for one in zip(chosen, answers, scores, same, earned, strict=True)]

    @torch.no_grad()
    def _measure(self, given: Sequence[Answered]) -> dict[str, Tensor]:
        device = next(self.models.parameters()).device
        ids = pad_right([a.ids for a in given], self.tokenizer.pad).to(device)
        place = torch.arange(1, ids.shape[1], device=device)
        starts = torch.tensor([len(a.prompt) for a in given], device=device)
        ends = torch.tensor([len(a.ids) for a in given], device=device)
        mask = (place >= starts[:, None]) & (place < ends[:, None])
        scores = torch.tensor([a.earned for a in given], device=device)
        with autocast(device, self.precision):
            log_p_NV = distributions(self.models.policy, ids, mask, self.sampling.temperature)
            reference_NV = distributions(self.reference, ids, mask, self.sampling.temperature)
            values = self.models.value(ids[:, :-1])
        return {
            "ids": ids,
            "mask": mask,
            "log_p": taken(log_p_NV, ids, mask),
            "values": values * mask,
            "rewards": token_rewards(scores, mask),
            "kl": divergences(log_p_NV, reference_NV),
            "entropy": entropies(log_p_NV),
        }

    def _with_advantages(self, parts: list[dict[str, Tensor]], total: int) -> list[Batch]:
        estimates = [advantages(p["rewards"], p["values"], p["mask"], self.gamma, self.lam) for p in parts]
        # whitened over the whole step, so that micro-batches do not change the gradient
        flat = torch.cat([a[p["mask"]] for (a, _), p in zip(estimates, parts, strict=True)])
        white = whiten(flat, torch.ones_like(flat, dtype=torch.bool))
        batches, at = [], 0
        for part, (advantage, returns) in zip(parts, estimates, strict=True):
            mask = part["mask"]
            count = int(mask.sum())
            scaled = torch.zeros_like(advantage)
            scaled[mask] = white[at : at + count]
            at += count
            kept = {name: part[name] for name in ("ids", "mask", "log_p", "values")}
            kept |= {"advantages": scaled, "returns": returns}
            batches.append(Batch(kept, share=count / total, kind="rollouts"))
        return batches

    def _note(self, given: Sequence[Answered], parts: Sequence[dict[str, Tensor]]) -> None:
        """Rewards, lengths and endings are of all answers; KL and entropy of those learnt from."""
        scores = torch.tensor([a.score for a in given])
        learnt = sum(len(p["ids"]) for p in parts)
        answers = [a.completion for a in given]
        count = len(answers)
        self.figures = {
            "reward": float(scores.mean()),
            "reward_std": float(scores.std(correction=0)),
            "kl": sum(float(p["kl"].sum()) for p in parts) / learnt,
            "kl_coefficient": self.control.coefficient,
            "length": sum(len(a.ids) for a in answers) / count,
            "ended": sum(a.finish == "stop" for a in answers) / count,
            "repetition": sum(repeats(a.ids) for a in answers) / count,
            "sameness": sum(a.sameness for a in given) / count,
            "distinct": distinct([a.ids for a in answers[:: self.answers]]),
            "entropy": float(torch.cat([p["entropy"] for p in parts]).mean()),
        }

    def after(self, step: int, figures: dict[str, float]) -> None:
        rolled = self.figures
        updates = dict(figures)
        figures.clear()
        figures.update(rolled | {k: v for k, v in updates.items() if k not in rolled})
        for alarm in self.alarms.watch(step, rolled):
            warn(f"Alarm, {alarm}")
        self.control.update(rolled["kl"], self.batch)
        self.far = rolled["kl"] >= self.kl_stop

    def done(self) -> bool:
        return self.far

    def state(self) -> dict[str, Any]:
        a = self.alarms
        return {
            "kl_coefficient": self.control.coefficient,
            "first": a.first,
            "wrong": a.wrong,
            "rung": a.rung,
            "far": self.far,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.control.coefficient = state["kl_coefficient"]
        self.alarms.first, self.alarms.wrong = state["first"], state["wrong"]
        self.alarms.rung, self.far = state["rung"], state["far"]
