"""The plan as the command prints it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sishu import cli
from sishu.models.decoder import Decoder
from sishu.road import load_recipe
from sishu.run import Run
from sishu.stages.devices import DEVICES
from sishu.stages.facts import Facts, gather_facts
from sishu.stages.forecast import plan_stages
from sishu.stages.plan import serving, show_plan
from sishu.stages.shape import ModelSettings, derive_shape
from sishu.stages.units import si
from sishu.tokenizer.train import train_bpe


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_device_that_is_too_small_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    deep = load_recipe("quickstart", {"pretrain": {"model": {"depth": 40}}})
    show_plan("deep", deep, None, quick=True)
    assert "too small" in capsys.readouterr().out
    _, stages = plan_stages(deep, Facts())
    fits = [d.fits(stages[0]) for d in DEVICES]
    assert fits[0] is False and fits == sorted(fits)


def test_serving_is_told_by_the_size_of_a_real_cache() -> None:
    c, _ = derive_shape(ModelSettings(depth=2, context_length=64), 300)
    cache = Decoder(c).new_cache(1, 64)
    size = sum(t[:, :, 1:].numel() * 4 for t in (*cache.keys, *cache.values))
    told = serving(c, DEVICES[0])
    assert f"of 64 tokens take {si(size)} bytes in float32, {si(size / 2)} in bfloat16" in told
    room = int((0.9 * 8e9 - 4 * c.parameters()) // size)
    assert f"; 2-core CPU has room for {room:,} such texts beside the weights." in told
    tiny = replace(DEVICES[0], memory=1e3)
    assert "room for" not in serving(c, tiny)


def write_manifest(folder: Path, figures: dict[str, Any], seconds: float) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"figures": figures, "seconds": seconds}))


def test_a_run_tells_its_facts_and_its_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_bpe(["what is a list? 列表是什么?"] * 20, 400)
    write_manifest(tmp_path / "tokenizer", {"vocabulary": tokenizer.vocabulary_size}, 1.0)
    tokenizer.save(tmp_path / "tokenizer")
    write_manifest(tmp_path / "pretrain", {"train_tokens": 5000}, 12.5)
    write_manifest(tmp_path / "sft", {"conversations": 77}, 3.0)
    turns = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a list"}]
    (tmp_path / "sft" / "conversations-train.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    road = load_recipe("quickstart", {"tokenizer": {"vocabulary": None}})
    facts = gather_facts(road, Run(tmp_path))
    assert facts.vocabulary == tokenizer.vocabulary_size and facts.corpus_tokens == 5000
    assert facts.conversations == 77 and facts.assumed == ()
    assert facts.longest == facts.row == len(tokenizer.encode_conversation(turns).ids)
    assert facts.prompt == len(tokenizer.encode_conversation(turns[:-1], True).ids)
    show_plan("mine", road, Run(tmp_path), quick=True)
    out = capsys.readouterr().out
    assert "measured / estimate" in out and "12.5" in out


def plan_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sishu", "plan", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_command_plans_quickstart_and_measures_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert plan_command(monkeypatch, "quickstart", "pretrain.model.depth=2") == 0
    out = capsys.readouterr().out
    words = ("pretrain", "ppo", "this machine", "H100 SXM", "list prices", "check yours", "logits")
    assert all(word in out for word in words)
    shape, _ = derive_shape(ModelSettings(depth=2), 4096)
    assert f"{shape.parameters():,} parameters" in out


def test_an_unknown_recipe_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_command(monkeypatch, "quikstart") == 2
    assert "'quickstart'" in capsys.readouterr().err
