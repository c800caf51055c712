"""The step of fixed shapes computes what the other step computes, and leaves alone what is not its own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from sishu.generate import graph_step
from sishu.generate.batching import BatchingEngine, BatchSettings
from sishu.generate.graph_step import GraphStep, knows
from sishu.generate.paged_cache import PagedCache, Span
from sishu.generate.quantise import Weights, ready
from sishu.generate.sampling import Sampling
from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.nn.rotary import RopeScaling
from sishu.tokenizer.tokenizer import Tokenizer

GREEDY = Sampling(max_tokens=24, temperature=0.0, ignore_end=True)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"qk_norm": False, "tied": False, "rope_scaling": RopeScaling("yarn", 4, 64)},
    "one head of keys": {"kv_heads": 1},
    "as many": {"kv_heads": 4},
    "window": {"window": 7},
    "window in one layer": {"window": 9, "window_layers": (1,)},
    "gpt2": {
        **{"norm": "layer", "positions": "learned", "gated": False, "qk_norm": False, "mlp_bias": True},
        **{"attention_bias": True, "output_bias": True, "activation": "gelu_tanh"},
    },
    "sinusoidal": {"positions": "sinusoidal"},
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "experts": {"experts": Experts(4, 2, 64)},
    "alibi": {"positions": "alibi"},
    "dynamic": {"rope_scaling": RopeScaling("dynamic", 4, 64)},
}
SPANS = [
    Span(0, 1, (3,)),
    Span(17, 1, (5, 0, 9)),
    Span(7, 1, (7,)),
    Span(8, 1, (2, 12)),
    Span(39, 1, (1, 4, 6, 8, 10)),
]
"""Texts of 1, 18, 8, 9 and 40 tokens in blocks of 8; five of them, so that three rows stand for no text."""
IDS = [7, 300, 41, 0, 112]


def some_decoder(device: str = "cpu", **more: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = {"width": 64, "heads": 4, "kv_heads": 2, "head_width": 16, "hidden": 128}
    decoder = Decoder(DecoderConfig(vocabulary=320, layers=2, context_length=128, **(sizes | more)))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        decoder.embedding.weight.mul_(0.1)
    return decoder.eval().to(device)


def some_cache(decoder: Decoder) -> PagedCache:
    """Thirteen blocks of eight positions."""
    c, device = decoder.config, decoder.embedding.weight.device
    return PagedCache(c.layers, c.kv_heads, c.head_width, 13, 8, device, torch.float32)


def fill(cache: PagedCache) -> None:
    """The same numbers in every cache; large ones where no text's lie, which would be seen in any sum."""
    generator = torch.Generator().manual_seed(1)
    for pool in (cache.keys, cache.values):
        pool.copy_(torch.randn(pool.shape, generator=generator))
        pool[:, :, cache.spare * cache.block_size :] = 1e4


def own_slots(cache: PagedCache) -> list[int]:
    return [slot for span in SPANS for slot in cache.slots(span)]


@pytest.mark.parametrize("kind", [None, "fp32", "bf16", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_it_is_the_step_of_texts_one_by_one(shape: str, kind: Weights | None) -> None:
    """Logits and what is written: nothing else in the cache changes but the block that no text owns. `None`
    is a decoder that was not made ready."""
    decoder = some_decoder(**SHAPES[shape])
    if kind is not None:
        ready(decoder, kind)
    cache, reference, before = some_cache(decoder), some_cache(decoder), some_cache(decoder)
    step = GraphStep(decoder, cache)
    for one in (cache, reference, before):
        fill(one)
    padded = step.shape(SPANS)
    assert padded == (8, 128 // 8)
    found = step(IDS, SPANS, padded)
    wanted = decoder.logits(decoder.hidden(torch.tensor([IDS]), reference.layout(SPANS))[0])
    # in 16 bits and less inputs are rounded, and one that falls on another side moves a product by 2 ** -8
    bound = 2e-5 if kind in (None, "fp32") else 0.02 * float(wanted.abs().max())
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < bound
    own = own_slots(cache)
    others = [slot for slot in range(cache.spare * 8) if slot not in own]
    for pool, same, old in (
        (cache.keys, reference.keys, before.keys),
        (cache.values, reference.values, before.values),
    ):
        assert (pool[:, :, own] - same[:, :, own]).abs().max() < max(bound, 2e-5)
        assert not torch.equal(pool[:, :, own], old[:, :, own])
        assert torch.equal(pool[:, :, others], old[:, :, others])


@torch.inference_mode()
def test_rows_do_not_depend_on_each_other() -> None:
    """A text alone, in a batch, and in a batch of another size, in a longer or shorter table."""
    decoder = some_decoder()
    cache = some_cache(decoder)
    step = GraphStep(decoder, cache)
    found = []
    for texts, shape in (([1], (1, 4)), ([1, 2, 3], (4, 16)), ([0, 1, 2, 3, 4], (16, 8))):
        fill(cache)
        logits_BV = step([IDS[text] for text in texts], [SPANS[text] for text in texts], shape)
        found.append(logits_BV[texts.index(1)])
    assert all((one - found[0]).abs().max() < 2e-5 for one in found[1:])


@pytest.mark.parametrize("more", UNKNOWN.values(), ids=UNKNOWN)
def test_what_depends_on_numbers_is_left_to_the_other_step(more: dict[str, Any]) -> None:
    decoder = some_decoder(**more)
    assert not knows(decoder.config)
    assert GraphStep.of(decoder, some_cache(decoder)) is None


def test_on_a_cpu_the_engine_keeps_its_own_step(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    assert knows(tiny_decoder.config)
    assert BatchingEngine(tiny_decoder, tiny_tokenizer)._graph is None


def test_shapes_are_few_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = some_decoder()
    step = GraphStep(decoder, some_cache(decoder))

    def shape(count: int, past: int, new: int = 1) -> tuple[int, int] | None:
        return step.shape([Span(past, new, (0,)) for _ in range(count)])

    assert [shape(count, 0) for count in (1, 2, 3, 5, 33, 64)] == [(n, 16) for n in (1, 2, 4, 8, 64, 64)]
    assert [shape(1, past) for past in (127, 128, 255, 256)] == [(1, 16), (1, 32), (1, 32), (1, 64)]
    assert shape(65, 0) is None and shape(0, 0) is None
    assert shape(2, 5, new=2) is None
    one = 2 * 2 * 128 * 16 * 4  # keys and values, heads, positions, their width, bytes
    monkeypatch.setattr(graph_step, "MOST_GATHERED", 4 * one)
    assert shape(4, 0) == (4, 16) and shape(5, 0) is None
    assert shape(2, 128) == (2, 32) and shape(3, 128) is None


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
        {"speculate": 4, "running": 1},
    ],
    ids=str,
)
def test_the_engine_writes_the_same(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    """Texts that come and go, share beginnings, are sent out and let in again: the tokens do not change."""
    rng = random.Random(1)
    beginning = [rng.randrange(6, 320) for _ in range(30)]
    prompts = [
        beginning[: rng.randint(0, 30)] + [rng.randrange(6, 320) for _ in range(rng.randint(1, 30))]
        for _ in range(30)
    ]
    forced, plain = (
        BatchingEngine(tiny_decoder, tiny_tokenizer, BatchSettings(**settings)) for _ in range(2)
    )
    forced._graph = GraphStep(tiny_decoder, forced.cache)
    assert plain._graph is None
    assert [c.ids for c in forced.complete(prompts, GREEDY)] == [
        c.ids for c in plain.complete(prompts, GREEDY)
    ]
    assert forced._graph.steps > 10
    assert not forced._graph.recordings
    assert forced.blocks.free == forced.blocks.count


def test_log_probabilities_and_draws_are_the_same(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    """A step's logits are used up before the next one overwrites them."""
    ways = [
        Sampling(max_tokens=20, seed=1, log_probs=2, ignore_end=True, n=2),
        Sampling(max_tokens=12, seed=2, prompt_log_probs=1, ignore_end=True),
        Sampling(max_tokens=30, seed=3, repetition_penalty=1.3, ignore_end=True),
    ]
    told = []
    for force in (False, True):
        engine = BatchingEngine(tiny_decoder, tiny_tokenizer)
        if force:
            engine._graph = GraphStep(tiny_decoder, engine.cache)
        for way in ways:
            engine.submit([9, 10, 11, 12], way)
        outputs = []
        while engine.busy:
            outputs += engine.step()
        told.append(outputs)
    plain, forced = told
    assert [(o.request, o.index, o.ids) for o in plain] == [(o.request, o.index, o.ids) for o in forced]
    chosen = [[p.chosen for o in one for p in (*o.prompt_log_probs, *o.log_probs)] for one in told]
    assert len(chosen[0]) == 2 * 20 + 3
    assert chosen[0] == pytest.approx(chosen[1], abs=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="recording would not fail")
def test_where_recording_fails_steps_are_run_as_they_are(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = BatchingEngine(tiny_decoder, tiny_tokenizer)
    wanted = [c.ids for c in engine.complete([[9, 10], [11]], GREEDY)]
    engine._graph = GraphStep(tiny_decoder, engine.cache)
    engine._graph.recording = True
    assert [c.ids for c in engine.complete([[9, 10], [11]], GREEDY)] == wanted
    assert not engine._graph.recording and engine._graph.steps > 10
    assert capsys.readouterr().err.count("cannot be recorded as CUDA graphs") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_recording_repeats_the_step(shape: str) -> None:
    decoder = some_decoder("cuda", **SHAPES[shape])
    cache = some_cache(decoder)
    step = GraphStep.of(decoder, cache)
    assert step is not None and step.recording
    for rows in (5, 2, 5, 1, 4):
        spans, ids = SPANS[:rows], IDS[:rows]
        padded = step.shape(spans)
        assert padded is not None
        fill(cache)
        found = step(ids, spans, padded).clone()
        fill(cache)
        wanted = step.run(step._inputs(ids, spans, padded).cuda())[:rows]
        assert (found - wanted).abs().max() < 2e-5
    assert step.recording and len(step.recordings) == 4
