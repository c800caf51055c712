"""Blocks worked out again, or made by torch's compiler: the same gradients for less memory, or faster."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sishu.batches.batch import Batch
from sishu.batches.packed import Packed
from sishu.batches.tokens import Windows
from sishu.models.decoder import Decoder, DecoderConfig, Experts, Scorer, plainly
from sishu.objectives.language import next_token
from sishu.objectives.ranking import Ranking
from sishu.run import Run
from sishu.train.blocks import Blocks
from sishu.train.trainer import Trainer, TrainSettings

TOKENS = np.random.default_rng(0).integers(6, 320, 700).astype(np.uint16)
ENDS = np.array([90, 130, 400, 700])


def gradients(model: Any, batch: Batch, bf16: bool, checkpointing: bool) -> list[Tensor]:
    """The loss, and every weight's gradient."""
    blocks = Blocks(model, checkpointing=checkpointing, compiled=False)
    objective = next_token if isinstance(model, Decoder) else Ranking()
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), blocks.at_work():
        loss = objective(model, batch).total
    assert all(decoder.through is plainly for decoder in blocks.decoders), "as it was, when it is done"
    loss.backward()
    return [loss.detach(), *(w.grad.clone() for w in model.parameters() if w.grad is not None)]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["windows", "packed", "experts", "scorer"])
def test_worked_out_again_every_bit_is_the_same(
    tiny_decoder: Decoder, tiny_config: DecoderConfig, kind: str, bf16: bool
) -> None:
    model: Any = copy.deepcopy(tiny_decoder)
    source: Any = Windows(TOKENS, 32, 4, 4, seed=0)
    if kind == "packed":
        source = Packed(TOKENS, ENDS, 32, 4, 4, seed=0)
    elif kind == "experts":
        torch.manual_seed(0)
        model = Decoder(replace(tiny_config, experts=Experts(4, 2, 16)))
    batch = source.batches(0)[0]
    if kind == "scorer":
        model = Scorer(tiny_config)
        model.start_from(tiny_decoder, 1)
        last = torch.tensor([31, 20, 31, 9])
        batch = Batch({"ids": batch["ids"], "last": last}, 1.0, "ranking of 2")
    plain = gradients(model, batch, bf16, checkpointing=False)
    again = gradients(model, batch, bf16, checkpointing=True)
    assert len(plain) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_block_keeps_nothing_but_what_it_reads(tiny_decoder: Decoder) -> None:
    batch = Windows(TOKENS, 32, 4, 4, seed=0).batches(0)[0]
    own = {w.untyped_storage().data_ptr() for w in tiny_decoder.parameters()}

    def kept(checkpointing: bool) -> int:
        sizes: dict[int, Tensor] = {}

        def keep(t: Tensor) -> Tensor:
            if t.untyped_storage().data_ptr() not in own:
                sizes[t.untyped_storage().data_ptr()] = t
            return t

        blocks = Blocks(tiny_decoder, checkpointing=checkpointing, compiled=False)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), blocks.at_work():
            loss = next_token(tiny_decoder, batch).total
        assert loss.requires_grad
        return sum(t.untyped_storage().nbytes() for t in sizes.values())

    c = tiny_decoder.config
    assert kept(False) - kept(True) > 10 * c.layers * 4 * c.width * 128
    blocks = Blocks(tiny_decoder, checkpointing=True, compiled=False)
    with torch.no_grad(), blocks.at_work():
        assert not next_token(tiny_decoder, batch).total.requires_grad


def train(folder: Path, decoder: Decoder, **changes: Any) -> tuple[list[Tensor], list[dict[str, Any]]]:
    settings = TrainSettings(batch=4, micro_batch=2, precision="fp32", evaluate_every=2, **changes)
    model, source = copy.deepcopy(decoder).train(), Windows(TOKENS, 32, 4, 2, seed=0)

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            return {"validation_loss": float(next_token(model, source.batches(99)[0]).total)}

    with Run(folder).begin("pretrain", "key", settings, {}, seed=3) as (context, _):
        trainer = Trainer(
            model, next_token, source, settings, context, steps=4, learning_rate=3e-3, evaluate=evaluate
        )
        trainer.fit()
        lines = (context.folder / "metrics.jsonl").read_text().splitlines()
    return [w.detach() for w in model.parameters()], [json.loads(line) for line in lines]


def test_the_setting_does_it(tmp_path: Path, tiny_decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lines = train(tmp_path / "plain", tiny_decoder)
    used: list[int] = []
    found = torch.utils.checkpoint.checkpoint

    def noted(*arguments: Any, **options: Any) -> Any:
        used.append(1)
        return found(*arguments, **options)

    monkeypatch.setattr("sishu.train.blocks.checkpoint", noted)
    again, again_lines = train(tmp_path / "again", tiny_decoder, activation_checkpointing=True)
    assert len(used) == 4 * 2 * tiny_decoder.config.layers
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert [line["validation_loss"] for line in lines[1::2]] == [
        x["validation_loss"] for x in again_lines[1::2]
    ]


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler"
)
def test_compiled_it_learns_the_same_and_says_how_long_that_took(
    tmp_path: Path, tiny_config: DecoderConfig
) -> None:
    decoder = Decoder(replace(tiny_config, layers=3))
    decoder.initialise(0)
    plain, lines = train(tmp_path / "plain", decoder)
    compiled, found = train(tmp_path / "compiled", decoder, compile=True)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    for a, b in zip(lines, found, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert found[0]["compile_seconds"] > 0 and not any("compile_seconds" in line for line in lines)
    assert "compile_seconds" not in found[-1], "compiled once"
