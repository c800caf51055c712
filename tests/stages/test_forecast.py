"""Every training stage of a recipe, planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sishu.road import load_recipe
from sishu.stages.devices import DEVICES
from sishu.stages.facts import Facts, gather_facts
from sishu.stages.forecast import plan_stages


def test_every_stage_of_quickstart_is_planned() -> None:
    pretrain = {"model": {"context_length": 256}, "train": {"batch": 32, "steps": 300}}
    ppo = {"passes": 4, "answers": 2}
    road = load_recipe("quickstart", {"pretrain": pretrain, "ppo": ppo})
    c, stages = plan_stages(road, gather_facts(road, None))
    assert [s.name for s in stages] == ["pretrain", "sft", "reward", "ppo"]
    assert stages[0].tokens == 300 * 32 * 256
    assert stages[0].flops.products == 6 * c.parameters() * stages[0].tokens
    assert stages[0].flops.attention == 12 * c.layers * c.heads * c.head_width * 256 * stages[0].tokens
    assert all(s.flops.generation > 0 for s in stages[2:]) and stages[0].flops.generation == 0
    # twice the passes: the updates double, drawing and measuring the rollouts do not
    twice = load_recipe("quickstart", {"pretrain": pretrain, "ppo": ppo | {"passes": 8}})
    again = plan_stages(twice, Facts(vocabulary=4096))[1][3]
    assert 1.7 < again.flops.total / stages[3].flops.total < 2
    assert again.flops.generation == stages[3].flops.generation
    # four times the answers: all are drawn and scored, as many as before are learnt from
    more = load_recipe("quickstart", {"pretrain": pretrain, "ppo": ppo | {"answers": 8}})
    drawn = plan_stages(more, Facts(vocabulary=4096))[1][3]
    assert drawn.flops.generation == pytest.approx(4 * stages[3].flops.generation)
    assert drawn.tokens == stages[3].tokens


def test_activation_checkpointing_takes_less_memory_and_a_third_more_of_the_blocks() -> None:
    kept, again = (
        plan_stages(load_recipe("quickstart", {"pretrain": settings}), Facts(vocabulary=4096))[1][0]
        for settings in (
            {"model": {"depth": 8}, "train": {"batch": 16, "micro_batch": 16, "activation_checkpointing": c}}
            for c in (False, True)
        )
    )
    assert again.flops.products == kept.flops.products and kept.flops.recomputed == 0
    trunk = kept.flops.products - 6 * 4096 * 512 * again.tokens + kept.flops.attention
    assert again.flops.recomputed == pytest.approx(trunk / 3)
    assert again.flops.total == kept.flops.total + again.flops.recomputed
    for device in DEVICES:
        assert device.memory_of(again).total < 0.6 * device.memory_of(kept).total
        assert device.seconds(again) > 1.1 * device.seconds(kept)


def test_a_processor_keeps_less_by_compiled_functions_but_the_shares_of_attention() -> None:
    cpu = replace(DEVICES[0], bf16=1e12)
    assert cpu.cpu and not DEVICES[-1].cpu
    short, long = (
        plan_stages(
            load_recipe("quickstart", {"pretrain": {"model": {"context_length": n}}}), Facts(vocabulary=4096)
        )[1][0]
        for n in (128, 1024)
    )
    for stage in (short, long):
        assert DEVICES[-1].memory_of(stage) == stage.memories[True, False]
        assert cpu.memory_of(stage) == stage.memories[True, True]
        assert DEVICES[0].memory_of(stage) == stage.memories[False, True]  # no bfloat16 there
    assert cpu.memory_of(short).activations < DEVICES[-1].memory_of(short).activations
    assert cpu.memory_of(long).activations > DEVICES[-1].memory_of(long).activations
