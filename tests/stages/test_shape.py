"""One dial decides a shape that can be built, and says why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.config import build
from sishu.console import UserError
from sishu.models.decoder import Decoder
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
