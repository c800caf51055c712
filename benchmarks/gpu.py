"""Generating and training on one NVIDIA GPU, beside transformers and vLLM: a table, in less than ten minutes.

- Generating with the shape of SmolLM2-135M and random weights, the same for all, in bfloat16: one text, 8 and
  32 at once (prompts of 8 tokens, reading included), and reading a prompt of 512 tokens. Best of a few
  tries after one that warms up.
- Whether our engine's greedy tokens in float32 are those of plain forward passes on the same device.
- Training steps of GPT-2's shapes at context 1024 under bfloat16 autocast: our trainer with Muon, as in
  pretraining, and with AdamW alone, beside a plain loop over transformers' GPT-2, compiled and not.

Every part runs in a process of its own with a time limit; one that fails leaves a row that says why, and what
no time is left for is named. Peers that are not installed are left out. Nothing is fetched.

    benchmarks/gpu.sh [--device cuda] [--minutes 9.5] [--small]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_parts import PARTS, RESULT, Size, say

NEEDED = ("torch", "numpy", "safetensors", "tokenizers", "tiktoken", "google.protobuf", "llguidance")
NEEDED += ("pydantic", "yaml", "jinja2", "rich", "filelock")


def measured(name: str, folder: Path, words: list[str], limit: float) -> dict[str, Any]:
    """What a process of its own finds of one part; where it does not end well, "failed" says why."""
    command = [sys.executable, __file__, *words, "--measure", name, str(folder)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True, start_new_session=True)
        late = False
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with suppress(ProcessLookupError):  # what it has started ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        err.seek(0)
        lines = [line for line in out.read().splitlines() if line.startswith(RESULT)]
        said = err.read().strip()
    found: dict[str, Any] = {}
    for line in lines:
        found |= json.loads(line.removeprefix(RESULT))
    if late:
        return found | {"failed": f"took more than {limit:.0f} s", "late": True}
    if process.returncode and "failed" not in found:
        return found | {"failed": said.splitlines()[-1][:200] if said else f"ended with {process.returncode}"}
    return found


def tried(name: str, folder: Path, device: str, size: Size) -> dict[str, Any]:
    """What a part finds, or why it fails, in a sentence."""
    try:
        return PARTS[name][1](folder, device, size)
    except ModuleNotFoundError as error:
        return {"failed": f"needs the package {error.name}, which cannot be imported here"}
    except Exception as error:  # whatever goes wrong in one part, the others go on
        import traceback

        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        return {"failed": f"{type(error).__name__}: {first}"[:200].replace("|", "/")}


def cell(found: dict[str, Any], figure: str, form: Callable[[float], str]) -> str:
    """A figure as it stands in the table, or why there is none."""
    if figure in found:
        return form(found[figure])
    return f"failed: {found['failed']}" if "failed" in found else ""


def row(
    what: str,
    our: dict[str, Any],
    their: dict[str, Any],
    peer: str,
    figure: str,
    form: Callable[[float], str] = "{:,.0f}".format,
) -> None:
    """A line of the table."""
    ratio = f"×{our[figure] / their[figure]:.2f}" if our.get(figure) and their.get(figure) else ""
    shown = cell(their, figure, form)
    print(f"| {what} | {cell(our, figure, form)} | {f'{peer}: {shown}' if shown else ''} | {ratio} |")


def tell(found: dict[str, dict[str, Any]], size: Size) -> None:
    """All that was found: the machine, then the table, then what was left out."""
    about = found["device"]
    if size.small:
        print("Small sizes: only whether everything runs is shown here, and no figure means anything.\n")
    if "failed" in about:
        print(f"device: failed: {about['failed']}\n")
    else:
        print(f"{about['name']}, torch {about['torch']}; peak assumed: {about['peak'] / 1e12:.3g} TFLOP/s in")
        print(f"bfloat16 ({about['by']}); a large product reaches {about['reached'] / 1e12:.3g}.\n")
    print("| what | ours | peer | ratio |\n|---|---|---|---|")
    same = found["equal"]
    told = cell(same, "same", lambda ok: "ok" if ok else "differs")
    print(f"| greedy tokens in fp32 as by plain forward passes | {told} | {same.get('note', '')} | |")
    peers = {"generate": "transformers", "generate, static cache": "transformers static", "vllm": "vllm"}
    kinds = {"all in bf16": "ours", "weights in bf16": "ours as the command"}
    for kind, part in kinds.items():
        for peer, theirs in peers.items():
            if theirs not in found or (part != "ours" and theirs != "transformers"):
                continue
            for texts in size.texts:
                what = f"tokens/s, {texts} at once, {kind}"
                row(what, found[part], found[theirs], peer, str(texts))
            if theirs != "transformers static":
                row(
                    f"tokens/s read, prompt of {size.prompt}, {kind}",
                    found[part],
                    found[theirs],
                    peer,
                    "reading",
                )
        row(f"memory, GB, {kind}", found[part], found["transformers"], "generate", "GB", "{:.1f}".format)
        print(f"| steps, {kind} | {found[part].get('note', '')} | | |")
    peak = about.get("peak")
    for name in size.shapes:
        our = found[f"train ours {name}"]
        flops = our.get("flops")
        for one in (f"train {who} {name}" for who in ("ours", "compiled", "AdamW", "plain")):
            if peak and flops and "speed" in found[one]:
                found[one]["share"] = found[one]["speed"] * flops / peak
        compiled, plain = found[f"train compiled {name}"], found[f"train plain {name}"]
        row(f"training {name}, tokens/s", our, compiled, "compiled", "speed")
        row(f"training {name}, share of the peak", our, compiled, "compiled", "share", "{:.1%}".format)
        row(f"training {name}, rows a step", our, compiled, "compiled", "rows")
        row(f"training {name}, memory, GB", our, compiled, "compiled", "GB", "{:.1f}".format)
        adamw = found[f"train AdamW {name}"]
        row(f"training {name}, AdamW alone, tokens/s", adamw, plain, "not compiled", "speed")
        row(
            f"training {name}, AdamW alone, share of the peak",
            adamw,
            plain,
            "not compiled",
            "share",
            "{:.1%}".format,
        )
    print(f"\ncut for want of time: {', '.join(n for n, f in found.items() if f.get('cut')) or 'nothing'}")
    if "vllm" not in found:
        print("vllm: not installed")


def missing() -> list[str]:
    """Packages that our side needs and that are not here."""
    absent = []
    for name in NEEDED:
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:
            spec = None
        absent += [] if spec else [name]
    return absent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="only shows that everything runs")
    parser.add_argument("--minutes", type=float, default=9.5, help="when everything ends")
    parser.add_argument(
        "--only", help="only parts whose names begin like this, the device and weights besides"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # what the processes are started with
    args = parser.parse_args()
    size, ends = Size(args.small), time.monotonic() + 60 * args.minutes
    if args.measure:
        result = tried(args.measure[0], Path(args.measure[1]), args.device, size)
        say(result)
        return
    if absent := missing():
        print(f"Rows fail that need these packages, which cannot be imported here: {', '.join(absent)}.\n")
    words = ["--device", args.device, *(["--small"] if args.small else [])]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (most, _) in PARTS.items():
            left = ends - time.monotonic()
            if name == "vllm" and not find_spec("vllm"):
                continue
            if args.only and not name.startswith(args.only) and name not in ("device", "weights"):
                found[name] = {"failed": "not asked for"}
            elif left < 10:
                found[name] = {"failed": "cut, no time was left", "cut": True}
            else:
                started = time.monotonic()
                found[name] = measured(name, Path(folder), words, min(most, left))
                if found[name].get("late") and most > left:
                    found[name]["cut"] = True
                # at once, so that something is known if the whole is stopped from outside
                print(
                    f"{name} ({time.monotonic() - started:.0f} s): {json.dumps(found[name])}", file=sys.stderr
                )
    tell(found, size)


if __name__ == "__main__":
    main()
