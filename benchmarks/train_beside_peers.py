"""Training on the CPU beside nanoGPT, litgpt and transformers: tokens a second, with as many threads each.

A step is a batch of random tokens, forward, backward, clipping at norm 1 and AdamW. Everyone has the same
layers, width, heads, context, vocabulary and tokens a step, and the output head tied to the embedding. Our
step is `Trainer`'s with its defaults; nanoGPT's optimizer is of its own making, litgpt steps as its
pretrain.py does (Fabric, its chunked cross-entropy), transformers as its Trainer does (fused AdamW). The
shapes with a gated network (ours, litgpt, Llama) have one of 8/3 × width, rounded up to a multiple of 64, the
others (nanoGPT, GPT-2, and ours in GPT-2's shape) of 4 × width. The vocabulary is 8,192 for 5M and 30M, and
for 124M GPT-2's 50,257 rounded up to 50,304.

Each peer is tried in each precision it has, then with torch.compile in the precision that was fastest; later
rounds repeat what came within a fifth of its library's best. nanoGPT on a CPU knows only float32; bfloat16 is
autocast around its forward pass, as its users would add. litgpt's bf16-true keeps the weights themselves in
bfloat16, all others in float32. Every competitor runs in a process of its own, one after another, and rounds
go through all in turn. Where a process had fewer cores than it has threads, either it works on fewer or the
machine was busy; "by CPU time" are the tokens a second that its CPU seconds, over all threads, would allow.
OMP_WAIT_POLICY=PASSIVE in front keeps threads that wait from counting, or from losing much, where it is busy.

Model FLOPs a token are 6·N + 12·L·T·D (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): N weights
without position tables, L layers, T context, D width; the masked half of attention counts. The ceiling is the
best of torch.mm in float32 and bfloat16 for (tokens, D) × (D, 4 D) and back, measured in the same rounds.

    python benchmarks/train_beside_peers.py --nanogpt DIR --litgpt DIR [--shapes 5M 30M] [--contexts 256]
    python benchmarks/train_beside_peers.py --learning 3 --text input.txt|RUN --nanogpt DIR [--seeds 3]

The second command trains on characters, or on a run's tokens, for the same time as nanoGPT (see
learning_beside_nanogpt.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

# Neither imports sishu, torch or a peer: that is left to the processes that measure.
import learning_beside_nanogpt
from training_steps import COMPILED, LIKE_GPT2, SHAPES, Task

STEPS = Path(__file__).with_name("training_steps.py")
NEAR = 0.8
"""Share of its library's best that a setting must reach to be measured again."""
OURS = ("AdamW", "Muon", LIKE_GPT2)
PEERS = {
    "nanoGPT": ("float32", "bfloat16"),
    "litgpt": ("32-true", "bf16-mixed", "bf16-true"),
    "transformers GPT-2": ("float32", "bfloat16"),
    "transformers Llama": ("float32", "bfloat16"),
}
MISSING = {
    "nanoGPT": ("nanogpt", "model.py", "git clone https://github.com/karpathy/nanoGPT and --nanogpt nanoGPT"),
    "litgpt": (
        "litgpt",
        "litgpt",
        "pip install --no-deps --target DIR litgpt lightning lightning-utilities torchmetrics jsonargparse "
        "psutil and --litgpt DIR",
    ),
}
"""The option, what must lie there, and how to get it."""


def measured(task: Task, cache: str) -> dict[str, Any]:
    """What a process of its own finds; {"failed": why} where it ends with an error."""
    command = [sys.executable, str(STEPS), json.dumps(vars(task))]
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Measurements:
    """All that was found of one shape and context."""

    def __init__(self, shape: str, context: int, args: argparse.Namespace, cache: str) -> None:
        self.shape, self.context, self.args, self.cache = shape, context, args, cache
        self.seconds = defaultdict[tuple[str, str], list[float]](list)
        self.first, self.weights = dict[tuple[str, str], float](), dict[tuple[str, str], int]()
        self.cores = defaultdict[tuple[str, str], list[float]](list)
        self.failed, self.peak = dict[tuple[str, str], str](), defaultdict[str, float](float)
        for who, (option, file, get) in MISSING.items():
            if not (Path(getattr(args, option) or "/nowhere") / file).exists():
                self.failed[who, ""] = f"not there: {get}"

    def measure(self, who: str, setting: str = "") -> None:
        """Measure a competitor once more."""
        a = self.args
        places = [str(Path(place).resolve()) if place else "" for place in (a.nanogpt, a.litgpt)]
        task = Task(who, setting, self.shape, self.context, a.tokens, a.steps, *places)
        found = measured(task, self.cache)
        if "failed" in found:
            self.failed[who, setting] = found["failed"]
        elif who == "ceiling":
            self.peak |= {kind: max(rate, self.peak[kind]) for kind, rate in found.items()}
        else:
            self.seconds[who, setting] += found["seconds"]
            self.cores[who, setting] += found["cores"]
            self.first.setdefault((who, setting), found["first"])
            self.weights[who, setting] = found["weights"]
        told = found.get("failed") or found
        print(f"{self.shape}, context {self.context}: {who} {setting}: {told}", file=sys.stderr, flush=True)

    def round(self, number: int) -> None:
        """Every competitor once: all settings the first time, then the good ones."""
        self.measure("ceiling")
        for setting in OURS:
            self.measure("ours", setting)
        for who, settings in PEERS.items():
            if (who, "") in self.failed:
                continue
            if number > 1:
                for setting in [s for s in self.found(who) if self.rate(who, s) >= NEAR * self.best(who)]:
                    self.measure(who, setting)
                continue
            for setting in settings:
                self.measure(who, setting)
            if self.found(who) and not self.args.eager:
                self.measure(who, max(self.found(who), key=lambda s: self.rate(who, s)) + COMPILED)

    def found(self, who: str) -> list[str]:
        """The settings of a competitor that were measured."""
        return [setting for name, setting in self.seconds if name == who]

    def rate(self, who: str, setting: str) -> float:
        """Tokens a second in the best step."""
        return float(self.args.tokens / min(self.seconds[who, setting]))

    def best(self, who: str) -> float:
        """Tokens a second in the best step of any setting; 0 where there is none."""
        return max((self.rate(who, setting) for setting in self.found(who)), default=0.0)

    def cpu(self, key: tuple[str, str]) -> float:
        """The fewest CPU seconds a step took, by thread: the seconds of an idle machine."""
        used = [wall * cores for wall, cores in zip(self.seconds[key], self.cores[key], strict=True)]
        return float(min(used) / self.args.threads)

    def share(self, who: str, setting: str) -> float:
        """Share of the ceiling that model FLOPs reach in the best step."""
        s = SHAPES[self.shape]
        flops = 6 * self.weights[who, setting] + 12 * s.layers * self.context * s.width
        return self.rate(who, setting) * flops / max(self.peak.values())

    def summary(self) -> str:
        """One row of the first table."""
        mine = [self.rate("ours", s) if ("ours", s) in self.seconds else 0.0 for s in OURS]
        peers = {who: self.best(who) for who in PEERS}
        cells = [self.shape, str(self.context), *(f"{rate:,.0f}" for rate in [*mine, *peers.values()])]
        if (top := max(peers.values())) and mine[0]:
            who = max(peers, key=lambda name: peers[name])
            setting = max(self.found(who), key=lambda s: self.rate(who, s))
            cells += [f"{who}, {setting}", f"×{mine[0] / top:.2f}", f"{self.share('ours', OURS[0]):.0%}"]
            cells += [f"{self.share(who, setting):.0%}"]
        else:
            cells += ["no peer was measured", "", "", ""]
        peaks = " / ".join(f"{self.peak[kind] / 1e9:.0f}" for kind in ("float32", "bfloat16"))
        return "| " + " | ".join([*cells, peaks]) + " |"

    def details(self) -> list[str]:
        """The second table: every setting."""
        lines = []
        for key, seconds in self.seconds.items():
            cells = [self.shape, str(self.context), *key, f"{self.weights[key] / 1e6:.1f}M"]
            cells += [f"{self.args.tokens / t:,.0f}" for t in (min(seconds), median(seconds))]
            cells += [f"{self.args.tokens / self.cpu(key):,.0f}", f"{median(self.cores[key]):.2f}"]
            cells += [str(len(seconds)), f"{self.first[key]:.1f} s", f"{self.share(*key):.0%}"]
            lines.append("| " + " | ".join(cells) + " |")
        for (who, setting), why in self.failed.items():
            lines.append(f"| {self.shape} | {self.context} | {who} | {setting} | {why} | | | | | | | |")
        return lines


def table(head: str, rows: list[str]) -> None:
    """A Markdown table under `head`, whose columns `|` parts."""
    print(f"| {head} |", "|" + "---|" * (head.count("|") + 1), *rows, "", sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--contexts", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step (default %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps a measurement (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--nanogpt", help="a checkout of nanoGPT")
    parser.add_argument("--litgpt", help="a folder that litgpt is installed in")
    parser.add_argument("--learning", type=float, metavar="MINUTES", help="learn for so long instead")
    parser.add_argument("--text", type=Path, help="what to learn: a text file, one that gzip made, or a run")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.learning:
        if args.text is None or args.nanogpt is None:
            parser.error("--learning needs --text and --nanogpt")
        learning_beside_nanogpt.compare(
            args.text, Path(args.nanogpt).resolve(), 60 * args.learning, args.seeds
        )
        return
    told = list[Measurements]()
    for shape in args.shapes:
        for context in args.contexts:
            with tempfile.TemporaryDirectory() as cache:
                told.append(one := Measurements(shape, context, args, cache))
                for number in range(1, args.rounds + 1):
                    one.round(number)
            print(one.summary(), *one.details(), sep="\n", file=sys.stderr, flush=True)
    names = " | ".join([*(f"ours, {setting}" for setting in OURS), *PEERS])
    ends = "best peer | ours / best peer | ours of ceiling | peer of ceiling | GFLOP/s in fp32 / bf16"
    print(f"Tokens a second in the best step; {args.threads} threads, {args.tokens} tokens a step\n")
    table(f"shape | context | {names} | {ends}", [one.summary() for one in told])
    columns = "shape | context | who | setting | weights | best | median | by CPU time | cores | steps"
    table(f"{columns} | first step | of ceiling", [row for one in told for row in one.details()])


if __name__ == "__main__":
    main()
