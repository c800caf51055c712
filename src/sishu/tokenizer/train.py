"""Learning a byte-level BPE vocabulary (Sennrich et al. 2016, arXiv:1508.07909) from text."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from sishu.console import UserError
from sishu.tokenizer.chat import SPECIAL_TOKENS
from sishu.tokenizer.tokenizer import Tokenizer, byte_level

SMALLEST = 256 + len(SPECIAL_TOKENS)


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Merge the most frequent pairs until there are `vocabulary` tokens, or no pair occurs twice.

    Raises UserError when `vocabulary` cannot hold the 256 bytes and the special tokens.
    """
    if vocabulary < SMALLEST:
        raise UserError(f"tokenizer.vocabulary is {vocabulary}; it must be at least {SMALLEST}.")
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = byte_level()
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return Tokenizer(fast)
