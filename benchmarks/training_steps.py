"""One training step of each competitor, timed in the process that this is run in: see train_beside_peers.py.

    python benchmarks/training_steps.py TASK

TASK is a `Task` as JSON; what was found is printed as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# No sishu, torch or peer here: each is imported only where it is measured, so that it starts its threads as
# its users would see it, and nothing that sishu sets reaches the others.

SECONDS, FEWEST, RATE, DECAY, BETAS = 20.0, 3, 3e-4, 0.1, (0.9, 0.95)
"""A measurement ends after so long, but not before so many steps; AdamW's settings for everyone."""
COMPILED = ", compiled"
"""How a setting ends that uses torch.compile."""
LIKE_GPT2 = "AdamW, GPT-2's shape"


@dataclass(frozen=True)
class Shape:
    """What everyone is given."""

    layers: int
    width: int
    heads: int
    vocabulary: int

    @property
    def gated(self) -> int:
        """Size of a network with a gate that costs as much as one of 4 × width without."""
        return -(-self.width * 8 // 3 // 64) * 64


SHAPES = {"5M": Shape(6, 256, 8, 8192), "30M": Shape(8, 512, 8, 8192), "124M": Shape(12, 768, 12, 50304)}


@dataclass(frozen=True)
class Task:
    """What one process measures; what it prints is JSON."""

    who: str
    setting: str
    shape: str
    context: int
    tokens: int
    steps: int
    nanogpt: str
    litgpt: str

    @property
    def sizes(self) -> Shape:
        return SHAPES[self.shape]

    @property
    def rows(self) -> int:
        return self.tokens // self.context

    @property
    def compiled(self) -> bool:
        return self.setting.endswith(COMPILED)

    @property
    def precision(self) -> str:
        return self.setting.removesuffix(COMPILED)


def timed(step: Callable[[int], float], task: Task, weights: int) -> dict[str, Any]:
    """Seconds of the first step (which compiles), of those after another that warms up, how many cores each
    of them had, and what the model is."""
    began = time.perf_counter()
    step(0)
    first = time.perf_counter() - began
    step(1)
    seconds, cores = list[float](), list[float]()
    while len(seconds) < task.steps and (sum(seconds) < SECONDS or len(seconds) < FEWEST):
        began, used = time.perf_counter(), time.process_time()
        loss = step(len(seconds) + 2)
        seconds.append(time.perf_counter() - began)
        cores.append((time.process_time() - used) / seconds[-1])
        assert math.isfinite(loss) and loss < 2 * math.log(task.sizes.vocabulary), loss
    return {"first": first, "seconds": seconds, "cores": cores, "weights": weights}


def random_batches(task: Task) -> Callable[[], tuple[Any, Any]]:
    """Draws ids and targets, both (rows, context) int64, from a million random tokens, as nanoGPT does."""
    import numpy as np
    import torch

    rng = np.random.default_rng(1)
    tokens = rng.integers(task.sizes.vocabulary, size=1_000_000)

    def batch() -> tuple[Any, Any]:
        starts = rng.integers(len(tokens) - task.context, size=task.rows)
        rows = torch.from_numpy(np.stack([tokens[at : at + task.context + 1] for at in starts]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    return batch


def ours(task: Task) -> dict[str, Any]:
    """A step of our trainer with its defaults."""
    import numpy as np

    from sishu.batches.tokens import Windows
    from sishu.models.decoder import Decoder, DecoderConfig
    from sishu.objectives.language import next_token
    from sishu.run import StageContext
    from sishu.train.trainer import Trainer, TrainSettings

    s = task.sizes
    gpt2: dict[str, Any]
    gpt2 = {"norm": "layer", "positions": "learned", "activation": "gelu", "gated": False, "qk_norm": False}
    gpt2 |= dict.fromkeys(("attention_bias", "output_bias", "mlp_bias"), True)
    config = DecoderConfig(
        vocabulary=s.vocabulary,
        width=s.width,
        layers=s.layers,
        heads=s.heads,
        kv_heads=s.heads,
        head_width=s.width // s.heads,
        hidden=4 * s.width if task.setting == LIKE_GPT2 else s.gated,
        context_length=task.context,
        **(gpt2 if task.setting == LIKE_GPT2 else {}),
    )
    model = Decoder(config)
    model.initialise(1)
    tokens = np.random.default_rng(1).integers(s.vocabulary, size=1_000_000).astype(np.uint16)
    settings = TrainSettings(
        batch=task.rows,
        micro_batch=task.rows,
        matrix_learning_rate=0.01 if task.setting == "Muon" else None,
        weight_decay=DECAY,
        betas=BETAS,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            next_token,
            Windows(tokens, task.context, task.rows, task.rows, 1),
            settings,
            StageContext("pretrain", Path(folder), 1, {}, resumed=False),
            steps=1_000_000,
            learning_rate=RATE,
        )
        weights = config.parameters() - task.context * s.width * (config.positions == "learned")
        return timed(lambda number: trainer._step(number)["loss"], task, weights)


def plain_step(task: Task, model: Any, loss_of: Callable[..., Any], optimizer: Any) -> Callable[[int], float]:
    """The usual step of a model whose `loss_of(model, ids, targets)` may run in bfloat16."""
    import torch

    batch, run = random_batches(task), torch.compile(model) if task.compiled else model

    def step(_: int) -> float:
        ids, targets = batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bfloat16"):
            loss = loss_of(run, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def nanogpt(task: Task) -> dict[str, Any]:
    """Its model, its optimizer, and the step of its train.py."""
    sys.path.insert(0, task.nanogpt)
    from model import GPT, GPTConfig

    s = task.sizes
    config = GPTConfig(task.context, s.vocabulary, s.layers, s.heads, s.width, dropout=0.0, bias=False)
    model = GPT(config)  # without biases, as its train.py has it
    optimizer = model.configure_optimizers(DECAY, RATE, BETAS, "cpu")
    step = plain_step(task, model, lambda run, ids, targets: run(ids, targets)[1], optimizer)
    return timed(step, task, model.get_num_params())


def litgpt(task: Task) -> dict[str, Any]:
    """Its model under Fabric, stepping as its pretrain.py does."""
    sys.path.insert(0, task.litgpt)
    import torch
    from lightning import Fabric
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    s = task.sizes
    fabric = Fabric(accelerator="cpu", devices=1, precision=task.precision)
    config = Config(
        block_size=task.context,
        vocab_size=s.vocabulary,
        padded_vocab_size=s.vocabulary,
        n_layer=s.layers,
        n_embd=s.width,
        n_head=s.heads,
        intermediate_size=s.gated,
        mlp_class_name="LLaMAMLP",
        norm_class_name="RMSNorm",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    with fabric.init_module():
        model = GPT(config)
    model.transformer.wte.weight = model.lm_head.weight
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    weights = sum(weight.numel() for weight in model.parameters())
    run = fabric.setup(torch.compile(model) if task.compiled else model)
    optimizer = torch.optim.AdamW(run.parameters(), lr=RATE, weight_decay=DECAY, betas=BETAS)
    optimizer, batch = fabric.setup_optimizers(optimizer), random_batches(task)

    def step(_: int) -> float:
        ids, targets = batch()
        loss = chunked_cross_entropy(run(ids), targets)
        fabric.backward(loss)
        fabric.clip_gradients(run, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return timed(step, task, weights)


def transformers(task: Task) -> dict[str, Any]:
    """Its model with PyTorch's fused attention, its loss, and its Trainer's optimizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    s = task.sizes
    model: Any
    if task.who.endswith("GPT-2"):
        config = GPT2Config(
            vocab_size=s.vocabulary,
            n_positions=task.context,
            n_embd=s.width,
            n_layer=s.layers,
            n_head=s.heads,
            activation_function="gelu_pytorch_tanh",  # the same function as its default, in one call
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
        model = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")
        weights = model.num_parameters() - model.transformer.wpe.weight.numel()
    else:
        llama = LlamaConfig(
            vocab_size=s.vocabulary,
            hidden_size=s.width,
            intermediate_size=s.gated,
            num_hidden_layers=s.layers,
            num_attention_heads=s.heads,
            max_position_embeddings=task.context,
            tie_word_embeddings=True,
            use_cache=False,
        )
        model = LlamaForCausalLM._from_config(llama, attn_implementation="sdpa")
        weights = model.num_parameters()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, betas=BETAS, fused=True)
    step = plain_step(task, model, lambda run, ids, _: run(input_ids=ids, labels=ids).loss, optimizer)
    return timed(step, task, weights)


def ceiling(task: Task) -> dict[str, float]:
    """The most FLOP/s that products of these shapes reach, in each precision."""
    import torch

    found, width = dict[str, float](), task.sizes.width
    for kind in ("float32", "bfloat16"):
        narrow, wide = (torch.randn(task.tokens, n * width, dtype=getattr(torch, kind)) for n in (1, 4))
        best, weight = math.inf, torch.randn(4 * width, width, dtype=narrow.dtype)
        for left, right in ((narrow, weight.T), (narrow, weight.T.contiguous()), (wide, weight)):
            began = time.perf_counter()
            while time.perf_counter() - began < 1.0:
                at = time.perf_counter()
                torch.mm(left, right)
                best = min(best, time.perf_counter() - at)
        found[kind] = 2 * task.tokens * width * 4 * width / best
    return found


PARTS: dict[str, Callable[[Task], dict[str, Any]]]
PARTS = {"ours": ours, "nanoGPT": nanogpt, "litgpt": litgpt, "transformers": transformers, "ceiling": ceiling}


if __name__ == "__main__":
    task = Task(**json.loads(sys.argv[1]))
    print(json.dumps(PARTS[task.who.partition(" ")[0]](task)), flush=True)
