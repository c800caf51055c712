"""tokenizer: a vocabulary learnt from the corpus."""

from __future__ import annotations

from typing import Any

from sishu.config import Section
from sishu.console import say
from sishu.corpus.table import read_split
from sishu.run import StageContext
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe


class TokenizerSettings(Section):
    """The vocabulary."""

    vocabulary: int | None = None
    """Number of tokens; when not given, the power of two nearest below one token for 400 characters of
    training text, between 512 and 32,768."""


def derived_vocabulary(characters: int) -> int:
    """See `TokenizerSettings.vocabulary`."""
    return min(32_768, max(512, 1 << max(0, (characters // 400).bit_length() - 1)))


def work(s: TokenizerSettings, context: StageContext) -> dict[str, Any]:
    """Train byte-level BPE and measure its compression on held-out text."""
    train = [d.text for d in read_split(context.inputs["documents"], "train")]
    held_out = [d.text for d in read_split(context.inputs["documents"], "validation")]
    wanted = s.vocabulary or derived_vocabulary(sum(map(len, train)))
    tokenizer = train_bpe(train, wanted)
    tokenizer.save(context.folder)
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
    "Learn a byte-level BPE vocabulary from the corpus.",
    TokenizerSettings,
    (Need("documents", "corpus", "documents.parquet"),),
    work,
)
