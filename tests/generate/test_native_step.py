"""Compiled decoding computes what the decoder computes, in every shape and with every kind of weights."""

from __future__ import annotations

import copy
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sishu.generate.native_step import NativeStep
from sishu.generate.paged_cache import PagedCache, Span
from sishu.generate.quantise import Int4Linear, ReadyLinear, Weights, ready
from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.native import build, decode
from sishu.native.build import library
from sishu.nn.rotary import RopeScaling

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C++ compiler")

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"qk_norm": False, "tied": False, "rope_scaling": RopeScaling("yarn", 4, 64)},
    "qwen2": {"qk_norm": False, "attention_bias": True},
    "mistral": {"qk_norm": False, "window": 7},
    "gpt2": {
        **{"norm": "layer", "positions": "learned", "gated": False, "qk_norm": False, "mlp_bias": True},
        **{"attention_bias": True, "output_bias": True, "activation": "gelu_tanh"},
    },
    "sinusoidal": {"positions": "sinusoidal", "activation": "gelu", "mlp_bias": True},
    "relu": {"activation": "relu", "gated": False},
    "odd": {"width": 52, "heads": 3, "kv_heads": 1, "head_width": 22, "hidden": 75},
    "wide heads": {"head_width": 80, "heads": 2, "kv_heads": 1},
}
KINDS: list[Weights] = ["fp32", "bf16", "int8", "int4"]
SPANS = [
    Span(0, 1, (3,)),
    Span(17, 3, (5, 0, 9)),
    Span(8, 1, (7, 2)),
    Span(31, 4, (1, 4, 6, 8, 10)),
    Span(0, 2, (11,)),
]
IDS = torch.randint(
    0, 320, (sum(s.count for s in SPANS),), generator=torch.Generator().manual_seed(3)
).tolist()

EVERY = range(len(IDS))
MANY = [Span(5, 47, (4, 1, 7, 3, 2, 9, 0)), Span(17, 1, (5, 11, 6)), Span(0, 7, (8,))]
"""More tokens than are multiplied row by row, so that weights are laid out anew."""
MANY_IDS = torch.randint(
    0, 320, (sum(s.count for s in MANY),), generator=torch.Generator().manual_seed(8)
).tolist()


def some_decoder(**more: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = {"width": 64, "heads": 4, "kv_heads": 2, "head_width": 16, "hidden": 128}
    decoder = Decoder(DecoderConfig(vocabulary=320, layers=2, context_length=128, **(sizes | more)))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        decoder.embedding.weight.mul_(0.1)
    return decoder.eval()


def some_cache(decoder: Decoder, seed: int = 1) -> PagedCache:
    """Twelve blocks of eight positions, full of numbers."""
    c = decoder.config
    cache = PagedCache(c.layers, c.kv_heads, c.head_width, 12, 8, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(seed)
    cache.keys.copy_(torch.randn(cache.keys.shape, generator=generator))
    cache.values.copy_(torch.randn(cache.values.shape, generator=generator))
    return cache


def dense(matrix: ReadyLinear) -> Tensor:
    """A matrix in float32, as its kind says that it is to be read."""
    weight = matrix.weight
    if matrix.kind == "int8":
        return weight.float() * matrix.scale.float()[:, None]
    if matrix.kind == "int4":
        scale = matrix.scale.float()
        codes = torch.cat((weight & 15, weight >> 4), dim=2).float()
        return (codes * scale[..., :1] + scale[..., 1:]).flatten(1)
    return weight.float()


def unpacked(decoder: Decoder) -> Decoder:
    """The same decoder, its small matrices multiplied in float32."""
    decoder = copy.deepcopy(decoder)
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ReadyLinear):
                linear = torch.nn.Linear(child.inputs, child.outputs, bias=child.bias is not None)
                linear.weight.data = dense(child)
                if child.bias is not None:
                    linear.bias.data = child.bias.float()
                setattr(module, name, linear)
    return decoder


def expected(
    decoder: Decoder, cache: PagedCache, ids: Sequence[int] = IDS, spans: Sequence[Span] = SPANS
) -> Tensor:
    states = decoder.hidden(torch.tensor([ids]), cache.layout(list(spans)))[0]
    return decoder.logits(states)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_it_is_what_the_decoder_computes(shape: str, kind: Weights) -> None:
    """Logits, and what is left in the cache: to rounding in float32; where small weights are multiplied in
    bfloat16, within what rounding the inputs to 8 bits may cost."""
    decoder = ready(some_decoder(**SHAPES[shape]), kind)
    cache, reference = some_cache(decoder), some_cache(decoder)
    step = NativeStep.of(decoder, cache)
    assert step is not None
    found, wanted = step(IDS, SPANS, EVERY), expected(unpacked(decoder), reference)
    bound = 2e-5 if kind == "fp32" else 0.03
    assert (found - wanted).abs().max() < bound * wanted.abs().max()
    assert (cache.keys - reference.keys).abs().max() < bound * reference.keys.abs().max()
    assert (cache.values - reference.values).abs().max() < bound * reference.values.abs().max()
    changed = [slot for span in SPANS for slot in cache.slots(span)]
    untouched = torch.ones(cache.keys.shape[2], dtype=torch.bool)
    untouched[changed] = False
    before = some_cache(decoder)
    assert torch.equal(cache.keys[:, :, untouched], before.keys[:, :, untouched])
    assert torch.equal(cache.values[:, :, untouched], before.values[:, :, untouched])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_prompts_are_what_the_decoder_computes(shape: str, kind: Weights) -> None:
    decoder = ready(some_decoder(**SHAPES[shape]), kind)
    found = NativeStep(decoder, some_cache(decoder))(MANY_IDS, MANY, range(len(MANY_IDS)))
    wanted = expected(unpacked(decoder), some_cache(decoder), MANY_IDS, MANY)
    assert (found - wanted).abs().max() < (2e-5 if kind == "fp32" else 0.03) * wanted.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "odd"])
@torch.inference_mode()
def test_a_text_reads_the_same_alone_among_others_and_on_more_threads(shape: str, kind: Weights) -> None:
    """To the last bit."""
    decoder = ready(some_decoder(**SHAPES[shape]), kind)
    together = NativeStep.of(decoder, some_cache(decoder))
    assert together is not None
    logits = together(IDS, SPANS, EVERY)
    for threads in (1, 2, 3):
        again = NativeStep(decoder, some_cache(decoder))
        again.threads = threads
        assert torch.equal(again(IDS, SPANS, EVERY), logits)
    alone, at = NativeStep(decoder, some_cache(decoder)), 0
    for span in SPANS:
        assert torch.equal(
            alone(IDS[at : at + span.count], [span], range(span.count)), logits[at : at + span.count]
        )
        at += span.count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["qwen3", "mistral", "odd"])
@torch.inference_mode()
def test_a_prompt_reads_the_same_in_pieces(shape: str, kind: Weights) -> None:
    """To the last bit."""
    decoder = ready(some_decoder(**SHAPES[shape]), kind)
    at_once, in_pieces = NativeStep(decoder, some_cache(decoder)), NativeStep(decoder, some_cache(decoder, 2))
    ids = torch.randint(0, 320, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    blocks = (4, 1, 7, 3, 2, 9, 0, 5)
    whole = at_once(ids, [Span(0, 60, blocks)], range(60))
    read = 0
    for count in (1, 30, 7, 22):
        piece = in_pieces(ids[read : read + count], [Span(read, count, blocks)], range(count))
        assert torch.equal(piece, whole[read : read + count])
        read += count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "mistral", "odd"])
@torch.inference_mode()
def test_answers_are_the_same_however_few_are_wanted(shape: str, kind: Weights) -> None:
    """To the last bit, what is left in the cache too; in any order."""
    decoder = ready(some_decoder(**SHAPES[shape]), kind)
    caches = [some_cache(decoder), some_cache(decoder)]
    every, some = (NativeStep(decoder, cache) for cache in caches)
    for ids, spans in ((IDS, SPANS), (MANY_IDS, MANY)):
        logits = every(ids, spans, range(len(ids)))
        rows = len(ids)
        for wanted in ([], [rows - 1], [0, 2], [2, 0, 0], list(range(1, rows)), list(range(rows // 2))):
            for threads in (1, 2):
                some.threads = threads
                assert torch.equal(some(ids, spans, wanted), logits[wanted])
                assert torch.equal(caches[1].keys, caches[0].keys)
                assert torch.equal(caches[1].values, caches[0].values)


@pytest.mark.parametrize("rows", range(1, 20))
@torch.inference_mode()
def test_any_number_of_rows(rows: int) -> None:
    decoder = ready(some_decoder())
    step = NativeStep.of(decoder, some_cache(decoder))
    assert step is not None
    ids, spans = IDS[:1] * rows, [Span(3, rows, (0, 1, 2, 3))]
    found = step(ids, spans, range(rows))
    wanted = decoder.logits(decoder.hidden(torch.tensor([ids]), some_cache(decoder).layout(spans))[0])
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_a_long_text() -> None:
    """A context full of positions that lie anywhere."""
    decoder = ready(some_decoder())
    c = decoder.config
    cache = PagedCache(c.layers, c.kv_heads, c.head_width, 120, 1, torch.device("cpu"), torch.float32)
    other = PagedCache(c.layers, c.kv_heads, c.head_width, 120, 1, torch.device("cpu"), torch.float32)
    for pool, copied in ((cache.keys, other.keys), (cache.values, other.values)):
        copied.copy_(pool.normal_(generator=torch.Generator().manual_seed(2)))
    blocks = torch.randperm(120, generator=torch.Generator().manual_seed(4)).tolist()
    spans = [Span(119, 1, tuple(blocks))]
    with torch.inference_mode():
        step = NativeStep(decoder, cache)
        wanted = decoder.logits(decoder.hidden(torch.tensor([[7]]), other.layout(spans))[0])
        torch.testing.assert_close(step([7], spans, [0]), wanted, atol=2e-5, rtol=1e-4)


def test_what_it_does_not_know_is_left_to_torch() -> None:
    for more in ({"experts": Experts(4, 2, 32)}, {"positions": "alibi"}):
        decoder = ready(some_decoder(**more))
        assert NativeStep.of(decoder, some_cache(decoder)) is None
    decoder = some_decoder()
    assert NativeStep.of(decoder, some_cache(decoder)) is None, "it was not made ready"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs processors whose parts can be left unused")
@pytest.mark.parametrize("without", ["-mno-avx512bf16", "-mno-avx512f", "-mno-fma"])
@torch.inference_mode()
def test_on_other_processors(without: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Code for a processor that has less: no products of bfloat16, no vectors of 512 bits."""
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, without))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build._attempt.cache_clear()
    try:
        for kind in KINDS:
            for shape in ("qwen3", "gpt2", "odd"):
                decoder = ready(some_decoder(**SHAPES[shape]), kind)
                step = NativeStep.of(decoder, some_cache(decoder))
                assert step is not None, build.absence()
                wanted = expected(unpacked(decoder), some_cache(decoder))
                # without that one, numbers are still multiplied in bfloat16
                bound = 0.03 if without == "-mno-fma" and kind != "fp32" else 2e-5
                assert (step(IDS, SPANS, EVERY) - wanted).abs().max() < bound * wanted.abs().max()
                whole = NativeStep(decoder, some_cache(decoder))(MANY_IDS, MANY, range(len(MANY_IDS)))
                alone = NativeStep(decoder, some_cache(decoder))(MANY_IDS[:47], MANY[:1], range(47))
                one = NativeStep(decoder, some_cache(decoder))([MANY_IDS[47]], MANY[1:2], [0])
                assert torch.equal(whole[:48], torch.cat((alone, one)))
                wanted = expected(unpacked(decoder), some_cache(decoder), MANY_IDS, MANY)
                assert (whole - wanted).abs().max() < bound * wanted.abs().max()
    finally:
        build._attempt.cache_clear()


@torch.inference_mode()
def test_a_decoder_opened_in_bfloat16_is_computed_in_float32() -> None:
    decoder = ready(some_decoder().to(torch.bfloat16))
    step = NativeStep.of(decoder, some_cache(decoder))
    assert step is not None
    wanted = expected(decoder, some_cache(decoder))
    torch.testing.assert_close(step(IDS, SPANS, EVERY), wanted, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_four_bits_are_unpacked_alike() -> None:
    weight = torch.randn(70, 96, generator=torch.Generator().manual_seed(2))
    four = Int4Linear(weight, None)
    assert torch.equal(decode.unpacked(four.weight, four.scale), dense(four).to(torch.bfloat16))


@torch.inference_mode()
def test_a_token_outside_the_vocabulary_is_refused() -> None:
    decoder = ready(some_decoder())
    step = NativeStep.of(decoder, some_cache(decoder))
    assert step is not None
    with pytest.raises(IndexError):
        step([320], [Span(0, 1, (0,))], [0])
