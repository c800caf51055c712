"""What `gpu.py` measures: one function for each part, run in a process of its own."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# No torch, sishu or peer here: a part imports them when it runs, so that a missing one fails that part alone.

RESULT = "RESULT "
"""How a line begins that says what was found, as JSON; later lines add to earlier ones."""
PEAKS = {"H100": 989e12, "H200": 989e12}
"""Operations a second of dense bfloat16 products by NVIDIA's data sheets, of the SXM modules."""
OTHER_MODULES = ("PCIe", "NVL", "MIG")
TRIES = 3


class Size:
    """How much is done: what is measured on a GPU, or what only shows that everything runs."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.shapes = {"GPT-2 124M": "gpt2", "GPT-2 350M": "gpt2-medium"}
        self.texts = (1, 8, 32)
        self.prompt, self.new, self.checked = (32, 8, 12) if small else (512, 128, 48)
        self.context, self.rows, self.warm, self.steps = (64, 2, 1, 2) if small else (1024, 16, 4, 12)

    def decoder(self) -> Any:
        """The shape that generates."""
        from dataclasses import replace

        from sishu.models.presets import PRESETS

        shape = PRESETS["smollm2-135m"]
        few = {"vocabulary": 1000, "width": 48, "layers": 2, "heads": 6, "kv_heads": 2, "head_width": 8}
        return replace(shape, **few, hidden=96, context_length=256) if self.small else shape

    def trained(self, name: str) -> Any:
        """A shape that is trained."""
        from dataclasses import replace

        from sishu.models.presets import PRESETS

        shape = PRESETS[name]
        few = {"vocabulary": 500, "width": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head_width": 8}
        return replace(shape, **few, hidden=64, context_length=self.context) if self.small else shape


def say(figures: dict[str, Any]) -> None:
    """Tell the process that waits what is known so far, in case the time runs out."""
    print(f"\n{RESULT}{json.dumps(figures)}", flush=True)


def prompt(length: int, vocabulary: int, seed: int) -> list[int]:
    """Random tokens, so that no prompt begins like another."""
    rng = random.Random(seed)
    return [rng.randrange(3, vocabulary) for _ in range(length)]


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, once: Callable[[], object]) -> float:
    """How long something takes, all of the device's work included."""
    wait(device)
    started = time.perf_counter()
    once()
    wait(device)
    return time.perf_counter() - started


def best(device: str, once: Callable[[int], object]) -> float:
    """The shortest of a few tries, each with a seed of its own, after one that warms up."""
    once(0)
    return min(seconds(device, lambda seed=seed: once(seed)) for seed in range(1, TRIES + 1))


def memory(device: str) -> dict[str, float]:
    """The most that tensors have taken, in GB, on a GPU."""
    import torch

    return {"GB": torch.cuda.max_memory_allocated() / 1e9} if device == "cuda" else {}


def about_device(_: Path, device: str, size: Size) -> dict[str, Any]:
    """What it is, and what a large product reaches."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    n = 512 if size.small else 8192
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))

    def ten(_: int) -> None:
        for _ in range(10):
            a @ b

    reached = 10 * 2 * n**3 / best(device, ten)
    known = next((peak for kind, peak in PEAKS.items() if kind in name), None)
    if known is None or any(kind in name for kind in OTHER_MODULES):
        return {
            "name": name,
            "torch": torch.__version__,
            "peak": reached,
            "by": "measured",
            "reached": reached,
        }
    return {"name": name, "torch": torch.__version__, "peak": known, "by": "data sheet", "reached": reached}


def weights(folder: Path, _: str, size: Size) -> dict[str, Any]:
    """A folder with random weights of which none is without effect, as ours and transformers read it."""
    import torch

    from sishu.models.decoder import Decoder
    from sishu.models.folder import write_model

    torch.manual_seed(0)
    model = Decoder(size.decoder())
    with torch.no_grad():
        model.embedding.weight.mul_(0.02)  # or the head, which shares it, would say every token again
    write_model(model, folder, torch.bfloat16)
    return {}


def tokenizer(vocabulary: int) -> Any:
    """A byte-level tokenizer of so many tokens of one and two bytes: what our engine decodes plays no part,
    but that it does so belongs to its speed."""
    from itertools import product

    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models

    from sishu.tokenizer.byte_level import BYTE_OF
    from sishu.tokenizer.tokenizer import Tokenizer

    tokens = [*BYTE_OF, *map("".join, product(BYTE_OF, BYTE_OF))][:vocabulary]
    fast = FastTokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=[]))
    fast.decoder = decoders.ByteLevel()
    return Tokenizer(fast)


def our_engine(folder: Path, device: str, size: Size, dtype: Any, made_ready: bool) -> Any:
    """Our engine on the weights of the folder."""
    from sishu.generate.batching import BatchingEngine, BatchSettings
    from sishu.generate.quantise import ready
    from sishu.models.folder import read_decoder

    model = read_decoder(folder, dtype).to(device)
    model = ready(model, "bf16") if made_ready else model
    settings = BatchSettings(running=max(size.texts), step_tokens=max(512, size.prompt), prefixes=False)
    return BatchingEngine(model, tokenizer(model.config.vocabulary), settings)


def ours(folder: Path, device: str, size: Size, made_ready: bool = False) -> dict[str, Any]:
    """Our engine, all in bfloat16, or as `sishu generate --weights bf16` has it: matrices and products in
    bfloat16, the stream between them and the cache in float32."""
    import torch

    from sishu.generate.sampling import Sampling

    engine = our_engine(folder, device, size, torch.bfloat16, made_ready)
    vocabulary = engine.model.config.vocabulary

    def complete(texts: int, length: int, new: int, seed: int) -> None:
        prompts = [prompt(length, vocabulary, 100 * seed + text) for text in range(texts)]
        engine.complete(prompts, Sampling(max_tokens=new, temperature=0.0, ignore_end=True))

    figures: dict[str, Any] = {}
    for texts in size.texts:
        took = best(device, lambda seed, texts=texts: complete(texts, 8, size.new, seed))
        figures[str(texts)] = texts * size.new / took
        say(figures)
    figures["reading"] = size.prompt / best(device, lambda seed: complete(1, size.prompt, 1, seed))
    recorded = engine._graph is not None and bool(engine._graph.recordings)
    return figures | memory(device) | {"note": "recorded" if recorded else "not recorded"}


def ours_ready(folder: Path, device: str, size: Size) -> dict[str, Any]:
    """See `ours`."""
    return ours(folder, device, size, made_ready=True)


def transformers(folder: Path, device: str, size: Size, cache: str | None = None) -> dict[str, Any]:
    """Its `generate`, and its forward pass over a prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device)
    how = {"max_new_tokens": size.new, "min_new_tokens": size.new, "do_sample": False, "pad_token_id": 0}
    if cache:
        how["cache_implementation"] = cache

    def ids(texts: int, length: int, seed: int) -> Any:
        some = [prompt(length, model.config.vocab_size, 100 * seed + text) for text in range(texts)]
        return torch.tensor(some, device=device)

    def generate(texts: int, seed: int) -> None:
        some = ids(texts, 8, seed)
        found = model.generate(some, attention_mask=torch.ones_like(some), **how)
        assert found.shape == (texts, 8 + size.new), found.shape

    figures: dict[str, Any] = {}
    with torch.inference_mode():
        for texts in size.texts:
            took = best(device, lambda seed, texts=texts: generate(texts, seed))
            figures[str(texts)] = texts * size.new / took
            say(figures)
        if not cache:
            took = best(
                device, lambda seed: model(ids(1, size.prompt, seed), logits_to_keep=1).logits.argmax(-1)
            )
            figures["reading"] = size.prompt / took
    return figures | memory(device)


def transformers_static(folder: Path, device: str, size: Size) -> dict[str, Any]:
    """Its `generate` with a cache of fixed size, which it compiles on a GPU."""
    return transformers(folder, device, size, "static")


def vllm(folder: Path, device: str, size: Size) -> dict[str, Any]:
    """vLLM on the same weights."""
    from vllm import LLM, SamplingParams, TokensPrompt

    model = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=2 * size.prompt,
        max_num_seqs=max(size.texts),
        gpu_memory_utilization=0.5,
        enable_prefix_caching=False,
    )
    vocabulary = size.decoder().vocabulary

    def generate(texts: int, length: int, new: int, seed: int) -> None:
        prompts = [
            TokensPrompt(prompt_token_ids=prompt(length, vocabulary, 100 * seed + text))
            for text in range(texts)
        ]
        how = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
        model.generate(prompts, how, use_tqdm=False)

    figures: dict[str, Any] = {}
    for texts in size.texts:
        took = best(device, lambda seed, texts=texts: generate(texts, 8, size.new, seed))
        figures[str(texts)] = texts * size.new / took
        say(figures)
    figures["reading"] = size.prompt / best(device, lambda seed: generate(1, size.prompt, 1, seed))
    return figures


def equal(folder: Path, device: str, size: Size) -> dict[str, Any]:
    """Greedy tokens of our engine, several texts at once by the step of fixed shapes, beside those of plain
    forward passes, text by text and without a cache, in float32; and how far log-probabilities are apart."""
    import torch

    from sishu.generate.graph_step import GraphStep
    from sishu.generate.sampling import Sampling

    engine = our_engine(folder, device, size, torch.float32, made_ready=False)
    model = engine.model
    if engine._graph is None:
        engine._graph = GraphStep(model, engine.cache)
    prompts = [prompt(length, model.config.vocabulary, length) for length in (1, 7, 31, 32, 100)]
    how = Sampling(max_tokens=size.checked, temperature=0.0, ignore_end=True, log_probs=0)
    numbers = {engine.submit(one, how): place for place, one in enumerate(prompts)}
    found: list[list[tuple[int, float]]] = [[] for _ in prompts]
    while engine.busy:
        for output in engine.step():
            chosen = (one.chosen for one in output.log_probs)
            found[numbers[output.request]] += zip(output.ids, chosen, strict=True)
    notes, apart = list[str](), 0.0
    with torch.inference_mode():
        for number, (given, tokens) in enumerate(zip(prompts, found, strict=True)):
            assert len(tokens) == size.checked, tokens
            for at, (token, chosen_by_us) in enumerate(tokens):
                ids = [*given, *(earlier for earlier, _ in tokens[:at])]
                log_p_V = model(torch.tensor([ids], device=device))[0, -1].log_softmax(-1)
                apart = max(apart, abs(float(log_p_V[token]) - chosen_by_us))
                if int(log_p_V.argmax()) != token:
                    behind = float(log_p_V.max() - log_p_V[token])
                    notes.append(f"text {number} at token {at}, by {behind:.1e} of a logit")
                    break
    run = f"{engine._graph.steps} steps, {'recorded' if engine._graph.recordings else 'not recorded'}"
    same = not notes
    return {"same": same, "note": "; ".join([*notes, f"log-probabilities at most {apart:.1e} apart", run])}


def flops_a_token(shape: Any) -> float:
    """Of training by next-token prediction: 6·N + 12·L·H·K·T, where N are the weights that multiply, the tied
    head among them (Chowdhery et al. 2022, arXiv:2204.02311, appendix B; `sishu.stages.cost`)."""
    products = shape.parameters(embedding=False) + shape.vocabulary * shape.width
    return 6 * products + 12 * shape.layers * shape.heads * shape.head_width * shape.context_length


def fitting(device: str, size: Size, speed: Callable[[int], float]) -> dict[str, Any]:
    """The speed with so many sequences a step, of which there are half as many when the memory does not hold
    them."""
    import torch

    rows = size.rows
    while True:
        try:
            return {"speed": speed(rows), "rows": rows} | memory(device)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        rows //= 2
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Enough(Exception):
    """The steps that were to be measured are done."""


def train_ours(shape: Any, device: str, size: Size, muon: bool) -> dict[str, Any]:
    """Our trainer as it is, between the moments at which it asks for batches; it writes a line of metrics a
    step, and no checkpoint."""
    import numpy as np
    import torch

    from sishu.batches.batch import Batch
    from sishu.batches.tokens import Windows
    from sishu.models.decoder import Decoder
    from sishu.objectives.language import next_token
    from sishu.run import BEGUN, StageContext
    from sishu.train.trainer import Trainer, TrainSettings

    class Watched(Windows):
        times: list[float] = []

        def batches(self, step: int) -> list[Batch]:
            wait(device)
            self.times.append(time.perf_counter())
            if len(self.times) > size.warm + size.steps:
                raise Enough
            return super().batches(step)

    tokens = np.random.default_rng(1).integers(0, shape.vocabulary, 1 << 20).astype(np.uint16)

    def speed(rows: int) -> float:
        torch.manual_seed(0)
        model = Decoder(shape)
        model.initialise(1)
        how = {"batch": rows, "micro_batch": rows, "precision": "bf16", "checkpoint_seconds": 1e9}
        settings = TrainSettings(**how, matrix_learning_rate=0.01 if muon else None)
        windows = Watched(tokens, size.context, rows, rows, seed=1)
        windows.times = []
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / BEGUN).write_text("{}", encoding="utf-8")
            context = StageContext("gpu", Path(folder), 1, {}, resumed=False)
            parts = (model.to(device), next_token, windows, settings, context)
            with suppress(Enough):
                Trainer(*parts, steps=1000, learning_rate=3e-4).fit()
        took = windows.times[-1] - windows.times[size.warm]
        return rows * size.context * size.steps / took

    return fitting(device, size, speed)


def train_transformers(shape: Any, device: str, size: Size, compiled: bool) -> dict[str, Any]:
    """A plain loop over transformers' GPT-2: autocast, clipped gradients, fused AdamW; no dropout."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context_length,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.hidden,
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False},
        **{"bos_token_id": 0, "eos_token_id": 0},
    )

    def speed(rows: int) -> float:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
        forward = torch.compile(model) if compiled else model

        def step() -> None:
            ids = torch.randint(0, shape.vocabulary, (rows, size.context), device=device)
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = forward(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        for _ in range(size.warm):
            step()
        took = seconds(device, lambda: [step() for _ in range(size.steps)])
        return rows * size.context * size.steps / took

    return fitting(device, size, speed)


def training(kind: str) -> Callable[[Path, str, Size], dict[str, Any]]:
    """The part that trains one shape: "ours", "AdamW" (ours without Muon), "compiled" or "plain" (theirs),
    then the shape's name."""
    who, _, name = kind.partition(" ")

    def part(_: Path, device: str, size: Size) -> dict[str, Any]:
        shape = size.trained(size.shapes[name])
        if who in ("ours", "AdamW"):
            return train_ours(shape, device, size, muon=who == "ours") | {"flops": flops_a_token(shape)}
        return train_transformers(shape, device, size, compiled=who == "compiled")

    return part


PARTS: dict[str, tuple[int, Callable[[Path, str, Size], dict[str, Any]]]] = {
    "device": (60, about_device),
    "weights": (60, weights),
    "equal": (80, equal),
    "ours": (90, ours),
    "transformers": (100, transformers),
    "train ours GPT-2 124M": (60, training("ours GPT-2 124M")),
    "train compiled GPT-2 124M": (120, training("compiled GPT-2 124M")),
    "train ours GPT-2 350M": (70, training("ours GPT-2 350M")),
    "train compiled GPT-2 350M": (130, training("compiled GPT-2 350M")),
    "ours as the command": (90, ours_ready),
    "train AdamW GPT-2 124M": (60, training("AdamW GPT-2 124M")),
    "train AdamW GPT-2 350M": (70, training("AdamW GPT-2 350M")),
    "train plain GPT-2 124M": (60, training("plain GPT-2 124M")),
    "train plain GPT-2 350M": (70, training("plain GPT-2 350M")),
    "transformers static": (110, transformers_static),
    "vllm": (150, vllm),
}
"""Seconds that each part may take at most, and what it does; the most important first."""
