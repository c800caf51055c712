"""Decoders of every kind of position, mask and network: they are causal, train, and read any layout."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.nn.layout import Layout
from sishu.nn.rotary import RopeScaling

BASE = DecoderConfig(90, 32, 2, 4, 2, 8, 48, 64)
PLAIN = replace(BASE, norm="layer", qk_norm=False, gated=False, activation="gelu", mlp_bias=True)
PLAIN = replace(PLAIN, attention_bias=True, output_bias=True, kv_heads=4)
KINDS = {
    "rotary": BASE,
    "untied, one key-value head": replace(BASE, tied=False, kv_heads=1),
    "learned": replace(PLAIN, positions="learned"),
    "sinusoidal": replace(PLAIN, positions="sinusoidal"),
    "alibi": replace(PLAIN, positions="alibi", kv_heads=2),
    "alibi with a window": replace(BASE, positions="alibi", window=5),
    "a window": replace(BASE, window=5),
    "a window on one layer": replace(BASE, window=3, window_layers=(1,)),
    "yarn": replace(BASE, rope_scaling=RopeScaling("yarn", 4.0, 16)),
    "experts": replace(BASE, experts=Experts(4, 2, 24)),
    "experts in one block": replace(BASE, experts=Experts(3, 1, 24, normalised=False, layers=(1,))),
}


def made(config: DecoderConfig) -> Decoder:
    """Random weights, none of them zero."""
    decoder = Decoder(config)
    decoder.initialise(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=generator))
    return decoder.eval()


DECODERS = {name: made(config) for name, config in KINDS.items()}


def some_ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


every_kind = pytest.mark.parametrize("name", KINDS)


@every_kind
def test_weights_are_counted(name: str) -> None:
    decoder = DECODERS[name]
    assert decoder.config.parameters() == sum(weight.numel() for weight in decoder.parameters())


@every_kind
@torch.no_grad()
def test_it_is_causal(name: str) -> None:
    decoder, ids = DECODERS[name], some_ids(1, 20)
    before = decoder(ids)
    ids[0, 11] = (ids[0, 11] + 1) % 90
    after = decoder(ids)
    close(before[:, :11], after[:, :11])
    assert (before[:, 11] - after[:, 11]).abs().max() > 1e-2


@every_kind
def test_it_trains(name: str) -> None:
    """From its starting weights, every weight gets a gradient within two steps, and the loss falls."""
    decoder, ids = Decoder(KINDS[name]), some_ids(4, 20)
    decoder.initialise(3)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    losses, touched = [], set()
    for _ in range(12):
        loss = F.cross_entropy(decoder(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        touched |= {n for n, w in decoder.named_parameters() if w.grad is not None and w.grad.abs().sum() > 0}
        optimizer.step()
    assert abs(losses[0] - torch.log(torch.tensor(90.0))) < 1 and losses[-1] < losses[0] - 0.3
    # moving all keys by one vector changes no softmax: that bias learns nothing, up to rounding
    assert touched >= {n for n, _ in decoder.named_parameters() if not n.endswith("key.bias")}


@every_kind
@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1,) * 24, (9, 8, 7)])
def test_a_cache_changes_nothing(name: str, chunks: tuple[int, ...]) -> None:
    decoder, ids = DECODERS[name], some_ids(2, 24)
    cache, ends = decoder.new_cache(2, 30), list(itertools.accumulate(chunks))
    parts = [
        decoder(ids[:, a:b], cache.layout(torch.arange(a, b).expand(2, -1)))
        for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]
    close(torch.cat(parts, 1), decoder(ids))


@every_kind
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), left=st.booleans())
@settings(max_examples=15, deadline=None)
def test_padding_on_either_side_changes_nothing(name: str, lengths: list[int], left: bool) -> None:
    decoder, T = DECODERS[name], 12
    present = torch.zeros(len(lengths), T, dtype=torch.bool)
    for row, length in enumerate(lengths):
        present[row, slice(T - length, T) if left else slice(0, length)] = True
    ids = some_ids(len(lengths), T)
    with torch.no_grad():
        padded = decoder(ids, Layout.padded(present))
        assert padded.isfinite().all()
        for row in range(len(lengths)):
            close(padded[row, present[row]], decoder(ids[row, present[row]][None])[0])


@every_kind
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_packed_documents_are_as_if_alone(name: str, lengths: list[int]) -> None:
    decoder = DECODERS[name]
    ids = some_ids(1, sum(lengths))
    numbers = torch.tensor([[n for n, length in enumerate(lengths) for _ in range(length)]])
    with torch.no_grad():
        packed = decoder(ids, Layout.packed(numbers))
        for n in range(len(lengths)):
            own = numbers[0] == n
            close(packed[0, own], decoder(ids[0, own][None])[0])


@every_kind
@torch.no_grad()
def test_a_prefix_is_read_in_both_directions(name: str) -> None:
    decoder, ids = DECODERS[name], some_ids(2, 16)
    prefixes = torch.tensor([9, 0])
    before = decoder(ids, Layout.with_prefix(16, prefixes))
    close(before[1], decoder(ids)[1])
    ids[0, 8] = (ids[0, 8] + 1) % 90
    after = decoder(ids, Layout.with_prefix(16, prefixes))
    moved = (before[0] - after[0]).abs().amax(-1) > 1e-4
    # within the prefix every earlier position sees the change, as does every later one it reaches
    assert moved[:10].all()
    ids[0, 12] = (ids[0, 12] + 1) % 90
    later = decoder(ids, Layout.with_prefix(16, prefixes))
    close(after[0, :12], later[0, :12])


@every_kind
@torch.no_grad()
def test_in_bfloat16(name: str) -> None:
    """With and without a cache, and under autocast: near the logits in float32."""
    decoder, ids = DECODERS[name], some_ids(2, 20)
    exact = decoder(ids)
    half = Decoder(decoder.config).eval()
    half.load_state_dict(decoder.state_dict())
    half = half.to(torch.bfloat16)
    cache = half.new_cache(2, 20)
    assert cache.keys[0].dtype == torch.bfloat16
    first = half(ids[:, :12], cache.layout(torch.arange(12).expand(2, -1)))
    rest = [half(ids[:, t : t + 1], cache.layout(torch.full((2, 1), t))) for t in range(12, 20)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = decoder(ids)
    for found in (half(ids), torch.cat((first, *rest), 1), mixed):
        assert found.dtype == torch.bfloat16
        off = (found.float() - exact).norm(dim=-1) / exact.norm(dim=-1)
        # a token whose experts are near a tie may be sent to others
        assert off.median() < 0.03 and (decoder.config.experts or off.max() < 0.1)


def test_a_longer_text_than_the_context_is_read_with_dynamic_angles() -> None:
    """Below the original context the angles are the plain ones, beyond it slower."""
    scaled = replace(BASE, rope_scaling=RopeScaling("dynamic", 3.0, 16), context_length=48)
    decoder, plain = Decoder(scaled), Decoder(BASE)
    short, long = (torch.arange(n)[None] for n in (16, 40))
    assert torch.equal(decoder.rotary(short)[1], plain.rotary(short)[1])
    assert not torch.allclose(decoder.rotary(long)[1], plain.rotary(long)[1], atol=1e-2)
    assert torch.equal(decoder.rotary(short)[1], plain.rotary(short)[1]), "what was read before has no say"


@pytest.mark.parametrize(
    "change",
    [
        {"window": 0},
        {"rope_theta": 1.0, "rope_scaling": RopeScaling("yarn", 2.0, 16)},
        {"head_width": 2, "rope_scaling": RopeScaling("dynamic", 2.0, 16)},
        {"experts": Experts(4, 5, 8)},
        {"experts": Experts(4, 0, 8)},
        {"experts": Experts(4, 2, 0)},
        {"experts": Experts(4, 2, 8, layers=(2,))},
        {"window": 3, "window_layers": (-1,)},
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(BASE, **change)
