"""A decoder made ready says what it said; with smaller weights nearly so, and how nearly is bounded."""

from __future__ import annotations

import copy

import pytest
import torch

from sishu.generate.quantise import Bf16Linear, Int4Linear, Int8Linear, Weights, ready, weight_bytes
from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.native.build import library


def some_decoder(**more: object) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(320, 64, 2, 4, 2, 16, 128, 128, **more))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        decoder.embedding.weight.mul_(0.1)  # or every token but one would be as good as impossible
    return decoder.eval()


SHAPES = {
    "tied": {},
    "untied": {"tied": False, "qk_norm": False},
    "biases": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    "gpt2": {"norm": "layer", "positions": "learned", "gated": False, "qk_norm": False, "mlp_bias": True},
    "experts": {"experts": Experts(4, 2, 32)},
}
IDS = torch.randint(0, 320, (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_fp32_is_the_same_up_to_rounding(shape: str) -> None:
    decoder = some_decoder(**SHAPES[shape])
    expected = decoder(IDS)
    torch.testing.assert_close(ready(copy.deepcopy(decoder))(IDS), expected, atol=2e-5, rtol=1e-4)


@pytest.fixture(params=["compiled", "torch"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With compiled code, where there is a compiler, and without."""
    if request.param == "torch":
        monkeypatch.setattr("sishu.generate.quantise.library", lambda: None)
    elif library() is None:
        pytest.skip("needs a C++ compiler")


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(("weights", "bound"), [("bf16", 1e-4), ("int8", 1e-3), ("int4", 6e-2)])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_smaller_weights_change_little(shape: str, weights: Weights, bound: float) -> None:
    """Mean Kullback-Leibler divergence in nats, per token; and it is not nothing, or nothing was rounded."""
    decoder = some_decoder(**SHAPES[shape])
    before = decoder(IDS).log_softmax(-1)
    small = ready(copy.deepcopy(decoder), weights)
    after = small(IDS).log_softmax(-1)
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    bound *= 10 if shape == "experts" else 1  # where two are nearly as good, the other one may be chosen
    assert 0 < divergence < bound
    assert weight_bytes(small) < 0.56 * weight_bytes(decoder)
    alone = small(IDS[:1, :7]).log_softmax(-1)  # few rows go through other products
    assert float((alone.exp() * (alone - after[:1, :7])).sum(-1).mean().abs()) < bound


@pytest.mark.usefixtures("code")
@torch.no_grad()
def test_every_bit_is_used() -> None:
    """The error of a weight is at most half a step of its scale."""
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(2))
    eye = torch.eye(96)
    eight = Int8Linear(weight, None)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((eight(eye).T - weight).abs() <= 0.51 * step + 0.01 * weight.abs()).all()
    assert eight.weight.unique().numel() > 200
    four = Int4Linear(weight, None)
    groups = weight.unflatten(1, (-1, 32))
    step = ((groups.amax(2) - groups.amin(2)) / 15).repeat_interleave(32, 1)
    assert ((four(eye).T - weight).abs() <= 0.6 * step + 0.02).all()
    assert torch.equal(Bf16Linear(weight, None)(eye).T, weight.bfloat16().float())
