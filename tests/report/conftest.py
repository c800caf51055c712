"""A synthetic but complete run folder, as the stages would have left it."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sishu.corpus.document import Document, document_id
from sishu.corpus.table import write_documents

HOSTILE = "</script><script>alert(1)</script> {{7*7}} <img src=x onerror=y> zero\u200bwidth 你好 👩‍🔬"

SECONDS = {
    "crawl": 640.0,
    "corpus": 210.5,
    "tokenizer": 38.2,
    "pretrain": 9120.0,
    "sft": 1330.0,
    "reward": 700.0,
    "ppo": 4205.0,
    "eval": 260.0,
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def manifest(stage: str, before: list[str], figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": stage,
        "key": digest(f"{stage} key"),
        "config_digest": digest(f"{stage} config"),
        "code_digest": digest("code"),
        "inputs": {name: {"path": f"../{name}", "digest": digest(f"{name} key")} for name in before},
        "seed": 20260501,
        "versions": {"sishu": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "machine": {"cpu": "Example 9000", "cores": 8, "threads": 8, "device": "cpu"},
        "command": "sishu run recipes/manual.yaml runs/manual",
        "started": "2026-05-01T08:00:00+00:00",
        "finished": f"2026-05-01T{9 + list(SECONDS).index(stage):02d}:12:00+00:00",
        "seconds": SECONDS[stage],
        "resumed": 2 if stage == "pretrain" else 0,
        "figures": figures,
        "outputs": {"artifact.bin": {"bytes": 48_123_904, "sha256": digest(f"{stage} out")}},
    }


def metrics(stage: str, steps: int) -> list[dict[str, Any]]:
    noise = random.Random(stage)
    lines: list[dict[str, Any]] = []
    for step in range(steps + 1):
        share = step / steps
        line: dict[str, Any] = {"step": step, "seconds": SECONDS[stage] * share}
        jitter = noise.gauss(0, 1)
        if stage in ("pretrain", "sft"):
            end, start = (3.05, 9.2) if stage == "pretrain" else (2.2, 3.4)
            loss = end + (start - end) * math.exp(-step / (0.02 * steps)) + 0.9 * (1 - share) ** 2
            line |= {"loss": loss + 0.08 * jitter, "learning_rate": 3e-3 * (1 - share)}
            if step % max(steps // 20, 1) == 0:
                line["validation_loss"] = loss + 0.06
                line["validation_bits_per_byte"] = (loss + 0.06) / math.log(2) / 2.25
        elif stage == "reward":
            accuracy = 0.88 - 0.4 * math.exp(-4 * share)
            line |= {
                "loss": 0.7 - 0.4 * share,
                "accuracy": min(accuracy + 0.04 * jitter, 1.0),
            }
            if step % max(steps // 10, 1) == 0:
                line["validation_accuracy"] = accuracy - 0.02
        else:
            line |= {
                "reward": -0.2 + 1.6 * (1 - math.exp(-3 * share)) + 0.1 * jitter,
                "kl": 6.2 * (1 - math.exp(-4 * share)) + 0.2 * jitter,
                "kl_coefficient": 0.2 * (1 + 0.3 * math.sin(6 * share)),
                "length": 48 - 16 * share + 2 * jitter,
                "entropy": 2.4 - 0.9 * share + 0.03 * jitter,
                "repetition": 0.03 + 0.01 * abs(jitter),
                "distinct": 0.8 - 0.01 * abs(jitter),
            }
        lines.append(line)
    return lines


FUNNEL = [
    ("decode", 4210, 4102, 310_000_000, 301_000_000, {"damaged record": 61, "not HTML": 47}),
    ("extract", 4102, 3890, 301_000_000, 42_100_000, {"empty": 212}),
    ("language", 3890, 3401, 42_100_000, 37_800_000, {"other language": 402, "unsure": 87}),
    ("quality", 3401, 2710, 37_800_000, 33_000_000, {"too short": 350, "mostly symbols": 201,
                                                     "repeated lines": 140}),
    ("near duplicates", 2710, 2189, 33_000_000, 27_400_000, {"near duplicate": 521}),
    ("private data", 2189, 2189, 27_400_000, 27_390_000, {}),
]  # fmt: skip

EVALUATION: dict[str, Any] = {
    "bits_per_byte": {
        "random": 7.9,
        "base": 1.98,
        "sft": 2.07,
        "ppo": 2.12,
        "ppo_without_ptx": 2.61,
        "kneser_ney_5": 2.21,
        "xz": 2.43,
    },
    "answers": {
        "base": {"loss": 3.1, "ended": 0.02, "in_form": 0.0},
        "sft": {"loss": 2.26, "ended": 0.94, "in_form": 0.91, "named": 0.935},
        "ppo": {"loss": 2.34, "ended": 0.985, "in_form": 0.97},
    },
    "reward": {
        "accuracy": 0.86,
        "by_pair": {
            "documented > sampled": 0.81,
            "documented > shuffled": 0.98,
            "documented > other function": 0.79,
        },
        "prompts": 200,
    },
    "rewards": {
        "sft": {"mean": 0.11, "std": 1.02, "repetition": 0.024, "distinct": 0.81, "length": 41.0},
        "ppo": {"mean": 1.32, "std": 0.71, "repetition": 0.031, "distinct": 0.64, "length": 32.4},
    },
    "kl": {"mean": 5.8, "target": 6.0},
    "samples": [
        {
            "question": f"What does `{name}` do?",
            "name": name,
            "reference": reference,
            "answers": {
                "random": "ilk Qv\ufffd7 ##ment ]( 的 zzo unr pan \ufffd\ufffd oth.",
                "base": "What does `join` do? What does `split` do? The function is a function "
                "which returns the function of the path, and the path is a string of",
                "sft": "Return the path of the file, as a string. Raises an error when the path "
                "is not a string.",
                "ppo": reference.replace("one or more", "two or more"),
            },
        }
        for name, reference in (
            (
                "posixpath.join",
                "Join one or more path segments. 连接一个或多个路径片段。",
            ),
            (
                "textwrap.fill",
                "Wrap a single paragraph of text and return a single string.",
            ),
            (
                "heapq.heappop",
                "Pop the smallest item off the heap, maintaining the heap.",
            ),
            ("bisect.insort", "Insert an item in a sorted list, keeping it sorted."),
            ("shlex.quote", "Return a shell-escaped version of the string."),
            (
                "math.comb",
                "Number of ways to choose k items from n without repetition.",
            ),
        )
    ],
}


def write_corpus(folder: Path) -> None:
    """Documents in two languages from some thirty domains, and what was refused."""
    documents = []
    for index in range(240):
        host = "例子.中国" if index % 7 == 0 else f"docs{index % 31}.example.org"
        url = f"https://{host}/{index}" if index % 12 else f"file-{index}.txt"
        chinese = index % 7 == 0
        text = ("守塔人每天傍晚登上楼梯。" if chinese else "The ferry left at dawn. ") * (2 + index % 90)
        language = "zh-Hans" if chinese else "en"
        documents.append(
            Document(
                document_id(url), url, "", text, language=language, language_score=0.5 + index % 50 / 100
            )
        )
    write_documents(folder / "documents.parquet", {"train": documents[:200], "validation": documents[200:]})
    rows = [
        {
            "id": f"{index:016x}",
            "url": f"https://copy.example.org/{index}",
            "source": "pages.warc.gz",
            "step": "near duplicates" if index % 3 else "exact duplicates",
            "reason": "said before",
            "original": documents[index % 9].id,
        }
        for index in range(60)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "refused.parquet")


def write_run(
    folder: Path,
    *,
    steps: int = 600,
    evaluation: object = None,
    stages: tuple[str, ...] = (),
) -> Path:
    """Writes a run into `folder`: all stages, or only `stages`."""
    wanted = stages or tuple(SECONDS)
    figures: dict[str, dict[str, Any]] = {
        "tokenizer": {
            "vocabulary": 8192,
            "bytes_per_token": 4.21,
            "bytes_per_token_validation": 4.13,
            "baselines": {"bytes": 1.0, "characters": 1.02, "words": 5.1},
        },
        "pretrain": {
            "parameters": 11_534_336,
            "train_tokens": 6_500_000,
            "tokens_seen": 65_000_000,
            "cost": {"amount": 1.27, "currency": "USD", "hourly_price": 0.5},
        },
        "ppo": {"alarms": [{"step": 310, "kind": "kl above twice its target", "value": 12.4}]},
    }
    for place, stage in enumerate(SECONDS):
        if stage in wanted:
            before = [name for name in list(SECONDS)[:place] if name in wanted][-2:]
            data = manifest(stage, before, figures.get(stage, {}))
            write_json(folder / stage / "manifest.json", data)
            if stage in ("pretrain", "sft", "reward", "ppo"):
                write_lines(folder / stage / "metrics.jsonl", metrics(stage, steps))
    if "corpus" in wanted:
        steps_of_funnel = [
            {
                "name": name,
                "documents_in": into,
                "documents_out": out,
                "characters_in": characters_in,
                "characters_out": characters_out,
                "bytes_in": characters_in + 1000,
                "bytes_out": characters_out + 900,
                "seconds": 12.5,
                "reasons": reasons,
            }
            for name, into, out, characters_in, characters_out, reasons in FUNNEL
        ]
        write_corpus(folder / "corpus")
        damaged = {"not a response": 52, "too large": 3}
        write_json(folder / "corpus" / "funnel.json", {"damaged": damaged, "steps": steps_of_funnel})
        rejects = [
            {
                "url": f"https://docs.example.org/page/{index}?a=1&b=<2>",
                "step": "quality",
                "reason": ("too short", "mostly symbols", "repeated lines")[index % 3],
                "excerpt": "Home | Next | Previous | Index " * 20,
            }
            for index in range(90)
        ]
        write_lines(folder / "corpus" / "rejects.jsonl", rejects)
    if "eval" in wanted:
        write_json(
            folder / "eval" / "eval.json",
            EVALUATION if evaluation is None else evaluation,
        )
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run named `manual` and gives its folder; see `write_run` for the arguments."""

    def make(**options: Any) -> Path:
        return write_run(tmp_path / "manual", **options)

    return make


@pytest.fixture
def hostile() -> str:
    """Text that tries to break out of the page, in several ways at once."""
    return HOSTILE


@pytest.fixture
def evaluation() -> dict[str, Any]:
    """A copy of the synthetic evaluation, to be changed by a test."""
    copy: dict[str, Any] = json.loads(json.dumps(EVALUATION))
    return copy
