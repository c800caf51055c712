"""Continuous batching: whatever shares the batch, whatever the cache does, a text says what it says alone."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

import pytest
import torch

from sishu.console import UserError
from sishu.generate.batching import BatchingEngine, BatchSettings
from sishu.generate.engine import Engine
from sishu.generate.guide import Guide
from sishu.generate.quantise import ready
from sishu.generate.sampling import Sampling
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.native.build import library
from sishu.tokenizer.tokenizer import Tokenizer

GREEDY = Sampling(max_tokens=24, temperature=0.0, ignore_end=True)


def some_prompts(count: int, seed: int, longest: int = 60) -> list[list[int]]:
    """Random prompts, a third of which begin like an earlier one."""
    rng = random.Random(seed)
    prompts: list[list[int]] = []
    for _ in range(count):
        fresh = [rng.randrange(6, 320) for _ in range(rng.randint(1, longest))]
        if prompts and rng.random() < 1 / 3:
            before = rng.choice(prompts)
            fresh = before[: rng.randint(1, len(before))] + fresh[:10]
        prompts.append(fresh)
    return prompts


@pytest.fixture(scope="module")
def engine(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> Engine:
    alone = Engine(tiny_decoder, tiny_tokenizer)
    alone.stop_ids = frozenset()
    return alone


def batching(decoder: Decoder, tokenizer: Tokenizer, **settings: Any) -> BatchingEngine:
    return BatchingEngine(decoder, tokenizer, BatchSettings(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"running": 3},
        {"step_tokens": 7},
        {"prefixes": False},
        {"block_size": 1, "cache_tokens": 129},
        {"cache_tokens": 160, "block_size": 4},
        {"running": 5, "cache_tokens": 136, "block_size": 8, "step_tokens": 16},
        {"speculate": 4},
        {"speculate": 3, "block_size": 4, "running": 4, "step_tokens": 32},
    ],
    ids=str,
)
@pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])
@pytest.mark.parametrize("seed", [1, 2])
def test_batched_is_alone(
    tiny_decoder: Decoder,
    tiny_tokenizer: Tokenizer,
    engine: Engine,
    settings: dict[str, Any],
    compiled: bool,
    seed: int,
) -> None:
    """Forty texts together give the tokens that each gives alone through a static cache: in pieces, with and
    without shared beginnings, sent out and let in again, guessed ahead; by torch and by compiled code."""
    if compiled and library() is None:
        pytest.skip("needs a C++ compiler")
    prompts = some_prompts(40, seed)
    decoder = ready(copy.deepcopy(tiny_decoder)) if compiled else tiny_decoder
    batch = batching(decoder, tiny_tokenizer, **settings)
    assert (batch._native is not None) == compiled
    together = [c.ids for c in batch.complete(prompts, GREEDY)]
    assert together == [engine.complete([prompt], GREEDY)[0].ids for prompt in prompts]
    assert batch.blocks.free == batch.blocks.count and not batch.busy
    if settings.get("cache_tokens", 999) < 150:
        assert batch.preempted > 0, "this was to be a cache that is too small"
    assert (batch.reused > 0) == settings.get("prefixes", True)
    if "speculate" in settings:
        assert 0 < batch.guessed_right <= batch.guessed


def test_texts_of_all_kinds_share_a_batch(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    """Each request has its own way of choosing, its own seed and its own number of answers."""
    ways = [
        Sampling(max_tokens=20, temperature=0.0),
        Sampling(max_tokens=9, temperature=0.7, top_k=20, seed=3),
        Sampling(max_tokens=30, temperature=20.0, top_p=0.9, min_p=0.02, seed=4, n=3),
        Sampling(max_tokens=25, repetition_penalty=1.3, presence_penalty=0.5, seed=5),
        Sampling(max_tokens=40, seed=6, guide=Guide("regex", "[a-z]{3,10} (yes|no)")),
        Sampling(max_tokens=12, seed=7, log_probs=2, prompt_log_probs=0, min_tokens=12),
    ]
    prompts = some_prompts(32, 5)
    requests = [(prompt, ways[i % len(ways)]) for i, prompt in enumerate(prompts)]

    def texts(batch: BatchingEngine, some: list[tuple[list[int], Sampling]]) -> list[dict[int, list[int]]]:
        numbers = {batch.submit(prompt, way): place for place, (prompt, way) in enumerate(some)}
        found: list[dict[int, list[int]]] = [{} for _ in some]
        while batch.busy:
            for output in batch.step():
                found[numbers[output.request]].setdefault(output.index, []).extend(output.ids)
        return found

    together = texts(batching(tiny_decoder, tiny_tokenizer, running=32, speculate=2), requests)
    for request, ids in zip(requests, together, strict=True):
        assert texts(batching(tiny_decoder, tiny_tokenizer), [request]) == [ids]
    assert any(len({tuple(ids) for ids in found.values()}) > 1 for found in together)


def test_what_begins_alike_is_read_once(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    """Requests that come at the same moment, and the samples of one request, read their common beginning
    once."""
    beginning = [9 + i % 200 for i in range(96)]
    batch = batching(tiny_decoder, tiny_tokenizer, block_size=16)
    batch.complete([[*beginning, 7, i] for i in range(6, 16)], GREEDY)
    assert batch.reused == 9 * 96
    batch.reused = 0
    batch.complete([[8, *beginning]], Sampling(max_tokens=4, seed=1, n=5))
    assert batch.reused == 4 * 96


def test_a_text_in_a_form_has_it(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    batch = batching(tiny_decoder, tiny_tokenizer)
    way = Sampling(max_tokens=60, seed=1, guide=Guide("regex", "[a-z]{3,10} (yes|no)"))
    answers = batch.complete(some_prompts(8, 9), way)
    assert all(re.fullmatch("[a-z]{3,10} (yes|no)", a.text) and a.finish == "stop" for a in answers)
    with pytest.raises(UserError, match="regular expression"):
        batch.submit([7], Sampling(guide=Guide("regex", "(")))
    assert not batch.busy


def test_streamed_text_is_the_whole_text(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    batch = batching(tiny_decoder, tiny_tokenizer)
    for seed in range(6):
        way = Sampling(max_tokens=40, seed=seed, stop=("th", "一"))
        outputs = list(batch.stream([9, 10, 11], way))
        [whole] = batch.complete([[9, 10, 11]], way)
        assert "".join(o.text for o in outputs) == whole.text
        assert [i for o in outputs for i in o.ids] == whole.ids
        assert [o.finish for o in outputs[:-1]] == [None] * (len(outputs) - 1)
        assert "th" not in whole.text and outputs[-1].finish == whole.finish


def test_a_stream_that_is_left_gives_its_place_back(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    batch = batching(tiny_decoder, tiny_tokenizer)
    stream = batch.stream([9, 10], Sampling(max_tokens=100, ignore_end=True, seed=1, n=2))
    next(stream)
    assert batch.busy
    stream.close()
    assert not batch.busy and batch.blocks.free == batch.blocks.count


def test_log_probabilities_are_those_of_a_full_pass(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    prompt = some_prompts(1, 3)[0]
    batch = batching(tiny_decoder, tiny_tokenizer, step_tokens=5, speculate=3)
    batch.submit(prompt, Sampling(max_tokens=10, seed=2, log_probs=3, prompt_log_probs=1, ignore_end=True))
    outputs = []
    while batch.busy:
        outputs += batch.step()
    ids = prompt + [i for o in outputs for i in o.ids]
    with torch.no_grad():
        expected_TV = tiny_decoder(torch.tensor([ids]))[0].log_softmax(-1)
    assert not any(o.prompt_log_probs for o in outputs[:-1])
    told = [*outputs[-1].prompt_log_probs, *(one for o in outputs for one in o.log_probs)]
    assert len(told) == len(ids) - 1
    for place, one in enumerate(told):
        assert abs(one.chosen - float(expected_TV[place, ids[place + 1]])) < 1e-4
    assert [len(one.top) for one in told] == [1] * (len(prompt) - 1) + [3] * 10


def test_the_context_is_filled_to_the_last_position(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer, engine: Engine
) -> None:
    longest = tiny_decoder.config.context_length
    batch = batching(tiny_decoder, tiny_tokenizer, cache_tokens=longest, speculate=4)
    prompts = [p[:longest] for p in (some_prompts(1, 8)[0] * 50, [7, 8] * (longest // 2))]
    for prompt in (prompts[0][: longest - 3], prompts[1]):
        way = Sampling(max_tokens=50, temperature=0.0, ignore_end=True)
        [ours], [alone] = batch.complete([prompt], way), engine.complete([prompt], way)
        assert (ours.ids, ours.finish) == (alone.ids, "length")
        assert len(prompt) + len(ours.ids) == longest + 1


def test_what_cannot_be_is_refused(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    batch = batching(tiny_decoder, tiny_tokenizer, cache_tokens=64)
    with pytest.raises(ValueError, match="at least one token"):
        batch.submit([], GREEDY)
    with pytest.raises(ValueError, match="exceeds the context"):
        batch.submit([7] * 129, GREEDY)
    with pytest.raises(UserError, match=r"the cache holds 64.*cache_tokens"):
        batch.submit([7] * 50, GREEDY)
    assert not batch.busy
    assert batch.complete([[7]], Sampling(max_tokens=0))[0].finish == "length"


def test_windows_and_distances_are_kept(tiny_tokenizer: Tokenizer) -> None:
    """A sliding window and ALiBi, whose masks the paged cache makes itself."""
    for more in ({"window": 9, "window_layers": (1,)}, {"positions": "alibi"}, {"positions": "learned"}):
        torch.manual_seed(1)
        config = DecoderConfig(320, 32, 2, 4, 2, 8, 64, 128, **more)
        decoder = Decoder(config).eval()
        with torch.no_grad():
            for weight in decoder.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        prompts = some_prompts(10, 4)
        batch = batching(decoder, tiny_tokenizer, block_size=4, step_tokens=9)
        alone = Engine(decoder, tiny_tokenizer)
        alone.stop_ids = frozenset()
        expected = [alone.complete([prompt], GREEDY)[0].ids for prompt in prompts]
        assert [c.ids for c in batch.complete(prompts, GREEDY)] == expected
