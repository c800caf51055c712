"""The same time to learn: our trainer beside nanoGPT, on characters and on the tokens of a run.

Characters are cut as nanoGPT's prepare.py cuts a text: its sorted characters are the vocabulary, the first
nine tenths are learnt and the rest is held out. nanoGPT runs its own train.py with the options of its README
("I only have a macbook"). Tokens are those of a run's pretrain stage, split as there; both learn the recipe's
shape (layers, width, heads, context, tokens a step), nanoGPT otherwise with the options of its config for
characters, the smallest model it has one for, and a bias-free GPT-2.

nanoGPT makes as many iterations, with the learning rate falling over all of them, as a short run before says
will fit; it evaluates nine times on the way and keeps its best model. Ours runs `Trainer` with the settings
below for as many steps as fit, and keeps its last. Seconds are those of the training loop, what it evaluates
and keeps included. Each model then reads the whole held-out text in windows of its own context, one behind
the other; nanoGPT's own estimate is drawn from such.

    python benchmarks/train_beside_peers.py --learning 3 --text input.txt --nanogpt DIR [--seeds 3]
    python benchmarks/train_beside_peers.py --learning 3 --text runs/quickstart --nanogpt DIR [--seeds 3]
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from math import log
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from tokenizers import Tokenizer

# No sishu, torch or nanoGPT here: see train_beside_peers.py.


@dataclass(frozen=True)
class Race:
    """What both learn with."""

    theirs: dict[str, str]
    """nanoGPT's options."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    context: int
    batch: int
    rate: float
    matrix_rate: float
    decay: float


ALIKE = {"device": "cpu", "compile": "False", "eval_iters": "20", "log_interval": "1", "dropout": "0.0"}
SMALL = {"block_size": "64", "batch_size": "12", "n_layer": "4", "n_head": "4", "n_embd": "128"}
"""nanoGPT's README."""
AS_QUICKSTART = {"block_size": "512", "batch_size": "4", "n_layer": "4", "n_head": "4", "n_embd": "256"}
RACES = {
    "characters": Race(ALIKE | SMALL, 4, 128, 4, 4, 384, 256, 8, 0.017, 0.02, 0.2),
    "tokens": Race(ALIKE | AS_QUICKSTART, 4, 256, 4, 2, 704, 512, 4, 0.012, 0.01, 0.05),
}
WARMUP, COOLDOWN = 0.02, 0.6
PROBE, EVALUATIONS, ROWS = 150, 8, 64
"""Iterations that tell how many will fit; evaluations behind the first; windows read at once at the end."""
CONFIG, DATA, SEED = "config/train_shakespeare_char.py", "data/shakespeare_char", "torch.manual_seed(1337 "


def prepare(text: Path, folder: Path) -> tuple[str, float]:
    """Write train.bin, val.bin and meta.pkl as nanoGPT's prepare.py does, of a text's characters or a run's
    tokens; returns which, and the bytes that one of what is held out stands for."""
    import pickle  # nanoGPT reads the vocabulary's size from one

    if text.is_dir():
        folder.mkdir(parents=True)
        for ours, theirs in (("train", "train"), ("validation", "val")):
            shutil.copy(text / f"pretrain/{ours}.bin", folder / f"{theirs}.bin")
        tokenizer = Tokenizer.from_file(str(text / "tokenizer/tokenizer.json"))
        size = tokenizer.get_vocab_size()
        if size > 1 << 16:
            sys.exit("nanoGPT reads tokens of 16 bits: give a run with a smaller vocabulary")
        (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": size, "itos": {}, "stoi": {}}))
        held_out = np.fromfile(folder / "val.bin", np.uint16).tolist()
        return "tokens", len(tokenizer.decode(held_out).encode()) / len(held_out)
    raw = text.read_bytes()
    characters = (gzip.decompress(raw) if text.suffix == ".gz" else raw).decode()
    vocabulary = sorted(set(characters))
    number = {character: at for at, character in enumerate(vocabulary)}
    ids, cut = np.array([number[c] for c in characters], np.uint16), int(len(characters) * 0.9)
    folder.mkdir(parents=True)
    ids[:cut].tofile(folder / "train.bin")
    ids[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(vocabulary), "itos": dict(enumerate(vocabulary)), "stoi": number}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return "characters", 1.0


def windows(folder: Path, context: int) -> Any:
    """The held-out text in rows of `context` + 1 ids, each beginning with the last of the one before."""
    import torch

    ids = torch.from_numpy(np.fromfile(folder / "val.bin", np.uint16).astype(np.int64))
    return ids.unfold(0, context + 1, context)


def nanogpt_learns(race: Race, place: Path, iterations: int, every: int) -> list[float]:
    """Run its train.py; returns the seconds of each iteration, evaluations included."""
    options = race.theirs | {name: str(iterations) for name in ("max_iters", "lr_decay_iters")}
    told = [f"--{name}={value}" for name, value in (options | {"eval_interval": str(every)}).items()]
    command = [sys.executable, "train.py", CONFIG, *told]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"nanoGPT: {done.stderr}")
    return [float(found) / 1e3 for found in re.findall(r"^iter \d+:.* time ([\d.]+)ms", done.stdout, re.M)]


def nanogpt(race: Race, place: Path, seed: int, seconds: float) -> dict[str, float]:
    """Learn for `seconds` in a copy of its checkout, in this process's children."""
    script = place / "train.py"
    source = script.read_text(encoding="utf-8")
    if SEED not in source:
        sys.exit("nanoGPT's train.py sets its seed in another way than was expected")
    script.write_text(source.replace(SEED, f"torch.manual_seed({1337 + seed} "), encoding="utf-8")
    one = median(nanogpt_learns(race, place, PROBE, 10 * PROBE)[PROBE // 10 :])
    # an evaluation costs about what 2 × eval_iters / 3 iterations do
    extra = (EVALUATIONS + 1) * 2 * int(race.theirs["eval_iters"]) / 3
    every = int((seconds / one - extra) / EVALUATIONS)
    if every < 1:
        sys.exit(f"an iteration of nanoGPT takes {one:.2f} s here: give --learning more minutes")
    took = nanogpt_learns(race, place, every * EVALUATIONS, every)
    script.write_text(source, encoding="utf-8")
    return {
        "seconds": sum(took),
        "steps": len(took),
        "loss": in_process("read", race, place, seed, seconds)["loss"],
    }


def read(race: Race, place: Path, seed: int, seconds: float) -> dict[str, float]:
    """The held-out loss of the model that nanoGPT kept."""
    import torch

    sys.path.insert(0, str(place))
    from model import GPT, GPTConfig

    kept = torch.load(place / "out-shakespeare-char/ckpt.pt", weights_only=True)
    model = GPT(GPTConfig(**kept["model_args"]))
    model.load_state_dict(kept["model"])
    model.eval()
    rows, nats = windows(place / DATA, kept["model_args"]["block_size"]), list[float]()
    with torch.inference_mode():
        for some in rows.split(ROWS):
            nats += [float(model(some[:, :-1], some[:, 1:].contiguous())[1])] * len(some)
    return {"loss": mean(nats)}


def ours(race: Race, place: Path, seed: int, seconds: float) -> dict[str, float]:
    """Learn for `seconds` by our trainer."""
    from sishu.batches.tokens import Windows
    from sishu.models.decoder import Decoder, DecoderConfig
    from sishu.objectives.language import next_token
    from sishu.run import BEGUN, StageContext
    from sishu.train.held_out import position_losses
    from sishu.train.trainer import Trainer, TrainSettings

    tokens, held_out = (np.fromfile(place / DATA / f"{side}.bin", np.uint16) for side in ("train", "val"))
    config = DecoderConfig(
        vocabulary=int(max(tokens.max(), held_out.max())) + 1,
        width=race.width,
        layers=race.layers,
        heads=race.heads,
        kv_heads=race.kv_heads,
        head_width=race.width // race.heads,
        hidden=race.hidden,
        context_length=race.context,
    )
    settings = TrainSettings(
        batch=race.batch,
        micro_batch=race.batch,
        matrix_learning_rate=race.matrix_rate,
        weight_decay=race.decay,
        warmup=WARMUP,
        cooldown=COOLDOWN,
        checkpoint_seconds=1e9,
    )

    def trainer(steps: int, model: Decoder) -> Trainer:
        model.initialise(seed)
        (place / BEGUN).write_text("{}", encoding="utf-8")
        context = StageContext("pretrain", place, seed, {}, resumed=False)
        source = Windows(tokens, race.context, race.batch, race.batch, seed)
        return Trainer(model, next_token, source, settings, context, steps=steps, learning_rate=race.rate)

    trial, took = trainer(1_000_000, Decoder(config)), list[float]()
    for number in count():
        began = time.perf_counter()
        trial._step(number)
        took.append(time.perf_counter() - began)
        if sum(took) > min(5.0, seconds / 4):
            break
    steps = max(1, int(seconds / median(took)))
    model = Decoder(config)
    real = trainer(steps, model)
    began = time.perf_counter()
    real.fit()
    trained = time.perf_counter() - began
    model.eval()
    losses = position_losses(model, windows(place / DATA, race.context), precision="fp32")
    return {"seconds": trained, "steps": steps, "loss": float(losses.double().mean())}


PARTS = {"nanoGPT": nanogpt, "read": read, "ours": ours}


def in_process(who: str, race: Race, place: Path, seed: int, seconds: float) -> dict[str, float]:
    """What one of the parts finds in a process of its own."""
    name = next(name for name, one in RACES.items() if one == race)
    command = [sys.executable, __file__, who, name, str(place), str(seed), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{who}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(text: Path, checkout: Path, seconds: float, seeds: int) -> None:
    """Both for the same time, seed by seed, in turn; prints a table."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name in ("model.py", "train.py", "configurator.py", CONFIG):
            (place / name).parent.mkdir(exist_ok=True)
            shutil.copy(checkout / name, place / name)
        kind, size = prepare(text, place / DATA)
        unit = 1.0 if kind == "characters" else size * log(2)
        print(f"{kind}, {seconds:.0f} s each; held-out loss in", end=" ")
        print("nats per character\n" if kind == "characters" else "bits per byte\n")
        print("| seed | nanoGPT | steps | seconds | ours | steps | seconds | ours - nanoGPT |")
        print("|" + "---|" * 8)
        losses = list[tuple[float, float]]()
        for seed in range(1, seeds + 1):
            both = [in_process(who, RACES[kind], place, seed, seconds) for who in ("nanoGPT", "ours")]
            found = both[0]["loss"] / unit, both[1]["loss"] / unit
            cells = [
                f"{loss:.4f} | {b['steps']:.0f} | {b['seconds']:.0f}"
                for loss, b in zip(found, both, strict=True)
            ]
            losses.append(found)
            print(f"| {seed} | {' | '.join(cells)} | {found[1] - found[0]:+.4f} |", flush=True)
        theirs, mine = (mean(side) for side in zip(*losses, strict=True))
        print(f"| mean | {theirs:.4f} | | | {mine:.4f} | | | {mine - theirs:+.4f} |")


if __name__ == "__main__":
    who, name, place, seed, seconds = sys.argv[1:]
    print(json.dumps(PARTS[who](RACES[name], Path(place), int(seed), float(seconds))), flush=True)
