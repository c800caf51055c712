"""Is the learning of the quickstart real? Three seeds of the whole road, and PPO without ptx beside it.

Claims: base bits per byte below a Kneser-Ney 5-gram and xz; answers end in the asked form; held-out answer
loss falls; the reward model ranks; PPO gains reward under its KL target; ptx protects the language.

    python benchmarks/three_seeds.py runs/seeds --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, pstdev
from typing import Any


def sishu(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "sishu.cli", *words], check=True)


def walk(folder: Path, seed: int) -> dict[str, float]:
    """The figures of one seed, with and without the pretraining term."""
    run, without = folder / f"seed-{seed}", folder / f"seed-{seed}-without-ptx"
    sishu("run", "quickstart", f"seed={seed}", "--run", str(run), "--quiet")
    if not without.exists():
        shutil.copytree(run, without)
    sishu("eval", "--run", str(without), "ppo.ptx_coefficient=0", "--quiet")
    found = json.loads((run / "eval" / "eval.json").read_text(encoding="utf-8"))
    other = json.loads((without / "eval" / "eval.json").read_text(encoding="utf-8"))
    ppo = json.loads((run / "ppo" / "manifest.json").read_text(encoding="utf-8"))["figures"]
    seconds = sum(
        json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in run.glob("*/manifest.json")
    )
    return figures(found, other, ppo) | {"working time, s": seconds}


def figures(found: dict[str, Any], other: dict[str, Any], ppo: dict[str, Any]) -> dict[str, float]:
    bits, answers, rewards = found["bits_per_byte"], found["answers"], found["rewards"]
    gain = rewards["ppo"]["mean"] - rewards["sft"]["mean"]
    return {
        "base, bits per byte": bits["base"],
        "Kneser-Ney 5-gram, bits per byte": bits["kneser_ney_5"],
        "xz (train known), bits per byte": bits["xz"],
        "xz (held-out alone), bits per byte": bits["xz_alone"],
        "SFT answers that end, in form": answers["sft"]["in_form"],
        "SFT answers that name what was asked about": answers["sft"]["named"],
        "PPO answers that end, in form": answers["ppo"]["in_form"],
        "PPO answers that name what was asked about": answers["ppo"]["named"],
        "answer loss, base, nats": answers["base"]["loss"],
        "answer loss, SFT, nats": answers["sft"]["loss"],
        "fall of the answer loss": 1 - answers["sft"]["loss"] / answers["base"]["loss"],
        "reward accuracy": found["reward"]["accuracy"],
        "reward, SFT": rewards["sft"]["mean"],
        "reward, PPO": rewards["ppo"]["mean"],
        "gain in SFT deviations": gain / rewards["sft"]["std"],
        "… of the scores before calibration": (rewards["ppo"]["raw_mean"] - rewards["sft"]["raw_mean"])
        / rewards["sft"]["raw_std"],
        "likeness to the documented answer, SFT": rewards["sft"]["likeness"],
        "likeness to the documented answer, PPO": rewards["ppo"]["likeness"],
        "KL, nats per answer": found["kl"]["mean"],
        "KL target": found["kl"]["target"],
        "alarms": len(ppo["alarms"]),
        "different phrases, SFT": rewards["sft"]["distinct"],
        "different phrases, PPO": rewards["ppo"]["distinct"],
        "first pass: ratio deviation": ppo["ratio_deviation_first_pass"],
        "first pass: approxkl": ppo["approxkl_first_pass"],
        "first pass: clipfrac": ppo["clipfrac_first_pass"],
        "SFT, bits per byte": bits["sft"],
        "PPO with ptx, bits per byte": bits["ppo"],
        "PPO without ptx, bits per byte": other["bits_per_byte"]["ppo"],
        "PPO without ptx, gain in SFT deviations": (other["rewards"]["ppo"]["mean"] - rewards["sft"]["mean"])
        / rewards["sft"]["std"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    rows = [walk(arguments.folder, seed) for seed in arguments.seeds]
    print("| figure | " + " | ".join(f"seed {s}" for s in arguments.seeds) + " | mean | spread |")
    print("|---" * (len(rows) + 3) + "|")
    for name in rows[0]:
        values = [row[name] for row in rows]
        cells = [f"{v:.4g}" for v in (*values, mean(values), pstdev(values))]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
