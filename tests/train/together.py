"""Trains small models in several processes that meet as torchrun would have them meet; see
`test_parallel.py`.

Every line on standard input is an order: how many processes, what to train, where, and how far. They are
children of this process, whose ids are printed, and later their exit codes: to import everything anew takes
longer than to train. What a child says of errors is in FOLDER/stderr-RANK.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from sishu.batches.batch import Batch, Source, Stateless
from sishu.batches.conversations import Conversations
from sishu.batches.tokens import Windows
from sishu.console import UserError
from sishu.files import dump_json
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.nn.device import autocast
from sishu.objectives.language import next_token
from sishu.processes import joined
from sishu.run import BEGUN, StageContext
from sishu.tokenizer.chat import Conversation
from sishu.train import optimizer
from sishu.train.parallel import Spread, rows_at_once
from sishu.train.shards import local, part_of, whole
from sishu.train.trainer import Trainer, TrainSettings

STEPS = 20
QWEN = DecoderConfig(
    vocabulary=64, width=16, layers=2, heads=4, kv_heads=2, head_width=4, hidden=32, context_length=16
)
GPT2 = replace(
    QWEN,
    kv_heads=4,
    norm="layer",
    positions="learned",
    qk_norm=False,
    attention_bias=True,
    output_bias=True,
    gated=False,
    activation="gelu_tanh",
    mlp_bias=True,
)
SHAPES = {
    "qwen": QWEN,
    "gpt2": GPT2,
    "bloom": replace(GPT2, positions="alibi", tied=False),
    "one head for all": replace(QWEN, kv_heads=1),
    "odd": replace(QWEN, heads=3, kv_heads=3, hidden=31, vocabulary=61),
}


@dataclass
class Order:
    """What to train."""

    folder: str
    size: int = 1
    tensor: int = 1
    shape: str = "qwen"
    settings: dict[str, Any] = field(default_factory=dict)
    conversations: bool = False
    stop: int = STEPS
    """Steps after which it stops as if Ctrl-C had been pressed."""
    resumed: bool = False
    patient: bool = False
    """Whether a step takes so long that it can be killed in the middle."""
    counted: bool = False
    """Whether to count what is sent."""
    least: int | None = None
    """The size of files, in bytes, that the last process may not exceed."""


class Sent(TorchDispatchMode):
    """Counts what is sent, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace in ("c10d", "_c10d_functional"):
            self.counts[function.__name__] += 1
        return function(*args, **(kwargs or {}))


class Watched(Stateless):
    """Batches, and the figures of the steps as they are, not rounded; it ends at some step."""

    def __init__(self, source: Source, order: Order) -> None:
        self.source, self.order = source, order
        self.seen: list[dict[str, float]] = []
        self.last = 0

    def batches(self, step: int) -> list[Batch]:
        time.sleep(0.02 if self.order.patient else 0)
        return self.source.batches(step)

    def after(self, step: int, figures: dict[str, float]) -> None:
        self.seen.append({"step": step, **figures})
        self.last = step + 1

    def done(self) -> bool:
        return self.last >= self.order.stop


def source_of(order: Order, settings: TrainSettings, rows: int, vocabulary: int) -> Source:
    chance = np.random.default_rng(0)
    tokens = (np.cumsum(chance.integers(1, 3, 5000)) % vocabulary).astype(np.uint16)  # easily learnt
    if order.conversations:  # of which some have ten times as many tokens to learn as others
        talks = []
        for number in range(40):
            ids = tokens[number * 16 :][: chance.integers(4, 16)].tolist()
            start = int(chance.integers(1, len(ids) - 1))
            talks.append(Conversation(ids, [i >= start for i in range(len(ids))]))
        return Conversations(talks, 0, settings.batch, rows, seed=1)
    return Windows(tokens, 16, settings.batch, rows, seed=1)


def train(order: Order) -> None:
    """Train in the folder; the first process writes figures, weights, and counts of what was sent."""
    folder = Path(order.folder)
    usual = {"batch": 8, "micro_batch": 8, "precision": "fp32", "evaluate_every": 5, "warmup": 0.1}
    settings = TrainSettings(**{**usual, "checkpoint_seconds": 1e9, **order.settings})
    with joined() as processes:
        if processes.first and not order.resumed:
            (folder / BEGUN).write_text("{}")
        if order.least is not None and processes.rank == order.size - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order.least,) * 2)  # Python ignores SIGXFSZ
        context = StageContext(
            "pretrain",
            folder,
            1,
            {},
            order.resumed,
            processes=processes,
            tensor_parallel=order.tensor,
        )
        shape = SHAPES[order.shape]
        model = Decoder(shape)
        model.initialise(1)
        model.train()
        rows = rows_at_once(settings.batch, settings.micro_batch, context)
        source = Watched(source_of(order, settings, rows, shape.vocabulary), order)
        probe = Windows(np.arange(500, dtype=np.uint16) % 61, 16, 4, 4, seed=2).batches(0)[0]

        @torch.no_grad()
        def evaluate() -> dict[str, float]:
            with autocast(torch.device("cpu"), settings.precision):
                return {"validation_loss": float(next_token(model, probe).total)}

        trainer = Trainer(
            model,
            next_token,
            source,
            settings,
            context,
            steps=STEPS,
            learning_rate=3e-3,
            evaluate=evaluate,
        )
        if isinstance(trainer.parallel, Spread):
            for name, weight in trainer.parallel.weights.items():
                assert torch.equal(local(weight), part_of(whole(local(weight), weight), weight)), name
        sent = Sent()
        with sent if order.counted else nullcontext():
            trainer.fit()
        figures = {
            "steps": source.seen,
            "sent": sent.counts,
            "held": sum(local(w).numel() for w in model.parameters()),
            "loss": evaluate()["validation_loss"],
        }
        if processes.first:
            (folder / "figures.json").write_text(dump_json(figures))
        if order.stop >= STEPS:
            trainer.finish(lambda made: save_file(made.state_dict(), folder / "weights.safetensors"))


def child(order: Order, rank: int, port: int) -> int:
    """The exit code of one process."""
    os.dup2(os.open(Path(order.folder) / f"stderr-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(order.size)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    try:
        train(order)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not live on in a forked child
    os.fsync = lambda _: None  # a kill leaves what the system holds of a file, and waiting is slow
    # bfloat16 would turn differences of the last bit into some of the eighth
    optimizer.has_fast_bf16 = lambda _: False
    with tempfile.TemporaryDirectory() as warm:  # what is imported and worked out on first use, once for all
        train(Order(warm, settings={"matrix_learning_rate": 0.02}))
    for line in sys.stdin:
        order = Order(**json.loads(line))
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun holds it
        children = []
        for rank in range(order.size):
            if (process := os.fork()) == 0:
                code = 1
                try:
                    code = child(order, rank, store.port)
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(process)
        print(json.dumps(children), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children]
        print(json.dumps(codes), flush=True)
