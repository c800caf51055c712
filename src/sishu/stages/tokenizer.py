"""tokenizer: a vocabulary learnt from the corpus, or a ready one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from sishu.config import Section
from sishu.console import say
from sishu.corpus.table import read_split
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.reading import read_gguf_tokenizer
from sishu.models.open import gguf_at
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.characters import character_tokenizer
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe

MEASURED = 100_000_000
"""Characters of each side on which compression is measured."""


class TokenizerSettings(Section):
    """The vocabulary."""

    kind: Literal["bpe", "characters"] = "bpe"
    """Byte-level BPE, or one token for each character."""
    vocabulary: int | None = None
    """Number of tokens; when not given, the power of two nearest below one token for 400 characters of
    training text, between 512 and 32,768; of characters, as many as there are."""
    ready: Path | None = None
    """A tokenizer to take instead of learning one: a model's folder, a tokenizer.json, or a GGUF file."""


def derived_vocabulary(characters: int) -> int:
    """See `TokenizerSettings.vocabulary`."""
    return min(32_768, max(512, 1 << max(0, (characters // 400).bit_length() - 1)))


def ready_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder, a tokenizer.json or a GGUF file; raises UserError where there is none."""
    if path.name == "tokenizer.json":
        return Tokenizer.load(path.parent)
    file = gguf_at(path)
    return Tokenizer.load(path) if file is None else read_gguf_tokenizer(GGUF(file))


def work(s: TokenizerSettings, context: StageContext) -> dict[str, Any]:
    """Learn the vocabulary, or take the ready one, and measure its compression on text of both sides."""

    def texts(side: str) -> Iterator[str]:
        return (d.text for d in read_split(context.inputs["documents"], side))

    if s.ready is not None:
        tokenizer = ready_tokenizer(s.ready)
    elif s.kind == "characters":
        tokenizer = character_tokenizer(texts("train"), s.vocabulary)
    else:
        wanted = s.vocabulary or derived_vocabulary(sum(map(len, texts("train"))))
        tokenizer = train_bpe(texts("train"), wanted)
    tokenizer.save(context.folder)
    train, held_out = (first(texts(side), MEASURED) for side in ("train", "validation"))
    figures = {
        "vocabulary": tokenizer.vocabulary_size,
        "bytes_per_token": bytes_per_token(tokenizer, train),
        "bytes_per_token_validation": bytes_per_token(tokenizer, held_out),
        "baselines": baselines(held_out),
    }
    say(
        f"A token stands for {figures['bytes_per_token_validation']:.2f} bytes of held-out text; "
        f"a character for {figures['baselines']['characters']:.2f}, "  # type: ignore[index]
        f"a word with its space for {figures['baselines']['words']:.2f}."  # type: ignore[index]
    )
    return figures


def first(texts: Iterable[str], characters: int) -> list[str]:
    """The first of the texts, until they have so many characters."""
    found: list[str] = []
    for text in texts:
        found.append(text)
        characters -= len(text)
        if characters <= 0:
            break
    return found


def bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    """UTF-8 bytes of the texts over their tokens."""
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    return round(sum(len(t.encode()) for t in texts) / max(1, tokens), 4)


def baselines(texts: list[str]) -> dict[str, float]:
    """Bytes per unit when the units are bytes, characters, or words cut at white space."""
    size = sum(len(t.encode()) for t in texts)
    return {
        "bytes": 1.0,
        "characters": round(size / max(1, sum(map(len, texts))), 4),
        "words": round(size / max(1, sum(len(t.split()) for t in texts)), 4),
    }


STAGE = Stage(
    "tokenizer",
    "Learn a vocabulary from the corpus, or take a ready one.",
    TokenizerSettings,
    (Need("documents", "corpus", "documents.parquet"),),
    work,
    files=("ready",),
)
