"""Norms of layers, asked for, against those worked out by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sishu.batches.tokens import Windows
from sishu.models.decoder import Decoder, Scorer
from sishu.objectives.language import next_token
from sishu.run import Run
from sishu.train.layer_norms import LayerNorms
from sishu.train.trainer import Trainer, TrainSettings

TOKENS = np.random.default_rng(0).integers(6, 320, 700).astype(np.uint16)
NAMES = ["embedding", "blocks.0", "blocks.1", "norm"]


def train(folder: Path, decoder: Decoder, **changes: Any) -> list[dict[str, Any]]:
    settings = TrainSettings(batch=4, micro_batch=2, precision="fp32", **changes)
    source = Windows(TOKENS, 16, 4, 2, seed=0)
    with Run(folder).begin("pretrain", "key", settings, {}, seed=3) as (context, _):
        model = copy.deepcopy(decoder).train()
        Trainer(model, next_token, source, settings, context, steps=5, learning_rate=3e-3).fit()
        return [json.loads(line) for line in (context.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_so_many_steps(tmp_path: Path, tiny_decoder: Decoder, checkpointing: bool) -> None:
    lines = train(tmp_path, tiny_decoder, layer_norms_every=2, activation_checkpointing=checkpointing)
    kinds = ("layer_activation_rms", "layer_gradient_norm")
    for line in lines:
        layers = {name for name in line if "/" in name}
        assert layers == ({f"{k}/{n}" for k in kinds for n in NAMES} if line["step"] % 2 == 0 else set())
        if layers:
            squares = sum(line[name] ** 2 for name in layers if name.startswith(kinds[1]))
            assert squares**0.5 == pytest.approx(line["gradient_norm"], rel=1e-5)


def test_off_unless_asked_for_and_no_bit_of_training_changes(tmp_path: Path, tiny_decoder: Decoder) -> None:
    plain = train(tmp_path / "plain", tiny_decoder)
    asked = train(tmp_path / "asked", tiny_decoder, layer_norms_every=1)
    assert not any("/" in name for line in plain for name in line)
    assert [line["loss"] for line in plain] == [line["loss"] for line in asked]


def test_activations_are_those_of_the_layers_output(tiny_decoder: Decoder) -> None:
    model, norms = copy.deepcopy(tiny_decoder), LayerNorms(tiny_decoder)
    norms = LayerNorms(model)
    batches = Windows(TOKENS, 16, 4, 2, seed=0).batches(0)
    for batch in batches:
        with norms.listening():
            loss = next_token(model, batch).total
        loss.backward()
        model(batch["ids"])  # not listened to
    found = norms.figures()
    ids = torch.cat([b["ids"] for b in batches])
    x = model.embedding(ids)
    expected = {"embedding": x}
    layout_of = model.rotary(torch.arange(16)[None])
    from sishu.nn.layout import Layout

    layout = Layout.plain(16, torch.device("cpu"))
    for number, block in enumerate(model.blocks):
        x = block(x, layout, layout_of)
        expected[f"blocks.{number}"] = x
    expected["norm"] = model.norm(x)
    for name, value in expected.items():
        size = float(value.detach().square().mean().sqrt())
        assert found[f"layer_activation_rms/{name}"] == pytest.approx(size, rel=1e-4)
    assert not any(name.startswith("layer_activation") for name in norms.figures()), "heard once"


def test_every_weight_is_in_one_layer(tiny_decoder: Decoder) -> None:
    for model in (tiny_decoder, Scorer(tiny_decoder.config)):
        held = [id(w) for layer in LayerNorms(model).layers.values() for w in layer.parameters()]
        assert sorted(held) == sorted(id(w) for w in model.parameters())
