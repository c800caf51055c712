"""Train the model that tells a page's own text from what surrounds it, and say how well it does.

The pages are the development split of the Web Content Extraction Benchmark (WCXB, CC BY 4.0): HTML with the
text that people marked as the main content. What is to be foretold of a block is the share of its words that
are in that text, in the same order four at a time. Pages of a fifth of the domains are never trained on: the
figures are of those.

    pip install lightgbm
    python benchmarks/train_main_text.py WCXB/dev --out src/sishu/corpus/extract
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from urllib.parse import urlsplit

import lightgbm
import numpy as np
from safetensors.numpy import save_file

from sishu.console import progress
from sishu.corpus.extract.block_features import FEATURES, features_of
from sishu.corpus.extract.blocks import cut
from sishu.corpus.extract.main_text import Trees, most_likely
from sishu.corpus.extract.markup import TangledMarkup, tame_markup
from sishu.corpus.read import charset

FOLDS = 5
HELD_OUT = 0
DEPTH = 7
SETTINGS = {
    "objective": "cross_entropy",
    "learning_rate": 0.1,
    "num_leaves": 48,
    "max_depth": DEPTH,
    "min_data_in_leaf": 50,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.5,
    "lambda_l2": 5.0,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
WORD = re.compile(r"\w+")


@dataclass
class Example:
    """A page: its blocks with what is to be foretold of them."""

    name: str
    domain: str
    kind: str
    digest: str
    texts: list[str]
    features: np.ndarray
    share: np.ndarray
    wanted: Counter[str]

    @property
    def fold(self) -> int:
        return zlib.crc32(self.domain.encode()) % FOLDS


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def shares(texts: list[str], wanted: str) -> np.ndarray:
    """Of each block, the share of its words that lie in four that follow each other in the wanted text too; a
    shorter block counts whole if it is a line there, half if it is anywhere."""
    tokens = words(wanted)
    runs = {n: set(zip(*(tokens[i:] for i in range(n)), strict=False)) for n in (1, 2, 3, 4)}
    lines = {tuple(words(line)) for line in wanted.split("\n")}
    found = []
    for text in texts:
        said = tuple(words(text))
        if len(said) < 4:
            found.append(1.0 if said and said in lines else 0.5 if said and said in runs[len(said)] else 0.0)
            continue
        covered = np.zeros(len(said), bool)
        for at in range(len(said) - 3):
            if said[at : at + 4] in runs[4]:
                covered[at : at + 4] = True
        found.append(float(covered.mean()))
    return np.array(found, np.float32)


def read(folder: Path) -> list[Example]:
    """All pages that have a main text and markup that can be followed."""
    examples = []
    paths = sorted((folder / "ground-truth").glob("*.json"))
    with progress("pages", len(paths), "pages") as bar:
        for path in paths:
            bar.advance(1)
            truth = json.loads(path.read_text(encoding="utf-8"))
            wanted = truth["ground_truth"].get("main_content")
            body = (folder / "html" / f"{path.stem}.html").read_bytes()
            if not wanted:
                continue
            try:
                page = cut(tame_markup(charset.decode(body)[0]))
            except TangledMarkup:
                continue
            texts = [block.text for block in page.blocks]
            host = urlsplit(truth.get("url") or "").hostname or path.stem
            examples.append(
                Example(
                    path.stem,
                    ".".join(host.split(".")[-2:]),
                    truth["_internal"]["page_type"]["primary"] if "_internal" in truth else "unknown",
                    hashlib.sha256(body).hexdigest()[:16],
                    texts,
                    features_of(page),
                    shares(texts, wanted),
                    Counter(words(wanted)),
                )
            )
    return examples


def train(examples: list[Example], rounds: int, threads: int) -> lightgbm.Booster:
    """Blocks count as the square root of their words do, and pages nearly alike."""
    some = [one for one in examples if one.texts]
    weights = []
    for one in some:
        size = np.sqrt([len(words(text)) for text in one.texts])
        weights.append(size / np.sqrt(size.sum() + 50))
    data = lightgbm.Dataset(
        np.concatenate([one.features for one in some]),
        np.concatenate([one.share for one in some]),
        weight=np.concatenate(weights),
    )
    return lightgbm.train(SETTINGS | {"num_threads": threads}, data, rounds)


def as_trees(booster: lightgbm.Booster) -> Trees:
    """Complete trees that come to the same leaves."""
    dumped = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    inner = 2**DEPTH - 1
    feature = np.zeros((len(dumped), inner), np.int32)
    threshold = np.full((len(dumped), inner), np.inf)
    leaf = np.zeros((len(dumped), inner + 1), np.float32)

    def place(tree: int, node: int, at: dict) -> None:
        if node >= inner:
            leaf[tree, node - inner] = at["leaf_value"]
        elif "leaf_value" in at:  # all below come to it
            place(tree, 2 * node + 1, at)
            place(tree, 2 * node + 2, at)
        else:
            feature[tree, node], threshold[tree, node] = at["split_feature"], at["threshold"]
            place(tree, 2 * node + 1, at["left_child"])
            place(tree, 2 * node + 2, at["right_child"])

    for number, root in enumerate(dumped):
        place(number, 0, root)
    # the greatest float32 that is at most the threshold divides float32 values as the threshold does
    near = threshold.astype(np.float32)
    near = np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)
    return Trees(feature, near, leaf)


def f1(one: Example, trees: Trees) -> float:
    """Of the words of the chosen blocks, as a bag, against those of the wanted text."""
    if not one.texts:
        return 0.0
    share = 1 / (1 + np.exp(-trees(one.features)))
    taken = most_likely(share, np.array([len(text) for text in one.texts], np.float64))
    said = Counter(word for text, t in zip(one.texts, taken, strict=True) if t for word in words(text))
    return 2 * sum((said & one.wanted).values()) / max(1, said.total() + one.wanted.total())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--all-folds", action="store_true", help="every fifth of the domains in turn")
    args = parser.parse_args()
    examples = read(args.pages)
    for fold in range(FOLDS) if args.all_folds else [HELD_OUT]:
        booster = train([one for one in examples if one.fold != fold], args.rounds, args.threads)
        trees = as_trees(booster)
        held_out = [one for one in examples if one.fold == fold]
        check = held_out[0].features
        assert np.allclose(booster.predict(check, raw_score=True), trees(check), atol=1e-4)
        by_kind = {
            kind: round(mean(f1(one, trees) for one in held_out if one.kind == kind), 3)
            for kind in sorted({one.kind for one in held_out})
        }
        print(f"fold {fold}: F1 {mean(f1(one, trees) for one in held_out):.4f} of {len(held_out)}", by_kind)
        if args.out and fold == HELD_OUT:
            tensors = {name: getattr(trees, name) for name in ("feature", "threshold", "leaf")}
            save_file(tensors, args.out / "main_text.safetensors", {"features": json.dumps(FEATURES)})
    if args.out:
        with (args.out / "main_text_pages.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["page", "domain", "kind", "sha256", "use"])
            for one in examples:
                use = "evaluation" if one.fold == HELD_OUT else "training"
                rows.writerow([one.name, one.domain, one.kind, one.digest, use])


if __name__ == "__main__":
    main()
