"""The well-known shapes have the published numbers of weights, and can be written as their families."""

from __future__ import annotations

import pytest

from sishu.models.config_file import written_shape
from sishu.models.families.decoders import DECODERS
from sishu.models.presets import PRESETS

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "mixtral-8x7b": 46_702_792_704,
}
"""Numbers of weights, each counted once, as the files of the published models hold them."""


@pytest.mark.parametrize("name", PRESETS)
def test_the_number_of_weights_is_the_published_one(name: str) -> None:
    assert PRESETS[name].parameters() == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_it_can_be_written_and_is_then_the_same(name: str) -> None:
    shape = PRESETS[name]
    family = DECODERS[shape.family]
    fields = written_shape(family, shape, family.causal)
    assert family.from_published(fields) == shape
