"""reward: answers are ranked as named, cut nowhere, and the ranking is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sishu.batches.conversations import write_conversations
from sishu.config import build
from sishu.console import UserError, set_quiet
from sishu.corpus.lessons.likeness import Likeness
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.models.decoder import Decoder, Scorer
from sishu.models.folder import load_scorer
from sishu.objectives.ranking import quantiles
from sishu.run import Run, external_input
from sishu.stages.reward import (
    RANKS,
    RewardSettings,
    accuracy_by_pair,
    full_rows,
    load_rankings,
    ranked_answers,
    score,
    work,
)
from sishu.tokenizer.tokenizer import Tokenizer

SEP = "\u2028\u0085"


def talk(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is x{number}?{SEP}"},
            {"role": "assistant", "content": f"`x{number}`: The useful thing {number}."},
        ],
        "name": f"x{number}",
    }


@pytest.fixture(autouse=True)
def _quiet() -> None:
    set_quiet(True)


@pytest.fixture(scope="module")
def engine(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> Engine:
    return Engine(tiny_decoder, tiny_tokenizer)


@pytest.fixture(scope="module")
def ranked(engine: Engine) -> list[dict[str, Any]]:
    return ranked_answers([talk(i) for i in range(12)], 12, engine, max_tokens=8, seed=0)


def test_the_ranks_are_what_they_are_called(engine: Engine, ranked: list[dict[str, Any]]) -> None:
    tokenizer = engine.tokenizer
    items = {talk(i)["name"]: talk(i) for i in range(12)}
    assert len(ranked) == 12 and len({r["name"] for r in ranked}) == 12
    for one in ranked:
        messages = items[one["name"]]["messages"]
        assert one["question"] == messages[0]["content"]
        assert one["prompt"] == tokenizer.encode_conversation(messages[:-1], True).ids
        documented, nearer, farther, anothers, damaged = one["answers"]
        whole = tokenizer.encode_conversation(messages).ids
        assert one["prompt"] + documented == whole
        assert 1 <= len(nearer) <= 8 and 1 <= len(farther) <= 8
        likeness = Likeness(item["messages"][1]["content"] for item in items.values())
        near, far = (likeness(tokenizer.decode(a), messages[1]["content"]) for a in (nearer, farther))
        assert near >= far
        said = tokenizer.decode(anothers)
        assert said != messages[1]["content"]
        assert said in {i["messages"][1]["content"] for i in items.values()}
        assert tokenizer.decode(damaged) != messages[1]["content"]
        assert all(row[-1] == tokenizer.end for row in (documented, anothers, damaged))
    assert full_rows(ranked[0])[2] == ranked[0]["prompt"] + ranked[0]["answers"][2]


def test_rankings_are_reproducible_and_counted(engine: Engine, ranked: list[dict[str, Any]]) -> None:
    items = [talk(i) for i in range(12)]
    assert ranked_answers(items, 12, engine, 8, seed=0) == ranked
    other = ranked_answers(items, 12, engine, 8, seed=1)
    assert [r["name"] for r in other] != [r["name"] for r in ranked]
    assert len(ranked_answers(items, 5, engine, 8, seed=0)) == 5


def test_answers_are_sampled_at_the_temperatures_in_turn(engine: Engine) -> None:
    items = [talk(i) for i in range(12)]
    for cool in (0, 1):
        turns = (0.0, 50.0) if cool == 0 else (50.0, 0.0)
        made = ranked_answers(items, 12, engine, 8, seed=0, temperatures=turns)
        assert len(made) == 12
        greedy = engine.complete([one["prompt"] for one in made], Sampling(max_tokens=8, temperature=0))
        same = [one["answers"][1:3] == [best.ids] * 2 for one, best in zip(made, greedy, strict=True)]
        assert all(same[cool::2]) and not any(same[1 - cool :: 2])
    assert len(ranked_answers(items, 2, engine, 8, seed=0, temperatures=(1.0, 0.5, 0.2))) == 2


def test_the_nearer_answer_ranks_higher(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [talk(i) for i in range(3)]
    items[1]["messages"][1]["content"] = "`x1`: Serialize the object."
    near, far = "`x9`: Serialize a heavy load.", "`x9`: The useful box."
    for turns in ((near, far), (far, near)):
        made = [
            Completion(text, [*engine.tokenizer.encode(text), engine.tokenizer.end], "stop") for text in turns
        ]
        monkeypatch.setattr(engine, "complete", lambda prompts, how, made=made: made * (len(prompts) // 2))
        ranked = {one["name"]: one["answers"] for one in ranked_answers(items, 3, engine, 8, seed=0)}
        assert [engine.tokenizer.decode(row) for row in ranked["x1"][1:3]] == [near, far]
        assert [engine.tokenizer.decode(row) for row in ranked["x0"][1:3]] == [far, near]


def test_what_does_not_fit_the_context_is_left_out(engine: Engine) -> None:
    """Also a prompt that is too long to be answered at all."""
    items = [talk(i) for i in range(6)]
    items[0]["messages"][0]["content"] = "y" * 300
    items[1]["messages"][0]["content"] = "学y🙂" * 20
    made = ranked_answers(items, 6, engine, 8, seed=0)
    assert 1 <= len(made) < 6 and "x0" not in {r["name"] for r in made}
    assert all(len(row) <= engine.context_length for r in made for row in full_rows(r))


def test_a_conversation_may_begin_with_the_assistant(engine: Engine) -> None:
    items = [talk(i) for i in range(3)]
    del items[0]["messages"][0]
    made = {r["name"]: r for r in ranked_answers(items, 3, engine, 4, seed=0)}
    assert made["x0"]["question"] == "" and made["x1"]["question"] == f"What is x1?{SEP}"


@torch.no_grad()
def test_scores_are_read_at_the_last_token(tiny_decoder: Decoder, ranked: list[dict[str, Any]]) -> None:
    scorer = Scorer(tiny_decoder.config)
    scorer.start_from(tiny_decoder, 0)
    scores = score(scorer, ranked * 3, pad=1)  # more than one batch of 32
    assert scores.shape == (36, 5)
    for i, one in enumerate(ranked * 3):
        for k, row in enumerate(full_rows(one)):
            assert float(scores[i, k]) == pytest.approx(float(scorer(torch.tensor([row]))[0, -1]), abs=1e-4)


def test_accuracy_counts_each_pair_of_ranks() -> None:
    rewards = torch.tensor([[4.0, 3.0, 2.5, 2.0, 1.0], [1.0, 2.0, 2.0, 0.0, 0.0]])
    pairs = accuracy_by_pair(rewards)
    assert len(pairs) == 10 and pairs["documented > nearer"] == 0.5 == pairs["nearer > farther"]
    assert pairs["documented > another's"] == 1.0 and pairs["another's > damaged"] == 0.5
    assert set(pairs) == {f"{a} > {b}" for i, a in enumerate(RANKS) for b in RANKS[i + 1 :]}


def test_the_stage_learns_the_ranking(tmp_path: Path, tiny_model_folder: Path) -> None:
    inputs = {"model": external_input(tiny_model_folder)}
    for name, span in (("data", range(24)), ("held_out", range(100, 108))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(write_conversations([talk(i) for i in span]), encoding="utf-8")
        inputs[name] = external_input(path)
    train = {"steps": 30, "batch": 6, "micro_batch": 3, "learning_rate": 5e-3, "precision": "fp32"}
    settings = build(RewardSettings, {"max_tokens": 6, "prompts": 24, "held_out_prompts": 8, "train": train})
    with Run(tmp_path / "run").begin("reward", "key", settings, inputs, seed=0) as (context, figures):
        figures |= work(settings, context)
    folder = tmp_path / "run" / "reward"
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"] and lines[-1]["accuracy"] > lines[0]["accuracy"]
    assert figures["prompts"] == len(load_rankings(folder / "rankings-train.jsonl")) > 12
    assert figures["held_out_prompts"] == len(load_rankings(folder / "rankings-validation.jsonl")) > 4
    # the sampled answers of an untrained model are noise, easily told from the two below them
    pairs = figures["accuracy_by_pair"]
    assert pairs["farther > another's"] > 0.8 and pairs["farther > damaged"] > 0.8
    assert figures["accuracy"] == pytest.approx(sum(pairs.values()) / 10, abs=1e-3)
    assert figures["accuracy"] > 0.58
    scorer, tokenizer = load_scorer(folder / "model")
    scores = score(scorer, load_rankings(folder / "rankings-train.jsonl"), tokenizer.pad)
    scale = json.loads((folder / "model" / "scale.json").read_text())
    assert scale == {"quantiles": pytest.approx(quantiles(scores[:, 1:3].flatten()), abs=1e-4)}
    theirs = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    row = full_rows(load_rankings(folder / "rankings-train.jsonl")[0])[0]
    with torch.no_grad():
        assert float(theirs(torch.tensor([row])).logits) == pytest.approx(float(scores[0, 0]), abs=1e-3)


def test_nothing_to_rank_is_named(tmp_path: Path, tiny_model_folder: Path) -> None:
    path = tmp_path / "same.jsonl"
    path.write_text(write_conversations([talk(1)] * 4), encoding="utf-8")
    inputs = {"model": external_input(tiny_model_folder)} | {
        name: external_input(path) for name in ("data", "held_out")
    }
    settings = RewardSettings(max_tokens=4)
    with (
        pytest.raises(UserError, match="no answers to rank"),
        Run(tmp_path / "run").begin("reward", "key", settings, inputs, seed=0) as (context, _),
    ):
        work(settings, context)
