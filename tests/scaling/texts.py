"""A text that a larger model and more of it predict better: each word may be followed by four others."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = [f"{a}{b}{c}" for a in "bdfgkmpt" for b in "aeiou" for c in "lmnrst"][:150]
LADDER = ["widths=[8,12,16,24]", "tokens=[6000,12000,24000]"]
"""A ladder that takes seconds."""
TINY = ["pretrain.model={depth: 1, context_length: 32}", "pretrain.train={batch: 16, micro_batch: 16}"]
"""What its models have in common."""


def write_rows(path: Path) -> Path:
    """A hundred and sixty documents of 250 words."""
    rng = random.Random(0)
    after = {word: rng.sample(WORDS, 4) for word in WORDS}
    rows = []
    for number in range(160):
        word, story = rng.choice(WORDS), []
        for _ in range(250):
            story.append(word)
            word = rng.choices(after[word], (8, 4, 2, 1))[0]
        rows.append({"url": f"https://s.org/{number}", "text": " ".join(story)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
