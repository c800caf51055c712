"""Trains a small model in a process that may be killed at any moment; see `test_kills.py`.

While a checkpoint is written and while the model is evaluated it can be told to wait there, so that the kill
falls into that moment. Every line on standard input is a folder to train in; the training is done by a child
of this process, whose id is printed, and later its exit status: to import everything anew takes longer than
to train.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save, save_file

from sishu.batches.tokens import Windows
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.objectives.language import next_token
from sishu.run import Run
from sishu.train import checkpoint
from sishu.train.trainer import Trainer, TrainSettings

STEPS, PAUSE = 200, 0.002
SHAPE = DecoderConfig(
    vocabulary=64, width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=32, context_length=16
)
SETTINGS = TrainSettings(
    batch=4,
    micro_batch=2,
    matrix_learning_rate=0.02,
    warmup=0.1,
    schedule="cosine",
    precision="fp32",
    evaluate_every=5,
    checkpoint_seconds=0.01,
)


def pause(run: Path, moment: str) -> None:
    """A short wait; one for the kill where `run`/`moment` asks for it, which `run`/held answers."""
    time.sleep(PAUSE)
    if (run / moment).exists():
        (run / "held").touch()
        time.sleep(300)


def in_halves(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """What `save_file` does, slowly."""
    data = save(tensors)
    with path.open("wb") as file:
        for moment, part in (("half", data[: len(data) // 2]), ("whole", data[len(data) // 2 :])):
            file.write(part)
            file.flush()
            pause(path.parents[3], moment)


def train(folder: Path, steps: int = STEPS) -> None:
    """Train in the run at `folder` and write `weights.safetensors` there."""
    model = Decoder(SHAPE)
    model.initialise(1)
    model.train()
    tokens = np.random.default_rng(0).integers(0, 64, 5000).astype(np.uint16)
    source = Windows(tokens, 16, SETTINGS.batch, SETTINGS.micro_batch, seed=1)

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            loss = float(next_token(model, source.batches(99)[0]).total)
        pause(folder, "evaluating")
        return {"validation_loss": loss}

    with Run(folder).begin("pretrain", "key", SETTINGS, {}, seed=1) as (context, _):
        trainer = Trainer(
            model, next_token, source, SETTINGS, context, steps=steps, learning_rate=3e-3, evaluate=evaluate
        )
        trainer.fit()
        save_file(model.state_dict(), folder / "weights.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not live on in a forked child
    os.fsync = lambda _: None  # a kill leaves what the system holds of a file, and waiting is slow
    checkpoint.save_file = in_halves
    with tempfile.TemporaryDirectory() as warm:  # what is imported and worked out on first use, once for all
        train(Path(warm), 2)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train(Path(line.strip()))
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
