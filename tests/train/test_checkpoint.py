"""Checkpoints: bit for bit, whole or not at all; a damaged one is named and the one before it taken."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.train import checkpoint
from sishu.train.checkpoint import BEST, DIGESTS, STATE, TENSORS, Progress, load_checkpoint, save_checkpoint
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


PROGRESS = Progress(
    7,
    1234,
    {"kl_coefficient": 0.1 + 0.2, "rung": ["步"], "first": {}},
    data_step=9,
    rollbacks=1,
    health={"recent": [0.1 + 0.2], "norm": 1 / 3, "skipped": 2},
    best={"checkpoint": "step-00000005", "figure": "validation_loss", "value": 2 / 3},
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_round_trip_is_bitwise(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 3)
    save_checkpoint(tmp_path, model, optimizer, PROGRESS)
    drawn = torch.rand(3)
    other, other_optimizer = trained(tiny_decoder, 0)
    assert load_checkpoint(tmp_path, other, other_optimizer) == PROGRESS
    assert torch.equal(torch.rand(3), drawn), "random numbers go on where they were"
    for (name, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    one, two = optimizer.tensors(), other_optimizer.tensors()
    assert one.keys() == two.keys() and len(one) > 20
    for name in one:
        assert torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype, name


def test_an_optimizer_without_state_comes_back_without(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 0)
    save_checkpoint(tmp_path, model, optimizer, Progress(0, 0, {}))
    other, other_optimizer = trained(tiny_decoder, 2)
    load_checkpoint(tmp_path, other, other_optimizer)
    assert not [name for name in other_optimizer.tensors() if name.startswith("adamw.")]


def test_the_last_ones_are_kept_and_no_half_written_one_is_read(
    tmp_path: Path, tiny_decoder: Decoder
) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    for step in (1, 2, 2, 10):
        save_checkpoint(tmp_path, model, optimizer, Progress(step, step, {}))
    assert names(tmp_path) == ["step-00000002", "step-00000010"]
    (tmp_path / ".writing").mkdir()  # a kill in the middle of writing
    (tmp_path / ".writing" / TENSORS).write_bytes(b"half")
    found = load_checkpoint(tmp_path, model, optimizer)
    assert found is not None and found.step == 10
    save_checkpoint(tmp_path, model, optimizer, Progress(11, 0, {}), keep=3)
    assert names(tmp_path) == ["step-00000002", "step-00000010", "step-00000011"]
    save_checkpoint(tmp_path, model, optimizer, Progress(12, 0, {}), keep=1)
    assert names(tmp_path) == ["step-00000012"]


def test_the_best_one_is_kept_and_named(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    best = {"checkpoint": "step-00000002", "figure": "validation_loss", "value": 0.5}
    for step in range(1, 7):
        save_checkpoint(
            tmp_path, model, optimizer, Progress(step, 0, {}, best=best if step > 1 else None), keep=2
        )
    assert names(tmp_path) == [BEST, "step-00000002", "step-00000005", "step-00000006"]
    assert json.loads((tmp_path / BEST).read_text()) == best


def test_what_a_step_back_left_behind_is_dropped(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    for step in (8, 9, 10, 4):
        save_checkpoint(tmp_path, model, optimizer, Progress(step, 0, {}), keep=3)
    assert names(tmp_path) == ["step-00000004"]


def test_none_is_none(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 0)
    assert load_checkpoint(tmp_path / "checkpoint", model, optimizer) is None


DAMAGES = {
    "bit": f"{TENSORS} does not have the bytes",
    "cut": f"{TENSORS} does not have the bytes",
    "empty": f"{TENSORS} does not have the bytes",
    "key": f"{STATE} does not have the bytes",
    "state": f"{STATE} does not have the bytes",
    "no tensors": f"{TENSORS} is missing",
    "no state": f"{STATE} is missing",
    "no digests": f"{DIGESTS} is missing",
    "digests": f"{DIGESTS} cannot be read",
    "model": "RuntimeError",
    "adamw": "KeyError",
    "muon": "KeyError",
}


def harm(folder: Path, damage: str) -> None:
    """Damage a checkpoint; of the last three the digests do not tell."""
    tensors, state, digests = folder / TENSORS, folder / STATE, folder / DIGESTS
    if damage == "bit":
        data = bytearray(tensors.read_bytes())
        data[-1000] ^= 4
        tensors.write_bytes(data)
    elif damage in ("cut", "empty"):
        tensors.write_bytes(tensors.read_bytes()[:-100] if damage == "cut" else b"")
    elif damage in ("no tensors", "no state", "no digests"):
        {"no tensors": tensors, "no state": state, "no digests": digests}[damage].unlink()
    elif damage in ("state", "key"):
        state.write_text({"state": '{"step": 7', "key": json.dumps({"step": 7})}[damage])
    elif damage == "digests":
        digests.write_text("[]")
    else:
        held = load_file(tensors)
        prefix = {"model": "model.", "adamw": "adamw.exp_avg.", "muon": "muon."}[damage]
        del held[next(n for n in held if n.startswith(prefix))]
        save_file(held, tensors)
        digests.write_text(json.dumps({p.name: checkpoint.file_digest(p) for p in (tensors, state)}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_a_damaged_one_is_taken(
    tmp_path: Path, tiny_decoder: Decoder, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    before, before_optimizer = trained(tiny_decoder, 2)
    save_checkpoint(tmp_path, before, before_optimizer, Progress(6, 60, {"x": 6}))
    save_checkpoint(tmp_path, model, optimizer, Progress(7, 70, {"x": 7}))
    harm(tmp_path / "step-00000007", damage)
    fresh, fresh_optimizer = trained(tiny_decoder, 0)
    assert load_checkpoint(tmp_path, fresh, fresh_optimizer) == Progress(6, 60, {"x": 6})
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and f"step-00000007: {DAMAGES[damage]}" in told
    assert "going on from step-00000006" in told
    for (name, a), (_, b) in zip(fresh.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    one, two = before_optimizer.tensors(), fresh_optimizer.tensors()
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    save_checkpoint(tmp_path, before, before_optimizer, Progress(7, 70, {}))
    assert names(tmp_path) == ["step-00000006", "step-00000007"]
    found = load_checkpoint(tmp_path, fresh, fresh_optimizer)
    assert found is not None and found.step == 7 and not capsys.readouterr().out


def test_when_all_are_damaged_the_newest_is_named(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    for step, damage in ((6, "no state"), (7, "bit")):
        save_checkpoint(tmp_path, model, optimizer, Progress(step, 0, {}))
        harm(tmp_path / f"step-{step:08d}", damage)
    with pytest.raises(
        UserError, match=rf"step-00000007 is damaged \({TENSORS} does not.*\): delete .* again"
    ):
        load_checkpoint(tmp_path, model, optimizer)


FULL = "The disk is full: free some space; the same command then goes on where it was."


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
    ],
    ids=str,
)
def test_every_word_for_a_full_disk_is_understood(
    tmp_path: Path, tiny_decoder: Decoder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    save_checkpoint(tmp_path, model, optimizer, Progress(1, 0, {}))

    def half(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(UserError) as caught:
        save_checkpoint(tmp_path, model, optimizer, Progress(2, 0, {}))
    assert str(caught.value) == FULL
    assert names(tmp_path) == ["step-00000001"]


def test_a_limit_on_files_leaves_the_one_before(tmp_path: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    save_checkpoint(tmp_path, model, optimizer, Progress(1, 0, {}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(UserError, match=r"larger than a file may be here.*goes on where it was"):
            save_checkpoint(tmp_path, model, optimizer, Progress(2, 0, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-00000001"]
    assert load_checkpoint(tmp_path, model, optimizer) == Progress(1, 0, {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_the_one_before(small_disk: Path, tiny_decoder: Decoder) -> None:
    model, optimizer = trained(tiny_decoder, 1)
    step = 0
    with pytest.raises(UserError) as caught:
        for step in range(1, 100):
            save_checkpoint(small_disk, model, optimizer, Progress(step, 0, {}), keep=100)
    assert str(caught.value) == FULL and step > 1
    assert names(small_disk) == [f"step-{n:08d}" for n in range(1, step)]
    assert load_checkpoint(small_disk, model, optimizer) == Progress(step - 1, 0, {})
    shutil.rmtree(small_disk / "step-00000001")
    save_checkpoint(small_disk, model, optimizer, Progress(step, 0, {}), keep=1)
    assert names(small_disk) == [f"step-{step:08d}"]
