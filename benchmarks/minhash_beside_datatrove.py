"""Are near duplicates found, and how fast are signatures made? Ours beside datatrove's MinHash at 14 × 8.

Documents are copied with a share of their words, or of their characters in Chinese, exchanged for others; the
true Jaccard similarity of a pair is that of its shingles. Needs `pip install datatrove spacy`.

    python benchmarks/minhash_beside_datatrove.py PAGES.warc.gz
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig

from sishu.corpus.duplicates import dedup
from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.extract.markup import TangledMarkup
from sishu.corpus.judge.language import identify
from sishu.corpus.read import charset
from sishu.corpus.read.warc import read_pages

RATES = (0.005, 0.01, 0.02, 0.03, 0.04)


def edited(text: str, rate: float, rng: random.Random) -> str:
    """The text with this share of its words, or Chinese characters, exchanged for others of its own."""
    parts = re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[\W_]", text)
    places = [i for i, part in enumerate(parts) if part[0].isalnum()]
    for at in rng.sample(places, round(rate * len(places))):
        parts[at] = parts[rng.choice(places)]
    return "".join(parts)


def jaccard(one: str, other: str) -> float:
    a, b = (set(dedup._shingle_hashes(text, {}, dedup.FINEWEB.shingle).tolist()) for text in (one, other))
    return len(a & b) / len(a | b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path)
    texts: dict[str, list[str]] = {"en": [], "zh": []}
    for page in read_pages(parser.parse_args().pages):
        try:
            text = html_to_text(charset.decode(page.body, page.content_type)[0], "fast")
        except TangledMarkup:
            continue
        language = identify(text)[0].partition("-")[0]
        if language in texts and len(text) > 600 and text not in texts[language]:
            texts[language].append(text)
    rng = random.Random(0)
    for language, some in texts.items():
        kept = [i for i, first in enumerate(dedup.near_duplicates(some)) if first == i]
        originals = [some[i] for i in kept][:400]
        pairs = [(text, edited(text, rng.choice(RATES), rng)) for text in originals]
        near = [jaccard(*pair) for pair in pairs]
        first = dedup.near_duplicates([text for pair in pairs for text in pair])
        found = [first[2 * i] == first[2 * i + 1] for i in range(len(pairs))]
        alike = [hit for hit, value in zip(found, near, strict=True) if value >= 0.8]
        wrong = sum(first[2 * i] // 2 != i for i in range(len(pairs)))
        print(
            f"{language}: {len(pairs)} pairs, {len(alike)} of Jaccard ≥ 0.8: recall {np.mean(alike):.1%}; "
            f"of the others {np.mean([h for h, v in zip(found, near, strict=True) if v < 0.8]):.1%} found; "
            f"{wrong} texts joined with another's"
        )
    english = texts["en"][:600]
    with tempfile.TemporaryDirectory() as folder:
        config = MinhashConfig(
            hash_config=HashConfig(hash_fc="sha1", precision=64), num_buckets=14, hashes_per_bucket=8
        )
        theirs = MinhashDedupSignature(folder, config=config)
        theirs.get_signature(theirs.get_shingles(english[0]))
        started = process_time()
        for text in english:
            theirs.get_signature(theirs.get_shingles(text))
        their_seconds = process_time() - started
    words: dict[str, int] = {}
    started = process_time()
    for text in english:
        dedup.signature(text, words)
    seconds = process_time() - started
    size = sum(map(len, english)) / 1e6
    print(f"signatures of {len(english)} English texts: datatrove {size / their_seconds:.2f} MB/s, "
          f"ours {size / seconds:.2f} MB/s, ×{their_seconds / seconds:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
