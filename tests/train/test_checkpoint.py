"""Checkpoints: bit for bit, whole or not at all, and a damaged one is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.train.checkpoint import STATE, TENSORS, Progress, load_checkpoint, save_checkpoint
from sishu.train.optimizer import Optimizer


def trained(decoder: Decoder, updates: int) -> tuple[Decoder, Optimizer]:
    model = copy.deepcopy(decoder)
    optimizer = Optimizer(
        model,
        learning_rate=1e-3,
        matrix_learning_rate=0.02,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step(1.0)
    return model, optimizer


PROGRESS = Progress(7, 1234, {"kl_coefficient": 0.1 + 0.2, "rung": ["步"], "first": {}})


def test_round_trip_is_bitwise(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 3)
    save_checkpoint(tmp_path, model, optimizer, PROGRESS)
    other, other_optimizer = trained(tiny_decoder, 0)
    assert load_checkpoint(tmp_path, other, other_optimizer) == PROGRESS
    for (name, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    one, two = optimizer.tensors(), other_optimizer.tensors()
    assert one.keys() == two.keys() and len(one) > 20
    for name in one:
        assert torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype, name


def test_only_the_newest_is_kept_and_no_half_written_one_is_read(
    tmp_path: Path, tiny_decoder: Decoder
) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    for step in (1, 2, 2, 10):
        save_checkpoint(tmp_path, model, optimizer, Progress(step, step, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]
    (tmp_path / ".writing").mkdir()  # a kill in the middle of writing
    (tmp_path / ".writing" / TENSORS).write_bytes(b"half")
    found = load_checkpoint(tmp_path, model, optimizer)
    assert found is not None and found.step == 10
    save_checkpoint(tmp_path, model, optimizer, Progress(11, 0, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000011"]


def test_none_is_none(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 0)
    assert load_checkpoint(tmp_path / "checkpoint", model, optimizer) is None


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "no tensors", "no state", "state", "list", "key", "model", "adamw", "muon"]
)
def test_damage_is_named(tmp_path: Path, tiny_decoder: Decoder, damage: str) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    save_checkpoint(tmp_path, model, optimizer, PROGRESS)
    folder = tmp_path / "step-00000007"
    tensors, state = folder / TENSORS, folder / STATE
    if damage in ("cut", "empty"):
        tensors.write_bytes(tensors.read_bytes()[:-100] if damage == "cut" else b"")
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no state":
        state.unlink()
    elif damage in ("state", "list", "key"):
        state.write_text({"state": '{"step": 7', "list": "[]", "key": json.dumps({"step": 7})}[damage])
    else:
        held = load_file(tensors)
        prefix = {"model": "model.", "adamw": "adamw.exp_avg.", "muon": "muon."}[damage]
        del held[next(n for n in held if n.startswith(prefix))]
        save_file(held, tensors)
    fresh, fresh_optimizer = trained(tiny_decoder, 0)
    with pytest.raises(UserError, match=r"step-00000007 is damaged.*delete"):
        load_checkpoint(tmp_path, fresh, fresh_optimizer)
