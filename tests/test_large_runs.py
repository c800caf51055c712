"""docs/large-runs.md says what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sishu.config import parse_overrides
from sishu.models.flops import forward
from sishu.models.presets import PRESETS
from sishu.road import load_recipe
from sishu.stages.cluster import GPU_HOURS_A_FAILURE, Cluster, failures_of, share_of, step_of
from sishu.stages.devices import device_named
from sishu.stages.facts import gather_facts
from sishu.stages.forecast import plan_stages
from sishu.stages.units import duration, si

PAGE = (Path(__file__).parent.parent / "docs" / "large-runs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n\$ sishu (.+?)\n(.+?)\n```$", PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the recipe lies that the page writes out."""
    (tmp_path / "70b.yaml").write_text(PAGE.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=lambda text: text[:60])
def test_every_table_is_what_the_command_shows(command: str, shown: str, folder: Path) -> None:
    """In a process of its own, whose console is as wide as the page's whatever that of the tests is."""
    source = str(Path(__file__).parent.parent / "src")
    environment = os.environ | {"PYTHONPATH": source, "COLUMNS": "110", "TERM": "xterm"}
    told = [sys.executable, "-m", "sishu", *command.split()]
    done = subprocess.run(told, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.rstrip() == shown


def test_there_are_runs_of_both_sizes() -> None:
    commands = [command for command, _ in BLOCKS]
    assert sum("gpt2-1.6b" in c for c in commands) >= 2 and sum("70b" in c for c in commands) >= 2


def test_the_table_of_nodes(folder: Path) -> None:
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \| (.+) \|$", PAGE, re.M)
    assert len(rows) == 5
    whole = load_recipe("70b.yaml", {}).pretrain.train
    for gpus, nodes, tensor, batch, told in rows:
        recipe = load_recipe("70b.yaml", parse_overrides([f"pretrain.train.batch={batch}"]))
        c, _ = plan_stages(recipe, gather_facts(recipe, None))
        cluster = Cluster(device_named("h100"), int(gpus.replace(",", "")), int(tensor))
        share, step = (
            work(c, recipe.pretrain.train, cluster, bf16=True, checkpointing=True)
            for work in (share_of, step_of)
        )
        failures = failures_of(c, recipe.pretrain.train, cluster)
        assert whole.steps is not None
        seconds = whole.steps * whole.batch / int(batch) * step.longest / (1 - failures.lost)
        assert cluster.nodes == int(nodes) and share.total < 0.9 * cluster.device.memory
        assert told.split(" | ") == [
            f"{si(share.total)}B",
            f"{si(step.gathered + step.scattered)}B",
            f"{si(step.reduced)}B",
            f"{step.compute_seconds:.3g}",
            f"{step.longest:.3g}",
            duration(seconds),
            f"{failures.per_day:.2g}",
        ]


def test_what_is_said_between_the_tables() -> None:
    for name, rate, peak in (("llama-3.1-8b", 5762, 989.4e12), ("llama-3-70b", 331, 312e12)):
        c = replace(PRESETS[name], context_length=8192)
        assert f"{forward(c, 1, 8192, 1).total * 3 * rate / peak:.0%} of an " in PAGE
    c = replace(PRESETS["gpt2-xl"], vocabulary=50_304)
    by_hand = forward(c, 1_048_576, 1024, 1_048_576).total * 3 / 8 / 2.8 / 989.4e12
    assert f"{by_hand:.0%}, by the formulas above" in PAGE
    assert abs(GPU_HOURS_A_FAILURE - 50_700) < 50 and "one in 50,700 GPU-hours" in PAGE
    assert 3.5 < GPU_HOURS_A_FAILURE / 512 / 24 < 4.5 and "512 GPUs stop once in four days" in PAGE
    assert 7.5 < 24 * 16_384 / GPU_HOURS_A_FAILURE < 8.5 and "16,384 eight times a day" in PAGE
