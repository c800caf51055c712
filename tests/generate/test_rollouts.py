"""Rollouts: what PPO is given is what the policy said, measured by the models that are asked."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sishu.batches.batch import Batch, draw
from sishu.batches.tokens import Windows
from sishu.console import UserError
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.generate.rollouts import RewardScale, Rollouts, above_prompt, furthest, read_scale
from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.nn.device import Precision, autocast
from sishu.objectives.ppo import PPO, ActorCritic, AdaptiveKL
from sishu.tokenizer.tokenizer import Tokenizer

CPU = torch.device("cpu")
BATCH, MOST = 6, 8

LINE = (0.5 - 2 * 3**0.5, 0.5 + 2 * 3**0.5)
"""Quantiles between which a calibrated score is (score - 0.5) / 2."""


@pytest.fixture(scope="module")
def policy(tiny_config: DecoderConfig) -> Decoder:
    """A policy whose distribution is neither flat nor certain."""
    decoder = Decoder(tiny_config)
    decoder.initialise(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return decoder


def rollouts(policy: Decoder, tokenizer: Tokenizer, **changes: Any) -> Rollouts:
    value, reward = Scorer(policy.config), Scorer(policy.config)
    value.start_from(policy, 1)
    reward.start_from(policy, 2)
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    prompts = [
        tokenizer.encode_conversation([{"role": "user", "content": "x" * (3 * n)}], True).ids
        for n in range(9)
    ]
    settings: dict[str, Any] = {
        "sampling": Sampling(max_tokens=MOST, temperature=0.9),
        "control": AdaptiveKL(0.05, 2.0, 1000),
        "batch": BATCH,
        "micro_batch": 4,
        "passes": 2,
        "gamma": 1.0,
        "lam": 0.95,
        "precision": "fp32",
        "seed": 3,
        "ptx": lambda step: [],
    }
    return Rollouts(
        ActorCritic(copy.deepcopy(policy), value).train(),
        reference,
        RewardScale(reward, LINE, 0.25),
        tokenizer,
        prompts,
        **(settings | changes),
    )


def objective_of(source: Rollouts, temperature: float = 0.9) -> PPO:
    return PPO(0.2, 0.1, temperature, source.reference, source.control)


def answers(source: Rollouts, batches: Sequence[Batch]) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of every row, the completion as the mask has it."""
    found = []
    for batch in batches:
        for ids, mask in zip(batch["ids"], batch["mask"], strict=True):
            start = int(mask.long().argmax()) + 1
            found.append((ids[:start].tolist(), ids[1:][mask].tolist()))
    return found


def test_masks_cover_exactly_the_completions(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    source = rollouts(policy, tiny_tokenizer, batch=9, micro_batch=2)
    source.engine.stop_ids = frozenset(range(0, 320, 6))  # so that answers differ in length
    found = answers(source, source.batches(0))
    assert sorted(p for p, _ in found) == sorted(source.prompts)
    assert len({len(c) for _, c in found}) > 2
    # the same answers again, straight from an engine
    seeded = Sampling(MOST, temperature=0.9, seed=3 * 1_000_003)
    chosen = [source.prompts[i] for i in draw(9, 9, 0, "prompts", 3)]
    engine = Engine(source.models.policy, tiny_tokenizer)
    engine.stop_ids = source.engine.stop_ids
    said = [(p, a.ids) for p, a in zip(chosen, engine.complete(chosen, seeded), strict=True)]
    assert sorted(found) == sorted(said)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch", [1, 4, 6])
def test_the_first_pass_is_the_old_policy(
    policy: Decoder, tiny_tokenizer: Tokenizer, precision: Precision, micro_batch: int
) -> None:
    """Ratio 1, no divergence, nothing clipped: masks, shifts, temperature and precision are the same in the
    measurement and in the objective."""
    source = rollouts(policy, tiny_tokenizer, precision=precision, micro_batch=micro_batch)
    objective = objective_of(source)
    for batch in source.batches(0):
        with autocast(CPU, precision):
            loss = objective(source.models, batch)
        assert float(loss.figures["ratio_deviation"]) <= 1e-5
        assert float(loss.figures["approxkl"]) < 1e-8
        assert float(loss.figures["clipfrac"]) == 0
        loss.total.backward()
    gradients = [w.grad for w in source.models.parameters()]
    assert all(g is not None and g.abs().max() > 0 for g in gradients)


def test_another_temperature_in_the_objective_would_show(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    source = rollouts(policy, tiny_tokenizer)
    figures = objective_of(source, 1.0)(source.models, source.batches(0)[0]).figures
    assert float(figures["ratio_deviation"]) > 0.01


def test_the_log_probabilities_are_those_of_the_draws(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    """Measured one answer at a time, without padding, from the distribution that was sampled."""
    source = rollouts(policy, tiny_tokenizer)
    for batch in source.batches(0):
        for row in range(len(batch["ids"])):
            mask = batch["mask"][row]
            ids = batch["ids"][row, : int(mask.nonzero()[-1]) + 2]
            with torch.no_grad():
                log_p = (source.models.policy(ids[None, :-1])[0] / 0.9).log_softmax(-1)
            alone = log_p.gather(1, ids[1:, None])[:, 0]
            torch.testing.assert_close(
                batch["log_p"][row][mask], alone[mask[: len(ids) - 1]], atol=1e-4, rtol=1e-4
            )


def test_advantages_are_whitened_over_the_step_and_shares_follow_tokens(
    policy: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    source = rollouts(policy, tiny_tokenizer, micro_batch=2)
    batches = source.batches(0)
    together = torch.cat([b["advantages"][b["mask"]] for b in batches])
    assert float(together.mean()) == pytest.approx(0, abs=1e-5)
    assert float(together.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert all((b["advantages"][~b["mask"]] == 0).all() for b in batches)
    counts = [int(b["mask"].sum()) for b in batches]
    assert [b.share for b in batches] == pytest.approx([c / sum(counts) for c in counts])


def test_micro_batches_change_no_gradient(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    gradients = []
    for micro_batch in (1, 6):
        source = rollouts(policy, tiny_tokenizer, micro_batch=micro_batch)
        for batch in source.batches(0):
            (objective_of(source)(source.models, batch).total * batch.share).backward()
        gradients.append({n: w.grad for n, w in source.models.named_parameters()})
    for name, one in gradients[0].items():
        torch.testing.assert_close(
            one, gradients[1][name], atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_figures_are_those_of_the_answers(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    source = rollouts(policy, tiny_tokenizer)
    batches = source.batches(0)
    found = answers(source, batches)
    stops = source.engine.stop_ids
    scores, kls = [], []
    with torch.no_grad():
        for prompt, completion in found:
            ids = torch.tensor([prompt + completion])
            ended = completion[-1] in stops
            scores.append((float(source.reward.model(ids)[0, -1]) - 0.5) / 2.0 - 0.25 * (not ended))
            pair = [
                (m(ids[:, :-1])[0] / 0.9).log_softmax(-1) for m in (source.models.policy, source.reference)
            ]
            p, q = (x[len(prompt) - 1 :] for x in pair)
            kls.append(float((p.exp() * (p - q)).sum()))
    f = source.figures
    assert f["reward"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert f["reward_std"] == pytest.approx(np.std(scores), abs=1e-4)
    assert f["kl"] == pytest.approx(np.mean(kls), abs=1e-3)
    assert f["length"] == pytest.approx(np.mean([len(c) for _, c in found]))
    assert f["ended"] == pytest.approx(np.mean([c[-1] in stops for _, c in found]))
    assert 0 < f["entropy"] < np.log(320)
    # without discount and with λ = 1 the return at the first token is the answer's score
    whole = rollouts(policy, tiny_tokenizer, lam=1.0)
    returns = torch.cat(
        [b["returns"][torch.arange(len(b["mask"])), b["mask"].long().argmax(1)] for b in whole.batches(0)]
    )
    assert returns.tolist() == pytest.approx(scores, abs=1e-3)


def test_a_step_is_the_same_whenever_asked_and_others_differ(
    policy: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    source = rollouts(policy, tiny_tokenizer)
    first = [answers(source, source.batches(step)) for step in (0, 1, 0)]
    assert first[0] == first[2] != first[1]
    assert answers(source, rollouts(policy, tiny_tokenizer, seed=4).batches(0)) != first[0]


def test_pretraining_tokens_are_mixed_in(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    windows = Windows(np.arange(6, 300, dtype=np.uint16), 16, 4, 2, 0, share=0.7)
    batches = rollouts(policy, tiny_tokenizer, ptx=windows.batches).batches(2)
    assert [b.kind for b in batches] == ["rollouts"] * 2 + ["tokens"] * 2
    assert sum(b.share for b in batches[2:]) == pytest.approx(0.7)


def test_the_penalty_is_for_answers_that_do_not_end(policy: Decoder) -> None:
    scorer = Scorer(policy.config)
    scorer.start_from(policy, 0)
    ids, last = torch.randint(6, 320, (2, 9)), torch.tensor([4, 8])
    plain = RewardScale(scorer, LINE)(ids, last, torch.tensor([True, False]))
    with torch.no_grad():
        raw = scorer(ids)[[0, 1], [4, 8]]
    torch.testing.assert_close(plain, (raw - 0.5) / 2.0)
    strict = RewardScale(scorer, LINE, 0.5)(ids, last, torch.tensor([True, False]))
    torch.testing.assert_close(plain - strict, torch.tensor([0.0, 0.5]))


def test_state_goes_through_json(policy: Decoder, tiny_tokenizer: Tokenizer) -> None:
    one, two = (
        rollouts(policy, tiny_tokenizer, control=AdaptiveKL(0.05, 1e-4, 1000)) for _ in range(2)
    )  # so small a target that the alarm would ring at the third step
    for step in range(2):
        one.batches(step)
        one.figures["kl"] = 1.0
        one.after(step, {"policy_loss": 1.0})
    two.restore(json.loads(json.dumps(one.state())))
    assert two.control.coefficient == one.control.coefficient != 0.05
    for source in (one, two):
        assert not source.alarms.rung
        source.batches(3)
        source.figures["kl"] = 1.0
        source.after(3, {})
        assert len(source.alarms.rung) == 1
    assert one.state() == two.state()
    assert all(
        torch.equal(a["returns"], b["returns"]) for a, b in zip(one.batches(4), two.batches(4), strict=True)
    )


def test_it_is_done_once_the_divergence_has_come_to_the_stop(
    policy: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    source, without = (rollouts(policy, tiny_tokenizer, **more) for more in ({"kl_stop": 1.5}, {}))
    for step, (kl, enough) in enumerate(((1.4, False), (1.5, True))):
        for one in (source, without):
            one.batches(step)
            one.figures["kl"] = kl
            one.after(step, {})
        assert source.done() is enough and not without.done()
    resumed = rollouts(policy, tiny_tokenizer, kl_stop=1.5)
    assert not resumed.done()
    resumed.restore(json.loads(json.dumps(source.state())))
    assert resumed.done()


def test_a_collapse_is_warned_of(
    policy: Decoder, tiny_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    source = rollouts(policy, tiny_tokenizer, control=AdaptiveKL(0.05, 1e-4, 1000))
    for step in range(3):
        source.batches(step)
        source.figures["kl"] = 1.0
        source.after(step, {"entropy": 99.0})
    assert "Alarm, step 2: kl is 1" in capsys.readouterr().err
    assert len(source.alarms.rung) == 1


def test_what_everyone_is_told_is_worth_less(
    policy: Decoder, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sishu.generate.rollouts.sameness", lambda answers, prompts: [0.1 * i for i in range(len(answers))]
    )
    plain, strict = (rollouts(policy, tiny_tokenizer, sameness_penalty=p) for p in (0.0, 2.0))
    given = plain._answer(0)
    free, taken = plain._measure(given)["rewards"], strict._measure(strict._answer(0))["rewards"]
    expected = torch.tensor([0.2 * i for i in range(len(given))])
    torch.testing.assert_close((free - taken).sum(1), expected, atol=1e-5, rtol=1e-4)
    assert ((free != taken).sum(1) <= 1).all(), "at the last token alone, like the score"
    for source in (plain, strict):
        source.batches(0)
        assert source.figures["reward"] == pytest.approx(sum(one.score for one in given) / len(given))
        assert source.figures["sameness"] == pytest.approx(np.mean([one.sameness for one in given]))


def test_an_answer_earns_what_it_is_worth_beyond_the_others_to_its_prompt(
    policy: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    assert above_prompt([1.0, 3.0, -2.0, 6.0], 2) == [-1.0, 1.0, -4.0, 4.0]
    assert above_prompt([1.0, 3.0, -2.0, 6.0], 1) == [1.0, 3.0, -2.0, 6.0]
    source = rollouts(policy, tiny_tokenizer, answers=5, kept=2, sameness_penalty=2.0)
    given = source._answer(0)
    for at in range(0, len(given), 5):
        some = given[at : at + 5]
        assert len({tuple(one.prompt) for one in some}) == 1
        worths = [one.score - 2.0 * one.sameness for one in some]
        assert [one.earned for one in some] == pytest.approx([w - sum(worths) / 5 for w in worths], abs=1e-6)
    rewards = source._measure(given)["rewards"].sum(1)
    torch.testing.assert_close(rewards, torch.tensor([one.earned for one in given]))


def test_an_answer_given_to_every_prompt_is_seen_to_be(
    policy: Decoder, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = rollouts(policy, tiny_tokenizer, batch=8, answers=2, kept=1)
    said = torch.arange(7, 7 + MOST).tolist()

    def complete(prompts: list[list[int]], sampling: Sampling) -> list[Completion]:
        own = [[10 + i, 20 + i, 30 + i, 40 + i] for i in range(len(prompts))]
        return [Completion("", said if i // 2 % 2 else own[i], "length") for i in range(len(prompts))]

    monkeypatch.setattr(source.engine, "complete", complete)
    same = [one.sameness for one in source._answer(0)]
    assert len(same) == 16
    assert same[2::4] == same[3::4] == pytest.approx([3 / 7] * 4) and not any(same[0::4] + same[1::4])


def test_the_furthest_scores() -> None:
    scores = torch.tensor([[3.0, -1.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    assert furthest(scores, 1).tolist() == [[0], [3]]
    assert furthest(scores, 2).tolist() == [[1, 0], [0, 3]]
    assert furthest(scores, 3).tolist() == [[1, 2, 0], [0, 2, 3]]
    assert [sorted(row) for row in furthest(scores, 4).tolist()] == [[0, 1, 2, 3]] * 2


def test_of_each_prompts_answers_the_best_and_the_worst_are_learnt_from(
    policy: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    source = rollouts(policy, tiny_tokenizer, answers=5, kept=2)
    learnt = answers(source, source.batches(0))
    assert len(learnt) == BATCH
    # all answers again, from an engine, scored one at a time
    chosen = [source.prompts[i] for i in draw(9, BATCH // 2, 0, "prompts", 3) for _ in range(5)]
    said = source.engine.complete(chosen, Sampling(MOST, temperature=0.9, seed=3 * 1_000_003))
    scored = []
    for prompt, answer in zip(chosen, said, strict=True):
        ids, ended = torch.tensor([[*prompt, *answer.ids]]), torch.tensor([answer.finish == "stop"])
        score = source.reward(ids, torch.tensor([ids.shape[1] - 1]), ended)
        scored.append((float(score), (prompt, answer.ids)))
    expected = []
    for at in range(0, len(scored), 5):
        some = sorted(scored[at : at + 5], key=lambda one: one[0])
        expected += [some[0][1], some[-1][1]]
    assert sorted(learnt) == sorted(expected)
    assert source.figures["reward"] == pytest.approx(np.mean([s for s, _ in scored]), abs=1e-4)
    assert source.figures["reward_std"] == pytest.approx(np.std([s for s, _ in scored]), abs=1e-4)
    assert source.figures["length"] == pytest.approx(np.mean([len(a.ids) for a in said]))


@pytest.mark.parametrize("text", [None, "{}", '{"mean": 0.1, "deviation": 2.0}', '{"quantiles": [1.0]}'])
def test_a_scale_without_quantiles_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "scale.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"scale\.json does not say how to scale rewards: train the reward"):
        read_scale(path)
    path.write_text('{"quantiles": [0, 1.5, 2]}', encoding="utf-8")
    assert read_scale(path) == [0.0, 1.5, 2.0]
