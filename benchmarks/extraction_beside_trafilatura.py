"""How much of a page's own text do we find, beside trafilatura, and in what time? Both tiers, in one run.

On WCXB (development split) the figure is the mean F1 of words, on pages of domains that the model was never
trained on (`main_text_pages.csv`). On Zyte's article-extraction-benchmark it is their F1: of shingles of four
words, from mean precision and mean recall. datatrove's way is trafilatura with `favor_precision`, no comments
and its deduplication. Every page is decoded once, before the clock.

    pip install trafilatura
    python benchmarks/extraction_beside_trafilatura.py WCXB/dev ARTICLE-EXTRACTION-BENCHMARK
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from time import process_time

import trafilatura

from sishu.corpus.extract.html_to_text import Tier, html_to_text
from sishu.corpus.extract.main_text import MODEL
from sishu.corpus.extract.markup import TangledMarkup
from sishu.corpus.read import charset

WORD = re.compile(r"\w+")
Page = tuple[str, str, str]
"""Kind, HTML, wanted text."""


def ours(html: str, tier: Tier) -> str:
    try:
        return html_to_text(html, tier)
    except TangledMarkup:
        return ""


def theirs(html: str, **options: bool) -> str:
    return trafilatura.extract(html, **options) or ""


WAYS: dict[str, Callable[[str], str]] = {
    "ours, quality": partial(ours, tier="quality"),
    "ours, fast": partial(ours, tier="fast"),
    "trafilatura": theirs,
    "trafilatura, fast": partial(theirs, fast=True),
    "trafilatura as in datatrove": partial(
        theirs, favor_precision=True, include_comments=False, deduplicate=True
    ),
}


def wcxb(folder: Path) -> Iterator[Page]:
    rows = csv.DictReader(MODEL.with_name("main_text_pages.csv").open(encoding="utf-8"))
    for row in rows:
        if row["use"] == "evaluation":
            truth = json.loads((folder / "ground-truth" / f"{row['page']}.json").read_text(encoding="utf-8"))
            html = charset.decode((folder / "html" / f"{row['page']}.html").read_bytes())[0]
            yield row["kind"], html, truth["ground_truth"]["main_content"]


def articles(folder: Path) -> Iterator[Page]:
    truth = json.loads(gzip.decompress((folder / "ground-truth.json.gz").read_bytes()))
    for name, item in truth.items():
        body = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
        yield "article", charset.decode(body)[0], item["articleBody"]


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def f1_of_words(said: str, wanted: str) -> float:
    a, b = Counter(words(said)), Counter(words(wanted))
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def shingles(text: str) -> Counter[tuple[str, ...]]:
    tokens = WORD.findall(text)
    return Counter(tuple(tokens[i : i + 4]) for i in range(max(1, len(tokens) - 3)))


def f1_of_shingles(pairs: list[tuple[str, str]]) -> float:
    precision, recall = [], []
    for said, wanted in pairs:
        a, b = shingles(said), shingles(wanted)
        both = (a & b).total()
        precision.append(both / a.total() if both else 0.0)
        recall.append(both / b.total() if both else 0.0)
    p, r = mean(precision), mean(recall)
    return 2 * p * r / (p + r)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wcxb", type=Path)
    parser.add_argument("articles", type=Path)
    args = parser.parse_args()
    pages, news = list(wcxb(args.wcxb)), list(articles(args.articles))
    kinds = sorted({kind for kind, _, _ in pages})
    print(f"{len(pages)} pages of WCXB, {len(news)} articles")
    for name, way in WAYS.items():
        started = process_time()
        found = [way(html) for _, html, _ in pages]
        seconds = process_time() - started
        scores = [f1_of_words(said, wanted) for said, (_, _, wanted) in zip(found, pages, strict=True)]
        by_kind = {
            kind: round(mean(s for s, page in zip(scores, pages, strict=True) if page[0] == kind), 3)
            for kind in kinds
        }
        article = f1_of_shingles([(way(html), wanted) for _, html, wanted in news])
        print(
            f"{name}: WCXB {mean(scores):.4f}, articles {article:.4f}, "
            f"{1000 * seconds / len(pages):.1f} ms a page",
            by_kind,
            flush=True,
        )


if __name__ == "__main__":
    main()
