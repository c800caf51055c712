"""How fast is a vocabulary learnt, and text encoded? Ours beside tokenizers and tiktoken, in one process.

The text is the strings of the files given, Chinese and English in equal parts. Every measurement is taken in
turn, `--rounds` times over, and the ratio is the median of the ratios of a round, so that what else the
machine does falls on all alike. Training uses all cores in both, encoding one thread or all, as it says.

    python benchmarks/tokenizer_beside_peers.py FILES... [--megabytes 50] [--rounds 3]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tiktoken
from tokenizers import Tokenizer as Peer
from tokenizers import decoders, models, pre_tokenizers, trainers

from sishu.tokenizer.byte_level import OWN_PATTERN, byte_level
from sishu.tokenizer.chat import SPECIAL_TOKENS
from sishu.tokenizer.fast_path import fast_path
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe

CHINESE = re.compile(r"[\u3400-\u9fff]")


def strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (s for item in value.values() for s in strings(item))
    elif isinstance(value, list):
        yield from (s for item in value for s in strings(item))


def texts_of(path: Path) -> Iterator[str]:
    """Paragraphs of a text file, strings of a JSON file; either may be gzipped."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "ignore")
    name = path.name.removesuffix(".gz")
    if name.endswith(".json"):
        yield from strings(json.loads(text))
    elif name.endswith(".jsonl"):
        yield from (s for line in text.splitlines() if line.strip() for s in strings(json.loads(line)))
    else:
        yield from re.split(r"(?<=\n\n)", text.replace("\r\n", "\n"))


def corpus(paths: list[Path], size: int) -> list[str]:
    """About `size` bytes, half of them in texts that are mostly Chinese, each text once."""
    kept: dict[bool, dict[str, None]] = {True: {}, False: {}}
    left = {True: size // 2, False: size // 2}
    for path in paths:
        for text in texts_of(path):
            chinese = len(CHINESE.findall(text)) * 4 > len(text)
            if left[chinese] > 0 and text.strip() and text not in kept[chinese]:
                kept[chinese][text] = None
                left[chinese] -= len(text.encode())
    counts = f"{len(kept[True]):,} Chinese and {len(kept[False]):,} English texts"
    print(f"{size - sum(left.values()):,} bytes: {counts}", flush=True)
    return [text for some in kept.values() for text in some]


def train_peer(texts: list[str], vocabulary: int) -> Peer:
    """What `train_bpe` did before there was another way."""
    fast = Peer(models.BPE())
    fast.pre_tokenizer = byte_level()
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return fast


def seconds(work: Callable[[], Any]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def paired(what: str, size: float, rounds: int, **ways: Callable[[], Any]) -> None:
    """Time each way in turn, `rounds` times; print MB/s of each and the ratio of the first to the others."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in names:
            taken[name].append(seconds(ways[name]))
    first = next(iter(ways))
    line = [f"{name} {size / median(some):.2f} MB/s" for name, some in taken.items()]
    for name in list(ways)[1:]:
        ratios = [theirs / ours for ours, theirs in zip(taken[first], taken[name], strict=True)]
        line.append(f"×{median(ratios):.2f} of {name} ({min(ratios):.2f}–{max(ratios):.2f})")
    print(f"{what}: " + ", ".join(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    texts = corpus(asked.files, int(asked.megabytes * 1e6))
    size = sum(len(t.encode()) for t in texts) / 1e6
    held_out, learnt = texts[::10], [t for i, t in enumerate(texts) if i % 10]
    made: dict[str, Any] = {}
    paired(
        f"training, {asked.vocabulary:,} tokens from {size * 0.9:.0f} MB",
        size * 0.9,
        asked.rounds,
        ours=lambda: made.update(ours=train_bpe(learnt, asked.vocabulary)),
        tokenizers=lambda: made.update(tokenizers=train_peer(learnt, asked.vocabulary)),
    )
    ours, theirs = made["ours"], Tokenizer(made["tokenizers"])
    for name, some in (("ours", ours), ("tokenizers", theirs)):
        tokens = sum(map(len, some.encode_batch(held_out)))
        print(f"  {name}: {sum(len(t.encode()) for t in held_out) / tokens:.4f} bytes per token held out")
    print(f"  the same vocabulary: {ours.fingerprint() == theirs.fingerprint()}")

    quick, peer = fast_path(ours._fast), ours._fast
    assert quick is not None
    ranks = quick._encoding._mergeable_ranks
    plain = tiktoken.Encoding("peer", pat_str=OWN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    some = texts[:: max(1, round(size / 6))]
    size = sum(len(t.encode()) for t in some) / 1e6
    assert [quick.encode(t) for t in some] == [peer.encode(t, add_special_tokens=False).ids for t in some]
    ours.encode_batch(texts)  # from now on it takes the fast path
    paired(
        f"encoding {size:.1f} MB, one thread",
        size,
        asked.rounds,
        ours=lambda: [ours.encode(t) for t in some],
        tokenizers=lambda: [peer.encode(t, add_special_tokens=False).ids for t in some],
        tiktoken=lambda: [plain.encode_ordinary(t) for t in some],
    )
    paired(
        f"encoding {size:.1f} MB, {os.cpu_count()} cores",
        size,
        asked.rounds,
        ours=lambda: ours.encode_batch(some),
        tokenizers=lambda: [e.ids for e in peer.encode_batch_fast(some, add_special_tokens=False)],
        tiktoken=lambda: plain.encode_ordinary_batch(some, num_threads=os.cpu_count() or 1),
    )


if __name__ == "__main__":
    main()
