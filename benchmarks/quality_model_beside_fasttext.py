"""Does the quality model tell good texts from bad ones as well as fastText does, and how fast?

Both learn from the same texts and are asked about the same others, fold by fold. fastText is tried with three
settings, and the best one counts: its defaults with pairs of words; more and longer steps; and these on text
in lower case with spaces around punctuation, as its tutorial advises. Chinese is cut by jieba for it. Of a
folder, the sets are used that are there:

    dclm-quality/data/majority_data.jsonl.gz     labels by people, of DCLM's repository (MIT)
    chnsenticorp-etc/ChnSentiCorp_htl_all/*.gz   Chinese hotel reviews, good or bad
    warc-docs/docs.warc.gz, truth.jsonl.gz       documentation with planted spam
    wikitext2-raw/*/wiki.valid.raw.gz, zh-classics/hongloumeng.txt.gz, thucnews-titles/dev.txt.gz

fasttext-predict, which the project needs, cannot train; fasttext-numpy2-wheel 0.9.2 does so from memory it
never set, and now and then ends in NaN. So:

    pip install --no-deps --target PEER fasttext-community==0.11.9
    OMP_NUM_THREADS=1 PYTHONPATH=PEER python benchmarks/quality_model_beside_fasttext.py FOLDER
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import fasttext
import numpy as np
import rjieba

from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.extract.markup import TangledMarkup
from sishu.corpus.hashing import text_digest
from sishu.corpus.judge.language import identify, is_unsegmented
from sishu.corpus.judge.quality_figures import auc
from sishu.corpus.judge.quality_training import Example, read_examples, train
from sishu.corpus.read import charset
from sishu.corpus.read.warc import read_pages

FOLDS = 5
SETTINGS = {
    "defaults": ({"wordNgrams": 2}, False),
    "longer": ({"wordNgrams": 2, "epoch": 25, "lr": 0.5}, False),
    "longer, tidied": ({"wordNgrams": 2, "epoch": 25, "lr": 0.5}, True),
}


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def planted(folder: Path) -> dict[str, list[str]]:
    """Texts of the archive: English and Chinese documentation and spam."""
    kinds = {}
    for line in text_of(folder / "truth.jsonl.gz").splitlines():
        row = json.loads(line)
        kinds[row["url"]] = row["kind"]
    found: dict[str, list[str]] = {"spam en": [], "spam zh": [], "doc en": [], "doc zh": []}
    english = ("spam_repeat", "list_spam", "lorem", "short_lines", "js_notice")
    documents = 0
    for page in read_pages(folder / "docs.warc.gz"):
        kind = kinds.get(page.url, "")
        documents += kind == "doc"
        if kind not in (*english, "zh_spam", "wrapped") and not (kind == "doc" and documents % 6 == 0):
            continue
        try:
            text = html_to_text(charset.decode(page.body, page.content_type)[0], "fast")
        except TangledMarkup:
            continue
        language = identify(text[:2000])[0].partition("-")[0]
        if kind in english or kind == "zh_spam":
            found["spam zh" if kind == "zh_spam" else "spam en"].append(text)
        elif language in ("en", "zh") and len(text) > 200:
            found[f"doc {language}"].append(text)
    return found


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text) - size, size)]


def sets(folder: Path) -> Iterator[tuple[str, list[Example]]]:
    """Name and examples of each set that is there."""
    rng = random.Random(0)
    if (path := folder / "dclm-quality/data/majority_data.jsonl.gz").exists():
        yield "DCLM's labels, en", list(read_examples(path, print))
    for path in sorted(folder.glob("chnsenticorp-etc/ChnSentiCorp_htl_all/*.csv.gz")):
        rows = list(csv.DictReader(text_of(path).splitlines(keepends=True)))
        rng.shuffle(rows)
        yield "hotels, zh", [Example(row["review"], row["label"] == "1") for row in rows[:3000]]
    if not (folder / "warc-docs/truth.jsonl.gz").exists():
        return
    found = planted(folder / "warc-docs")
    spam = [Example(text, False) for text in found["spam en"]]
    spam_zh = [Example(piece, False) for text in found["spam zh"] for piece in pieces(text, 300)]
    yield "manuals and spam, en", [Example(text, True) for text in found["doc en"][:500]] + spam
    yield (
        "manuals and spam, zh",
        [Example(t, True) for text in found["doc zh"] for t in pieces(text, 300)[:4]] + spam_zh,
    )
    for path in sorted(folder.glob("wikitext2-raw/*/wiki.valid.raw.gz")):
        wiki = [part for part in text_of(path).split("\n") if len(part) > 300]
        yield "Wikipedia and spam, en", [Example(text, True) for text in wiki[:500]] + spam
    novel = pieces(text_of(folder / "zh-classics/hongloumeng.txt.gz"), 500)
    titles = [line.split("\t")[0] for line in text_of(folder / "thucnews-titles/dev.txt.gz").splitlines()]
    news = ["\n".join(titles[at : at + 20]) for at in range(0, len(titles), 20)]
    good = [Example(text, True) for text in novel[:300] + news[:300]]
    yield "novel, news and spam, zh", good + spam_zh


def line(text: str, tidied: bool) -> str:
    """A text as fastText reads it."""
    if is_unsegmented(text):
        text = " ".join(rjieba.cut(text))
    elif tidied:
        text = re.sub(r"([^\w\s])", r" \1 ", text).lower()
    return " ".join(text.split())


def fasttext_model(examples: list[Example], setting: str) -> fasttext.FastText._FastText:
    options, tidied = SETTINGS[setting]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        for example in examples:
            file.write(f"__label__{'good' if example.good else 'bad'} {line(example.text, tidied)}\n")
        file.flush()
        return fasttext.train_supervised(file.name, thread=1, seed=0, verbose=0, **options)


def fasttext_scores(model: fasttext.FastText._FastText, lines: list[str]) -> np.ndarray:
    answers = (dict(zip(*model.predict(text, k=2), strict=True)) for text in lines)
    return np.array([answer.get("__label__good", 0.0) for answer in answers])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"{'texts':<26}{'number':>7}{'good':>6}{'ours':>8}{'fastText':>10}{'difference':>17}"
          f"{'training s':>14}{'scoring MB/s':>16}  fastText's best setting")  # fmt: skip
    for name, examples in sets(folder):
        different = {text_digest(example.text): example for example in examples}
        ordered = [different[digest] for digest in sorted(different)]
        good = np.array([example.good for example in ordered])
        fold = np.zeros(len(ordered), int)
        for side in (good, ~good):
            fold[side] = np.arange(side.sum()) % FOLDS
        ours, theirs = [], {setting: [] for setting in SETTINGS}
        seconds = {"ours": 0.0, "fastText": 0.0}
        speed = {}
        for one in range(FOLDS):
            learnt = [e for e, f in zip(ordered, fold, strict=True) if f != one]
            asked = [e.text for e, f in zip(ordered, fold, strict=True) if f == one]
            size = sum(len(text.encode()) for text in asked) / 1e6
            started = perf_counter()
            model = train(learnt)
            seconds["ours"] += perf_counter() - started
            started = perf_counter()
            scores = model.scores(asked)
            speed.setdefault("ours", []).append(size / (perf_counter() - started))
            ours.append(auc(scores, good[fold == one]))
            for setting in SETTINGS:
                started = perf_counter()
                other = fasttext_model(learnt, setting)
                seconds["fastText"] += (perf_counter() - started) / len(SETTINGS)
                started = perf_counter()
                lines = [line(text, SETTINGS[setting][1]) for text in asked]
                scores = fasttext_scores(other, lines)
                speed.setdefault(setting, []).append(size / (perf_counter() - started))
                theirs[setting].append(auc(scores, good[fold == one]))
        best = max(theirs, key=lambda setting: np.mean(theirs[setting]))
        difference = np.array(ours) - np.array(theirs[best])
        error = difference.std(ddof=1) / FOLDS**0.5
        print(f"{name:<26}{len(ordered):>7}{good.sum():>6}{np.mean(ours):>8.4f}{np.mean(theirs[best]):>10.4f}"
              f"{difference.mean():>+10.4f} ±{error:.4f}{seconds['ours'] / FOLDS:>6.1f}"
              f" ({seconds['fastText'] / FOLDS:.1f}){np.median(speed['ours']):>9.1f}"
              f" ({np.median(speed[best]):.1f})  {best}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
