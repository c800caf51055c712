"""What the scaling laws are made to say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.road import load_recipe
from sishu.stages.advice import advice, chinchilla, deepest, effective_tokens
from sishu.stages.facts import Facts
from sishu.stages.forecast import plan_stages
from sishu.stages.shape import ModelSettings, derive_shape


@given(st.floats(1e3, 1e13), st.floats(0.01, 1000))
def test_repeated_text_is_worth_less_than_new(unique: float, passes: float) -> None:
    worth = effective_tokens(unique, passes)
    assert worth <= unique * passes * (1 + 1e-9)
    assert worth <= 16.39 * unique
    assert worth <= effective_tokens(unique, passes * 1.5)
    if passes <= 4:
        assert worth >= 0.9 * unique * passes


@given(st.floats(1e9, 1e26))
def test_chinchilla_spends_the_flops(flops: float) -> None:
    parameters, tokens = chinchilla(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert chinchilla(4 * flops)[0] == pytest.approx(2 * parameters)


@given(st.floats(1e3, 1e12))
def test_the_deepest_model_is_the_last_with_enough_text(tokens: float) -> None:
    m = ModelSettings()
    depth = deepest(m, 512, tokens) or 0

    def wanted(depth: int) -> int:
        shape, _ = derive_shape(m.model_copy(update={"depth": depth}), 512)
        return 20 * shape.parameters()

    assert depth == 0 or wanted(depth) <= tokens
    assert depth == 128 or wanted(depth + 1) > tokens


def test_advice_names_its_sources_and_depends_on_the_corpus() -> None:
    pretrain = {"model": {"context_length": 256}, "train": {"batch": 32, "steps": 300}}
    road = load_recipe("quickstart", {"pretrain": pretrain})
    for corpus, words in ((None, "unknown"), (720_000, "3.4 passes")):
        facts = Facts(vocabulary=4096, corpus_tokens=corpus)
        c, stages = plan_stages(road, facts)
        said = " ".join(advice(road, facts, c, stages[0]))
        assert words in said and "2203.15556" in said and "nanochat" in said
    assert "2305.16264" in said
