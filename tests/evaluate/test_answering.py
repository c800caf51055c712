"""What is said of a set of answers, against counting by hand and one answer at a time."""

from __future__ import annotations

import copy

import pytest
import torch

from sishu.evaluate.answering import answer_prompts, divergence, named, reward_answers, summary
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.ranking import calibrated
from sishu.tokenizer.tokenizer import Tokenizer

GOOD = "`json.dumps`: Serialize an object to a string."


def prompts(count: int) -> list[list[int]]:
    return [[0, *range(10, 10 + 3 * (i % 7) + 1)] for i in range(count)]


def test_summary() -> None:
    answers = [
        Completion(GOOD, [5, 6, 7, 2], "stop"),
        Completion(GOOD, [5, 6, 7], "length"),  # in form, but it did not end
        Completion("no form", [5] * 6, "stop"),
        Completion("", [2], "stop"),
    ]
    assert summary(answers) == {
        "ended": 0.75,
        "in_form": 0.25,
        "repetition": 0.25,
        "distinct": 0.5,
        "length": 3.5,
    }


def test_an_answer_is_named_when_it_begins_with_the_name() -> None:
    texts = [GOOD, "`json.dumps(o)`: Serialize.", "`json.dumps2`: Serialize.", "json.dumps: Serialize.", ""]
    answers = [Completion(text, [2], "stop") for text in texts]
    assert named(answers, ["json.dumps"] * 5) == 0.4
    assert named(answers, ["json.dump", "json.dumps", "json.dumps2", "x", "x"]) == 0.4


def test_batches_give_the_answers_of_one_by_one(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    engine = Engine(tiny_decoder, tiny_tokenizer)
    greedy = Sampling(max_tokens=6, temperature=0)
    together = answer_prompts(engine, prompts(9), greedy, batch=4)
    assert together == [engine.complete([p], greedy)[0] for p in prompts(9)]


@pytest.fixture(scope="module")
def answers(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> list[Completion]:
    return Engine(tiny_decoder, tiny_tokenizer).complete(
        prompts(70), Sampling(max_tokens=7, temperature=2.0, seed=0)
    )


@torch.no_grad()
def test_rewards_are_calibrated_and_read_at_the_end(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer, answers: list[Completion]
) -> None:
    scorer = Scorer(tiny_decoder.config)
    scorer.start_from(tiny_decoder, 0)
    raw = torch.tensor(
        [float(scorer(torch.tensor([p + a.ids]))[0, -1]) for p, a in zip(prompts(70), answers, strict=True)]
    )
    scale = [-1.5, -0.2, 0.0, 0.3, 2.0]
    found = reward_answers(scorer, scale, prompts(70), answers, tiny_tokenizer.pad)
    slow = calibrated(raw, torch.tensor(scale))
    assert found["raw_mean"] == pytest.approx(float(raw.mean()), abs=2e-4)
    assert found["raw_std"] == pytest.approx(float(raw.std()), abs=2e-4)
    assert found["mean"] == pytest.approx(float(slow.mean()), abs=2e-4)
    assert found["std"] == pytest.approx(float(slow.std()), abs=2e-4)
    assert found["length"] == summary(answers)["length"]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_divergence_is_of_the_answers_only(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer, answers: list[Completion], temperature: float
) -> None:
    other = copy.deepcopy(tiny_decoder)
    for weight in other.parameters():
        weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    pad = tiny_tokenizer.pad
    assert divergence(tiny_decoder, tiny_decoder, prompts(70), answers, pad) == 0
    total = 0.0
    for prompt, answer in zip(prompts(70), answers, strict=True):
        ids = torch.tensor([prompt + answer.ids])
        for model, sign in ((tiny_decoder, 1), (other, -1)):
            log_p = (model(ids[:, :-1])[0] / temperature).log_softmax(-1).gather(1, ids[0, 1:, None])
            total += sign * float(log_p[len(prompt) - 1 :].sum())
    found = divergence(tiny_decoder, other, prompts(70), answers, pad, temperature)
    assert found == pytest.approx(total / 70, rel=1e-3)


def test_answers_that_fill_the_context_are_judged_too(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    """The engine draws one token more than a model can read."""
    engine = Engine(tiny_decoder, tiny_tokenizer)
    engine.stop_ids = frozenset()
    full = engine.complete([[0] * 125, [0] * 4], Sampling(max_tokens=50, temperature=0))
    assert len(full[0].ids) == 4
    scorer = Scorer(tiny_decoder.config)
    scorer.start_from(tiny_decoder, 0)
    some = [[0] * 125, [0] * 4]
    found = reward_answers(scorer, [-1.0, 1.0], some, full, tiny_tokenizer.pad)
    assert found["mean"] == found["mean"]
    assert divergence(tiny_decoder, tiny_decoder, some, full, tiny_tokenizer.pad) == 0
