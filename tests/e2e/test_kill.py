"""A whole road, killed at ten moments, ends with the bytes of one that was left alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet

from sishu.corpus.read.warc import read_pages
from sishu.road import USUAL
from sishu.train.throughput import BY_THE_CLOCK

SEED = 20
KILLS = 10
BETWEEN = "between stages"
TRAINING = ("pretrain", "sft", "reward", "ppo")

ROAD = [
    *("run", "quickstart", "--run", "run"),
    "crawl.modules=[json,csv,textwrap,string,shlex,bisect,heapq,statistics]",
    "tokenizer.vocabulary=512",
    "pretrain.model={depth: 1, width: 32, context_length: 128}",
    "pretrain.train={steps: 60, batch: 8, micro_batch: 8, evaluate_every: 20, checkpoint_seconds: 0}",
    "sft.train={steps: 40, batch: 8, micro_batch: 8, checkpoint_seconds: 0}",
    *("reward.prompts=24", "reward.held_out_prompts=8", "reward.max_tokens=16"),
    "reward.train={steps: 30, batch: 4, micro_batch: 4, checkpoint_seconds: 0}",
    *("ppo.max_tokens=16", "ppo.ptx_batch=4", "ppo.passes=2"),
    "ppo.train={steps: 12, batch: 8, micro_batch: 4, checkpoint_seconds: 0}",
    *("eval.questions=8", "eval.samples=2", "eval.max_tokens=16"),
]


def test_ten_kills_change_nothing(tmp_path: Path, sishu: Any) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "stormy").mkdir()
    sishu.folder = tmp_path / "calm"
    sishu.good(*ROAD)
    calm, stormy = tmp_path / "calm" / "run", tmp_path / "stormy" / "run"
    durations = {name: manifest(calm, name)["seconds"] for name in USUAL}
    lengths = {name: len(figures(calm, name)) for name in TRAINING}

    sishu.folder = tmp_path / "stormy"
    hit = []
    for stage, share in moments(durations, random.Random(SEED)):
        where = kill_in(sishu, stormy, stage, share, durations, lengths)
        if where is not None:
            hit.append(where)
    assert len(hit) >= KILLS, hit
    assert len(set(hit) - {BETWEEN}) >= 4, hit
    sishu.good(*ROAD)

    for name in TRAINING:
        weights = Path(name) / "model" / "model.safetensors"
        assert digest(stormy / weights) == digest(calm / weights), name
        assert figures(stormy, name) == figures(calm, name)
    tokenizer = Path("tokenizer") / "tokenizer.json"
    assert digest(stormy / tokenizer) == digest(calm / tokenizer)
    assert documents(stormy) == documents(calm)
    assert pages(stormy) == pages(calm)
    assert [manifest(stormy, name)["resumed"] > 0 for name in TRAINING].count(True) >= 3
    assert not list(stormy.rglob("checkpoint")) and not list(stormy.rglob("begun.json"))


def moments(durations: dict[str, float], rng: random.Random) -> list[tuple[str, float]]:
    """(stage, share of its working time): one in every stage but the report, the others anywhere in the
    working time of the uninterrupted run; in the order of the road."""
    names = list(durations)
    chosen = [(name, rng.random()) for name in names if name != "report"]
    while len(chosen) < KILLS + 2:  # two to spare: the road may be at its end before a moment comes
        at = rng.random() * sum(durations.values())
        for name in names:
            if at < durations[name]:
                chosen.append((name, at / durations[name]))
                break
            at -= durations[name]
    return sorted(chosen, key=lambda moment: (names.index(moment[0]), moment[1]))


def kill_in(
    sishu: Any, run: Path, stage: str, share: float, durations: dict[str, float], lengths: dict[str, int]
) -> str | None:
    """Start the road, wait until it is at work in `stage` (in a later one, if that is done) and for that
    share of the stage, then kill -9 its process group. Training is waited for by its steps and a part of one,
    which this run takes as the calm one did, however fast the machine is by now; other stages by their time.

    Returns the stage that was under way, or BETWEEN; None if the road came to its end before.
    """
    names = USUAL
    left = [n for n in names[names.index(stage) :] if not (run / n / "manifest.json").exists()]
    before = {name: begun(run / name) for name in left}
    child: subprocess.Popen[str] = sishu.start(*ROAD)
    try:
        while child.poll() is None:
            now = next((n for n in left if begun(run / n) not in (None, before[n])), None)
            if now is not None:
                break
            time.sleep(0.002)
        else:
            return None
        try:
            if now in lengths:
                steps, part = divmod(share * lengths[now], 1)
                while child.poll() is None and written(run / now) < steps and begun(run / now) is not None:
                    time.sleep(0.002)
                child.wait(part * durations[now] / lengths[now])
            else:
                child.wait(share * durations[now])
            return None
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return next((name for name in USUAL if begun(run / name) is not None), BETWEEN)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stderr is not None
        complaint = child.stderr.read()
        child.stderr.close()
        assert child.returncode in (0, -signal.SIGKILL), complaint[-2000:]


def begun(folder: Path) -> int | None:
    """How many times a stage under way was gone on with, None when it is not under way."""
    try:
        return int(json.loads((folder / "begun.json").read_text())["resumed"])
    except FileNotFoundError:
        return None


def written(folder: Path) -> int:
    """How many steps a stage has noted so far."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def manifest(run: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((run / stage / "manifest.json").read_text(encoding="utf-8")))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def figures(run: Path, stage: str) -> list[dict[str, Any]]:
    """The metrics, less what the clock decides."""
    lines = (run / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in BY_THE_CLOCK} for line in lines]


def documents(run: Path) -> list[dict[str, Any]]:
    """The corpus, less the moments at which its pages were fetched."""
    table = pyarrow.parquet.read_table(run / "corpus" / "documents.parquet")
    return list(table.drop_columns(["date"]).to_pylist())


def pages(run: Path) -> list[tuple[str, bytes]]:
    return [(page.url, page.body) for page in read_pages(run / "crawl" / "pages.warc.gz")]
