"""The decoder: counting weights, starting, padding, generating with a cache, and the end of the context."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.models.families.decoders import DECODERS
from sishu.models.folder import published_config, published_weights
from sishu.models.presets import PRESETS


def some_ids(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(6, 320, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted(tied: bool) -> None:
    config = DecoderConfig(
        vocabulary=50,
        width=24,
        layers=3,
        heads=3,
        kv_heads=1,
        head_width=10,
        hidden=40,
        context_length=16,
        tied=tied,
    )
    model = Decoder(config)
    assert config.parameters() == sum(w.numel() for w in model.parameters())
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)] + ([] if tied else [model.head])
    assert config.parameters(embedding=False) == config.parameters() - sum(m.weight.numel() for m in tables)


def test_a_shape_that_cannot_be_is_refused(tiny_config: DecoderConfig) -> None:
    fields = {name: getattr(tiny_config, name) for name in tiny_config.__dataclass_fields__}
    for change in ({"layers": 0}, {"kv_heads": 3}, {"head_width": 7}, {"rope_theta": -1.0}, {"hidden": -4}):
        with pytest.raises(ValueError, match=next(iter(change))):
            DecoderConfig(**(fields | change))


def test_initialise_is_reproducible_and_blocks_start_as_the_identity(tiny_config: DecoderConfig) -> None:
    one, two, other = Decoder(tiny_config), Decoder(tiny_config), Decoder(tiny_config)
    one.initialise(3)
    torch.manual_seed(99)  # the global generator has no say
    two.initialise(3)
    other.initialise(4)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    ids = some_ids(2, 10)
    with torch.no_grad():
        x = one.embedding(ids)
        assert torch.equal(one.hidden(ids), one.norm(x))
        loss = nn.functional.cross_entropy(one(ids).flatten(0, 1), some_ids(2, 10, seed=2).flatten())
    assert abs(float(loss) - torch.log(torch.tensor(320.0))) < 0.2


def test_matrices_start_with_variance_one_over_fan_in(tiny_config: DecoderConfig) -> None:
    model = Decoder(tiny_config)
    model.initialise(0)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and weight.abs().sum() > 0 and name != "embedding.weight":
            assert 0.8 < float(weight.detach().var()) * weight.shape[1] < 1.2, name


def test_gpt2_starts_as_transformers_starts_it() -> None:
    config = replace(
        PRESETS["gpt2"], vocabulary=2000, width=128, layers=3, heads=4, kv_heads=4, head_width=32
    )
    model = Decoder(config)
    model.initialise(0)
    ours = published_weights(model, DECODERS["gpt2"], None)
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**published_config(model)))
    for name, weight in theirs.state_dict().items():
        if name == "lm_head.weight":
            continue  # the embedding
        if weight.std() == 0:
            assert torch.equal(weight, ours[name]), name
        else:
            assert abs(float(ours[name].std() / weight.std()) - 1) < 0.02, name
            assert abs(float(ours[name].mean())) < 0.01 * float(weight.std()) + 1e-4, name


@torch.no_grad()
def test_right_padding_changes_nothing_before_it(tiny_decoder: Decoder) -> None:
    ids = some_ids(2, 20)
    padded = torch.cat((ids, torch.full((2, 9), 1)), dim=1)
    torch.testing.assert_close(tiny_decoder(padded)[:, :20], tiny_decoder(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1,) * 30, (20, *(1,) * 10), (7, 11, 12)])
def test_generating_with_a_cache_is_the_full_forward(tiny_decoder: Decoder, chunks: tuple[int, ...]) -> None:
    ids = some_ids(2, 30)
    whole = tiny_decoder(ids)
    cache = tiny_decoder.new_cache(2, 30)
    ends = list(itertools.accumulate(chunks))
    parts = [
        tiny_decoder(ids[:, a:b], cache.layout(torch.arange(a, b).expand(2, -1)))
        for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_of_different_lengths_share_a_cache(tiny_decoder: Decoder) -> None:
    ids, lengths = some_ids(3, 40), torch.tensor([25, 3, 14])
    alone = [tiny_decoder(ids[row : row + 1])[0] for row in range(3)]
    prompts = torch.full((3, 25), 1)
    for row, length in enumerate(lengths.tolist()):
        prompts[row, :length] = ids[row, :length]
    cache = tiny_decoder.new_cache(3, 40)
    first = tiny_decoder(prompts, cache.layout(torch.arange(25).expand(3, -1)))
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(first[row, :length], alone[row][:length], atol=2e-5, rtol=1e-4)
    for step in range(15):
        at = lengths + step
        logits = tiny_decoder(ids[torch.arange(3), at][:, None], cache.layout(at[:, None]))
        for row in range(3):
            torch.testing.assert_close(logits[row, 0], alone[row][at[row]], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_context_can_be_filled_but_not_exceeded(tiny_decoder: Decoder) -> None:
    longest = tiny_decoder.config.context_length
    assert tiny_decoder(some_ids(1, longest)).shape == (1, longest, 320)
    with pytest.raises(ValueError, match="exceed the context of 128"):
        tiny_decoder(some_ids(1, longest + 1))
    with pytest.raises(ValueError, match="exceeds the context of 128"):
        tiny_decoder.new_cache(1, longest + 1)
    cache = tiny_decoder.new_cache(1, longest)
    with pytest.raises(IndexError):
        tiny_decoder(some_ids(1, 1), cache.layout(torch.tensor([[longest]])))


@torch.no_grad()
def test_a_scorer_starts_from_the_decoder(tiny_decoder: Decoder) -> None:
    one, two = Scorer(tiny_decoder.config), Scorer(tiny_decoder.config)
    one.start_from(tiny_decoder, seed=5)
    two.start_from(tiny_decoder, seed=5)
    ids = some_ids(2, 12)
    assert one(ids).shape == (2, 12) and torch.equal(one(ids), two(ids))
    states = tiny_decoder.hidden(ids)
    torch.testing.assert_close(one(ids), (states * one.score.weight[0]).sum(-1), atol=1e-5, rtol=1e-5)
    before = tiny_decoder.embedding.weight.clone()
    one.trunk.embedding.weight.add_(1.0)
    assert torch.equal(tiny_decoder.embedding.weight, before)


@torch.no_grad()
def test_a_scorer_of_an_untied_decoder_has_no_head(tiny_config: DecoderConfig) -> None:
    decoder = Decoder(replace(tiny_config, tied=False))
    scorer = Scorer(decoder.config)
    scorer.start_from(decoder, seed=1)
    assert scorer.trunk.head is None and scorer.config == decoder.config
    ids = some_ids(1, 4)
    assert torch.equal(scorer.trunk.hidden(ids), decoder.hidden(ids))
