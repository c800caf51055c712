"""A longer context: what is asked for, composed over several times, and refused where it means nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from sishu.console import UserError
from sishu.models.cache_size import cache_bytes
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import read_decoder, write_model
from sishu.models.longer import Stretch, longer
from sishu.nn.rotary import RopeScaling, rotary_frequencies


def stretched(config: DecoderConfig) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(config)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(0.2 * torch.randn_like(weight))
    return decoder


def frequencies(c: DecoderConfig, length: int = 0) -> torch.Tensor:
    return rotary_frequencies(c.head_width, c.rope_theta, c.rope_scaling, length)


@pytest.mark.parametrize("kind", get_args(Stretch))
def test_the_context_grows_and_the_weights_stay(kind: Stretch, tiny_config: DecoderConfig) -> None:
    four = longer(tiny_config, 4, kind)
    assert four.context_length == 512
    assert four.rope_scaling == RopeScaling(kind, 4, 128)
    assert four.parameters() == tiny_config.parameters()
    assert replace(four, context_length=128, rope_scaling=None) == tiny_config
    # the slowest angle is slowed down by the whole factor, the fastest is kept but by linear
    plain, slow = frequencies(tiny_config), frequencies(four, 512)
    assert slow[0] == pytest.approx(plain[0] / (4 if kind == "linear" else 1))
    assert slow[-1] < plain[-1] / 3.9 if kind != "dynamic" else slow[-1] < plain[-1] / 4


@pytest.mark.parametrize("kind", get_args(Stretch))
def test_twice_is_the_product(kind: Stretch, tiny_config: DecoderConfig) -> None:
    assert longer(longer(tiny_config, 2, kind), 3, kind) == longer(tiny_config, 6, kind)


@pytest.mark.parametrize("kind", get_args(Stretch))
def test_twice_is_the_product_with_a_file_in_between(
    kind: Stretch, tiny_config: DecoderConfig, tmp_path: Path
) -> None:
    first = stretched(longer(tiny_config, 2, kind))
    write_model(first, tmp_path / "a")
    read = read_decoder(tmp_path / "a").config
    again = longer(read, 2, kind)
    once = longer(tiny_config, 4, kind)
    assert again.context_length == once.context_length == 512
    torch.testing.assert_close(frequencies(again, 512), frequencies(once, 512))
    # and the file of the second time is the model of the second time
    second = stretched(again)
    write_model(second, tmp_path / "b")
    ids = torch.arange(500)[None] % 320
    back = read_decoder(tmp_path / "b")
    assert back.config.context_length == 512
    torch.testing.assert_close(back(ids), second(ids))


def test_yarn_as_its_makers_set_it_keeps_their_borders(tiny_config: DecoderConfig) -> None:
    theirs = RopeScaling("yarn", 4.0, 32, fast=16.0, slow=2.0, truncate=False)
    again = longer(replace(tiny_config, rope_scaling=theirs), 2).rope_scaling
    assert again == replace(theirs, factor=8.0)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "alibi"])
def test_other_positions_are_refused(positions: str, tiny_config: DecoderConfig) -> None:
    with pytest.raises(UserError, match=f"{positions} positions cannot be made longer"):
        longer(replace(tiny_config, positions=positions), 2)  # type: ignore[arg-type]  # a parameter's strings


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0, float("nan"), float("inf")])
def test_a_factor_that_makes_nothing_longer_is_refused(factor: float, tiny_config: DecoderConfig) -> None:
    with pytest.raises(UserError, match="a factor above 1"):
        longer(tiny_config, factor)


def test_another_kind_on_top_is_refused(tiny_config: DecoderConfig) -> None:
    with pytest.raises(UserError, match="with linear before, and yarn would undo that: set kind=linear"):
        longer(longer(tiny_config, 2, "linear"), 2, "yarn")
    llama = replace(tiny_config, rope_scaling=RopeScaling("llama3", 8.0, 16))
    with pytest.raises(UserError, match=r"llama3 before.*cannot be stretched further"):
        longer(llama, 2)
    with pytest.raises(UserError, match="kind is 'llama3'"):
        longer(llama, 2, "llama3")  # type: ignore[arg-type]  # to be refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_size_of_the_cache_is_that_of_a_real_one(dtype: torch.dtype, tiny_decoder: Decoder) -> None:
    cache = tiny_decoder.new_cache(1, 100, dtype)
    real = sum(t[:, :, 1:].numel() * t.element_size() for t in (*cache.keys, *cache.values))
    assert cache_bytes(tiny_decoder.config, 100, dtype) == real
