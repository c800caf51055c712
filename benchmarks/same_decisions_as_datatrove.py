"""Do our quality rules decide as datatrove's do, and how fast? Gopher's, C4's and FineWeb's, in one run.

Every text is judged three times: by datatrove with the tokens of its own word tokenizer (spaCy), by datatrove
with ours, and by us. Needs `pip install datatrove spacy`.

    python benchmarks/same_decisions_as_datatrove.py PAGES.warc.gz [more …]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.extract.markup import TangledMarkup
from sishu.corpus.judge import heuristics
from sishu.corpus.judge.language import identify
from sishu.corpus.read import charset
from sishu.corpus.read.warc import read_pages

MODULES = (gopher_repetition_filter, gopher_quality_filter, fineweb_quality_filter)
THEIR_WORDS = gopher_quality_filter.split_into_words


def english(paths: list[Path]) -> Iterator[str]:
    """The texts of all English pages, each once."""
    seen: set[str] = set()
    for path in paths:
        for page in read_pages(path):
            try:
                text = html_to_text(charset.decode(page.body, page.content_type)[0], "fast")
            except TangledMarkup:
                continue
            if text.strip() and text not in seen and identify(text)[0] == "en":
                seen.add(text)
                yield text


def theirs(words: Callable[..., list[str]]) -> Callable[[str], str | None]:
    """datatrove's filters in FineWeb's order, reading these words."""
    filters = (
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    )

    def judge(text: str) -> str | None:
        for module in MODULES:
            module.split_into_words = words
        document = Document(text=text, id="")
        for one in filters:
            verdict = one.filter(document)
            if verdict is not True:
                return str(verdict[1])
        return None

    return judge


def ours(text: str) -> str | None:
    return heuristics.select(text, "en").reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path, nargs="+")
    texts = list(english(parser.parse_args().pages))
    size = sum(map(len, texts)) / 1e6
    judges = {
        "datatrove, its own words": theirs(THEIR_WORDS),
        "datatrove, our words": theirs(lambda text, language: heuristics.words(text)),
        "ours": ours,
    }
    verdicts, seconds = {}, {}
    for name, judge in judges.items():
        judge(texts[0])
        started = process_time()
        verdicts[name] = [judge(text) for text in texts]
        seconds[name] = process_time() - started
    print(f"{len(texts):,} English texts, {size:.1f} million characters")
    mine = verdicts["ours"]
    for name, given in verdicts.items():
        same = sum((a is None) == (b is None) for a, b in zip(mine, given, strict=True)) / len(texts)
        kept = sum(verdict is None for verdict in given) / len(texts)
        ratio = seconds[name] / seconds["ours"]
        print(
            f"{name:>26}: kept {kept:.1%}, as ours {same:.2%}, {size / seconds[name]:.2f} MB/s, ×{ratio:.1f}"
        )
    differing = Counter(
        (name, str(mine[i]), str(given[i]))
        for name, given in verdicts.items()
        for i in range(len(texts))
        if (mine[i] is None) != (given[i] is None)
    )
    for (name, a, b), count in differing.most_common(20):
        print(f"{count:6} ours: {a}; {name}: {b}")


if __name__ == "__main__":
    sys.exit(main())
