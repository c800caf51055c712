"""One dial decides a shape that can be built, and says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.config import build
from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.models.families.decoders import DECODERS
from sishu.models.folder import published_config
from sishu.models.presets import PRESETS
from sishu.stages.shape import ModelSettings, derive_plan, derive_shape
from sishu.train.trainer import TrainSettings


@given(
    depth=st.integers(1, 40),
    width=st.none() | st.integers(8, 3000),
    heads=st.none() | st.integers(1, 64),
    hidden=st.none() | st.integers(8, 9000),
)
@settings(deadline=None)
def test_every_derived_shape_holds_together(
    depth: int, width: int | None, heads: int | None, hidden: int | None
) -> None:
    """Whatever is given, the rest fits: `DecoderConfig` refuses what cannot be built."""
    m = ModelSettings(depth=depth, width=width, heads=heads, hidden=hidden)
    config, reasons = derive_shape(m, 1000)
    assert config.layers == depth and config.vocabulary == 1000
    assert width is None or config.width == width
    assert heads is None or config.heads == heads
    assert hidden is None or config.hidden == hidden
    told = {name for name, _, why in reasons if why}
    assert told >= {n for n in ("width", "heads", "kv_heads", "hidden") if getattr(m, n) is None}
    for name, value, _ in reasons:
        assert value == str(getattr(config, name))


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_the_dial_grows_everything(depth: int) -> None:
    small, _ = derive_shape(ModelSettings(depth=depth), 500)
    large, _ = derive_shape(ModelSettings(depth=depth + 1), 500)
    assert large.parameters() > 1.2 * small.parameters() and large.width > small.width
    assert sum(w.numel() for w in Decoder(small).parameters()) == small.parameters()


def test_heads_fill_the_width_and_never_get_narrower() -> None:
    shapes = [derive_shape(ModelSettings(depth=depth), 500)[0] for depth in range(1, 25)]
    assert all(c.heads * c.head_width == c.width for c in shapes)
    widths = [c.head_width for c in shapes]
    assert widths == sorted(widths) and set(widths) <= {32, 64, 128}


def test_heads_that_do_not_pair_up_are_named() -> None:
    with pytest.raises(UserError, match=r"kv_heads"):
        derive_shape(ModelSettings(heads=4, kv_heads=3), 500)


@pytest.mark.parametrize("field", ["depth", "width", "heads", "kv_heads", "hidden", "context_length"])
def test_nonsense_is_refused(field: str) -> None:
    with pytest.raises(UserError, match=field):
        build(ModelSettings, {field: 0})


def test_steps_follow_the_corpus_and_the_weights() -> None:
    m, t = ModelSettings(depth=2, context_length=64), TrainSettings(batch=8)
    per_step = 8 * 64
    large = derive_plan(m, t, 500, corpus_tokens=10**9)
    weights = large.config.parameters(embedding=False)
    assert large.steps * per_step == large.tokens
    assert 0 <= 12 * weights - large.tokens < per_step
    small = derive_plan(m, t, 500, corpus_tokens=100_000)
    assert 0 <= 10 * 100_000 - small.tokens < per_step, "no more than ten passes"
    assert "by heart" in {n: why for n, _, why in small.reasons}["tokens"]
    assert derive_plan(m, t, 500, corpus_tokens=1).steps == 20


def test_what_is_given_is_not_derived() -> None:
    plan = derive_plan(ModelSettings(depth=2), TrainSettings(steps=7, learning_rate=1e-3), 500, 10**6)
    assert plan.steps == 7 and plan.learning_rate == 1e-3
    assert not {"tokens", "learning_rate"} & {name for name, _, _ in plan.reasons}


def test_wider_models_learn_more_slowly() -> None:
    rates = [
        derive_plan(ModelSettings(depth=d), TrainSettings(), 500, 10**6).learning_rate for d in (2, 4, 8)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] / rates[2] == pytest.approx(2.0), "with the square root of the width"


# --- well-known shapes

DENSE = [name for name, shape in PRESETS.items() if shape.experts is None]


@pytest.mark.parametrize("name", DENSE)
def test_a_preset_is_the_whole_shape_but_for_the_vocabulary(name: str) -> None:
    m = build(ModelSettings, {"preset": name})
    config, reasons = derive_shape(m, PRESETS[name].vocabulary)
    assert config == PRESETS[name] and [what for what, *_ in reasons] == ["preset"]
    other, _ = derive_shape(m, 1000)
    assert other == replace(PRESETS[name], vocabulary=1000)
    assert m.context_length == PRESETS[name].context_length
    assert build(ModelSettings, m.model_dump()) == m, "as a run's recipe.yaml writes it out"


def test_what_is_given_takes_the_place_of_the_presets() -> None:
    m = build(ModelSettings, {"preset": "gpt2", "depth": 2, "hidden": 100, "context_length": 64})
    config, _ = derive_shape(m, 1000)
    wanted = replace(PRESETS["gpt2"], vocabulary=1000, layers=2, hidden=100, context_length=64)
    assert config == wanted


@pytest.mark.parametrize(
    ("name", "width", "heads", "kv_heads", "hidden"),
    [("gpt2", 384, 6, 6, 1536), ("smollm2-135m", 192, 3, 1, 512), ("qwen3-0.6b", 512, 8, 4, 1536)],
)
def test_another_width_keeps_the_presets_proportions(
    name: str, width: int, heads: int, kv_heads: int, hidden: int
) -> None:
    config, reasons = derive_shape(build(ModelSettings, {"preset": name, "width": width}), 1000)
    assert (config.heads, config.kv_heads, config.hidden) == (heads, kv_heads, hidden)
    assert config.head_width == PRESETS[name].head_width
    told = {what: value for what, value, why in reasons[1:] if why}
    assert told == {what: str(getattr(config, what)) for what in ("heads", "kv_heads", "hidden")}


@pytest.mark.parametrize("name", ["gpt2", "smollm2-135m", "llama-3-8b", "qwen2.5-0.5b", "qwen3-0.6b"])
def test_a_small_one_of_each_family_can_be_made_and_written(name: str) -> None:
    given = {"preset": name, "depth": 1, "heads": 2, "kv_heads": 2, "width": 64, "context_length": 16}
    config, _ = derive_shape(build(ModelSettings, given), 300)
    model = Decoder(config)
    assert sum(w.numel() for w in model.parameters()) == config.parameters()
    assert DECODERS[config.family].from_published(published_config(model)) == config


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"preset": "gpt2-xll"}, r"no preset 'gpt2-xll' \(did you mean 'gpt2-xl'\?\)"),
        ({"preset": "mixtral-8x7b"}, "has experts"),
    ],
)
def test_a_preset_that_cannot_be_trained_is_refused_by_name(given: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(ModelSettings, given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"preset": "gpt2", "width": 700}, r"gpt2 do not come out whole with width 700: give model\.heads"),
        ({"preset": "gpt2", "heads": 5}, r"with width 768: give model\.heads"),
        ({"preset": "smollm2-135m", "heads": 4}, r"with heads 4: give model\.kv_heads"),
        ({"preset": "qwen3-0.6b", "heads": 5}, r"with heads 5: give model\.kv_heads"),
        ({"preset": "gpt2", "kv_heads": 4}, "kv_heads = 4 cannot be written as gpt2"),
    ],
)
def test_sizes_that_do_not_go_together_are_told_in_a_sentence(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        derive_shape(build(ModelSettings, given), 1000)
