"""Text that a model writes itself, to stand for the text it learnt from when nobody has that any more.

Trained on something else beside what it said before, a network forgets less (Robins 1995, "Catastrophic
forgetting, rehearsal and pseudorehearsal"; for large language models Huang et al. 2024, arXiv:2403.01244, who
let an instructed model write and answer its own questions; here a text is drawn as it comes).
"""

from __future__ import annotations

import random
from pathlib import Path

from sishu.batches.tokens import document_start
from sishu.console import progress
from sishu.generate.batching import BatchingEngine, BatchSettings
from sishu.generate.quantise import Weights
from sishu.generate.sampling import Sampling
from sishu.nn.device import best_device, has_fast_bf16

RUNNING = 32
"""Texts written at the same time."""


def rehearse(model: Path, tokens: int, length: int, seed: int) -> list[str]:
    """At least `tokens` tokens in texts of at most `length`, drawn at temperature 1 from the model in a
    folder or GGUF file. The same texts for the same seed on the same machine.

    A text begins with a random token behind the one that starts a document: left to itself, a model that was
    taught to chat begins every text with the same instructions.
    """
    weights: Weights = "bf16" if has_fast_bf16(best_device()) else "fp32"
    engine = BatchingEngine.load(model, weights, BatchSettings(running=RUNNING))
    tokenizer, start = engine.tokenizer, document_start(engine.tokenizer)
    firsts = [i for i in range(tokenizer.vocabulary_size) if _is_text(tokenizer.bytes_of(i))]
    chance = random.Random(f"rehearsal/{seed}")
    length = min(length, engine.context_length)
    texts: list[str] = []
    with progress("rehearsal", tokens, "tokens") as bar:
        while bar.done < tokens:
            wanted = max(1, min(RUNNING, -(-(tokens - bar.done) // length)))
            prompts = {
                engine.submit(
                    [start, first], Sampling(max_tokens=max(1, length - 2), seed=chance.getrandbits(31))
                ): [first]
                for first in chance.choices(firsts, k=wanted)
            }
            bar.advance(wanted)
            while engine.busy:
                for output in engine.step():
                    prompts[output.request] += output.ids
                    bar.advance(len(output.ids))
            # a text that ends for its length may end within a character
            texts += [tokenizer.decode(ids).rstrip("\ufffd") for ids in prompts.values()]
    return texts


def _is_text(data: bytes) -> bool:
    """Whether a token is a text by itself, and not part of a character or a special token."""
    try:
        return bool(data.decode().strip())
    except UnicodeDecodeError:
        return False
