"""The recipes that come with sishu: all can be planned, headers say what the plan says, small ones run."""

from __future__ import annotations

import inspect
import json
import re
import statistics
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu import cli
from sishu.config import parse_overrides
from sishu.models.folder import load_decoder
from sishu.models.presets import PRESETS
from sishu.road import STAGES, Recipe, load_recipe, outside, recipe_names, walk
from sishu.stages.cluster import Cluster, share_of, step_of
from sishu.stages.devices import device_named
from sishu.stages.facts import gather_facts
from sishu.stages.forecast import plan_stages
from sishu.stages.units import duration, si

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"#   (\d+) × (.+?)  +(\d+)  (yes|no )  (.+)")
"""Of a recipe's header: how many, of what, micro-batch, whether activations are worked out again, and the
plan."""


def header(name: str) -> str:
    text = (resources.files("sishu") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return "\n".join(line for line in text.split("\nname:", 1)[0].splitlines() if line.startswith("#"))


def planned(recipe: Recipe, count: int, device_name: str) -> str:
    """Memory of one device, time and cost of pretraining, as headers have them."""
    device, t = device_named(device_name), recipe.pretrain.train
    c, stages = plan_stages(recipe, gather_facts(recipe, None))
    if count == 1:
        memory, seconds = device.memory_of(stages[0]).total, device.seconds(stages[0])
    else:
        bf16, again = device.in_bf16(t.precision), t.activation_checkpointing
        cluster = Cluster(device, count)
        memory = share_of(c, t, cluster, bf16=bf16, checkpointing=again).total
        seconds = step_of(c, t, cluster, bf16=bf16, checkpointing=again).longest * stages[0].steps
    if memory > 0.9 * device.memory:
        return f"{si(memory) + 'B':>7}  does not fit"
    cost = seconds / 3600 * count * (device.price or 0)
    return f"{si(memory) + 'B':>7}  {duration(seconds):>8}  ${si(cost)}"


def with_row(name: str, micro_batch: str, again: bool) -> Recipe:
    words = [f"pretrain.train.micro_batch={micro_batch}"]
    words.append(f"pretrain.train.activation_checkpointing={str(again).lower()}")
    return load_recipe(name, parse_overrides(words))


TABLED = [name for name in recipe_names() if re.search(ROW, header(name))]


def test_there_are_recipes_from_a_book_on_two_cores_to_gpt_2() -> None:
    shapes = ("gpt2-124m", "gpt2-350m", "gpt2-1.6b", "smollm2-135m", "qwen3-0.6b")
    assert {*shapes, "shakespeare-char", "chinese"} <= set(TABLED)


@pytest.mark.parametrize("name", TABLED)
def test_a_header_says_what_the_plan_says(name: str) -> None:
    rows = ROW.findall(header(name))
    counts = [int(count) for count, *_ in rows]
    assert counts[:3] == [1, 1, 8] and "CPU" in rows[0][1] and "4090" in rows[1][1], "24 GB"
    assert (len(counts) == 4 and counts[3] > 8) or "More devices are of no use" in header(name)
    for count, device, micro_batch, again, told in rows:
        recipe = with_row(name, micro_batch, again == "yes")
        assert planned(recipe, int(count), device) == told.rstrip(), (count, device)


@pytest.mark.parametrize("name", TABLED)
def test_a_header_says_what_was_run_and_what_loss_to_expect(name: str) -> None:
    words = header(name)
    assert "Expected loss:" in words and ("\n# Run: " in words or "\n# Not run" in words)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_planned(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(name, {})
    given = (path for n in recipe.stages for path in outside(STAGES[n], getattr(recipe, n)).values())
    missing = [path for path in given if not path.exists()]
    monkeypatch.setattr(sys, "argv", ["sishu", "plan", name, "--quick"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told, complaint = capsys.readouterr()
    if missing:  # such as a model that is to be pulled first
        assert stop.value.code == 2 and str(missing[0]) in complaint
        return
    assert stop.value.code == 0
    trains = {"pretrain", "sft", "reward", "ppo"} & set(recipe.stages)
    assert ("Time and cost" in told) == bool(trains), told


@pytest.mark.parametrize("name", ["gpt2-124m", "gpt2-350m", "gpt2-1.6b", "smollm2-135m", "qwen3-0.6b"])
def test_a_recipe_named_after_a_model_has_its_size(name: str) -> None:
    recipe = load_recipe(name, {})
    c, _ = plan_stages(recipe, gather_facts(recipe, None))
    known = PRESETS[str(recipe.pretrain.model.preset)]
    assert (c.width, c.layers, c.hidden) == (known.width, known.layers, known.hidden)
    assert c.parameters(embedding=False) == known.parameters(embedding=False)
    size = float(name.split("-")[1][:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
    assert abs(c.parameters() / size - 1) < 0.03


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_readmes_name_every_recipe(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert [name for name in recipe_names() if f"`{name}`" not in text] == []


ENGLISH = inspect.getsource(statistics)[:6000]
CHINESE = "".join(
    f"第{n}回，风起于青萍之末，{n}人行于道上，见一老者曰：何处去？答曰：往东{n}里。\n" for n in range(200)
)
TINY = [
    "pretrain.model={depth: 1, width: 32, hidden: 64, heads: 2, kv_heads: 2, context_length: 32}",
    *("pretrain.train.steps=12", "pretrain.train.batch=4", "eval.samples=1", "eval.max_tokens=4"),
]


@pytest.mark.parametrize(("name", "text"), [("shakespeare-char", ENGLISH), ("chinese", CHINESE)])
def test_the_small_ones_run_to_the_end(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    torch.set_num_threads(1)
    words = [*TINY, f"corpus.data={tmp_path / 'book.txt'}", "tokenizer.vocabulary=600"]
    recipe = load_recipe(name, parse_overrides(words))
    run = walk(recipe, tmp_path / "run", recipe.stages)
    model, tokenizer = load_decoder(tmp_path / "run" / "pretrain" / "model")
    line = text.splitlines()[3]
    ids = tokenizer.encode(line)
    assert tokenizer.decode(ids) == line
    if name == "shakespeare-char":
        assert len(ids) == len(line) and model.config.vocabulary == 262, "ASCII is nothing but bytes"
    else:
        assert len(ids) < len(line), "words, or parts of a sentence, are tokens"
    report = json.loads((tmp_path / "run" / "eval" / "eval.json").read_text())
    assert report["bits_per_byte"]["base"] < report["bits_per_byte"]["random"]
    assert run.manifest("report") is not None


FAMILIES = [("gpt2-124m", "gpt2"), ("smollm2-135m", "llama"), ("qwen3-0.6b", "qwen3")]


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_the_large_ones_run_to_the_end_when_made_small(name: str, family: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(ENGLISH, encoding="utf-8")
    torch.set_num_threads(1)
    words = [*TINY, f"corpus.data={tmp_path / 'book.txt'}", "tokenizer.vocabulary=300"]
    recipe = load_recipe(name, parse_overrides(words))
    run = walk(recipe, tmp_path / "run", recipe.stages)
    folder = tmp_path / "run" / "pretrain" / "model"
    model, _ = load_decoder(folder)
    assert model.config.family == family and model.config.vocabulary == 300
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == family
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/pretrain/metrics.jsonl").open()]
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert run.manifest("report") is not None
