"""The model of what is a page's own text: its trees, its choice, and its figures on pages it has not seen."""

import csv
import itertools
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sishu.corpus.extract import main_text
from sishu.corpus.extract.block_features import FEATURES
from sishu.corpus.extract.html_to_text import Tier, html_to_text
from sishu.corpus.extract.main_text import BETA, MODEL, Trees, main_blocks, most_likely
from sishu.corpus.read import charset
from tests.shared_data import shared_data


def test_trees_come_to_the_leaf_their_thresholds_say() -> None:
    trees = Trees(
        feature=np.array([[0, 1, 1], [2, 0, 0]], np.int32),
        threshold=np.array([[0.5, 1.0, 2.0], [0.0, np.inf, -1.0]], np.float32),
        leaf=np.array([[1, 2, 3, 4], [10, 20, 30, 40]], np.float32),
    )
    rows = np.array([[0.5, 1.0, 0.0], [0.5, 1.5, 0.0], [0.6, 2.0, 1.0], [9.0, 3.0, 1.0]], np.float32)
    assert trees(rows).tolist() == [11, 12, 43, 44]
    assert trees(rows[:0]).shape == (0,)


def test_trees_of_many_rows_come_to_what_one_finds_one_by_one() -> None:
    draw = np.random.default_rng(1)
    depth, width = 3, 6
    trees = Trees(
        draw.integers(0, width, (5, 2**depth - 1)).astype(np.int32),
        draw.integers(0, 4, (5, 2**depth - 1)).astype(np.float32),
        draw.integers(0, 99, (5, 2**depth)).astype(np.float32),
    )
    rows = draw.integers(0, 5, (300, width)).astype(np.float32)

    def one(row: np.ndarray) -> float:
        total = 0.0
        for feature, threshold, leaf in zip(trees.feature, trees.threshold, trees.leaf, strict=True):
            node = 0
            while node < len(feature):
                node = 2 * node + (1 if row[feature[node]] <= threshold[node] else 2)
            total += float(leaf[node - len(feature)])
        return total

    assert trees(rows).tolist() == trees(np.asfortranarray(rows)).tolist() == [one(row) for row in rows]


def test_the_choice_has_the_greatest_expected_f_measure() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        share, size = draw.random(7), draw.integers(1, 50, 7).astype(float)

        def expected(taken: np.ndarray, share: np.ndarray = share, size: np.ndarray = size) -> float:
            return float((share * size)[taken].sum() / (size[taken].sum() + BETA**2 * (share * size).sum()))

        best = max(expected(np.array(taken)) for taken in itertools.product((False, True), repeat=7))
        assert expected(most_likely(share, size)) == pytest.approx(best)
    assert most_likely(np.array([0.01, 0.02]), np.array([5.0, 5.0])).tolist() == [False, True]


def test_a_page_of_too_many_blocks_is_read_by_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "<main>" + "".join(f"<p>This is the paragraph number {n}.</p>" for n in range(30)) + "</main>"
    assert len(main_blocks(page) or []) >= 28
    monkeypatch.setattr(main_text, "MOST_BLOCKS", 29)
    assert main_blocks(page) is None
    assert html_to_text(page) == html_to_text(page, "fast") != ""


def test_a_model_of_other_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_text, "FEATURES", FEATURES[1:])
    main_text._model.cache_clear()
    with pytest.raises(ValueError, match="trained on other features"):
        main_blocks("<p>text</p>")


def test_the_model_is_small_and_what_it_was_trained_on_is_said() -> None:
    assert MODEL.stat().st_size < 1_000_000
    rows = list(csv.DictReader(MODEL.with_name("main_text_pages.csv").open(encoding="utf-8")))
    used = {use: {row["domain"] for row in rows if row["use"] == use} for use in ("training", "evaluation")}
    assert len(rows) > 1400 and not used["training"] & used["evaluation"]
    assert "CC BY 4.0" in MODEL.with_suffix(".md").read_text(encoding="utf-8")


def test_chinese_page() -> None:
    days = [
        f"老路沿着河一直走到海边，第{n}天我们在村子里住下，听人讲从前的事。夜里下了雨，河水涨得很快，"
        "村里人说，每年这个时候都是这样，谁也不觉得奇怪。"
        for n in range(9)
    ]
    story = "".join(f"<p>{day}</p>" for day in days)
    page = (
        "<html><head><title>老路</title></head><body><div class='nav'><a href='/'>首页</a>"
        f"<a href='/y'>体育</a></div><div class='content'><h1>老路</h1>{story}</div><div class='footer'>"
        "<a href='/about'>关于我们</a> <a href='/z'>联系方式</a> 版权所有</div></body></html>"
    )
    text = html_to_text(page)
    assert text.count("老路沿着河") == 9 and "关于我们" not in text and "首页" not in text


def wcxb(pages: set[str]) -> dict[str, tuple[str, str]]:
    """The HTML and the wanted text of some pages of the benchmark."""
    path = shared_data("wcxb/wcxb-dev.tar.xz")
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path, "r:xz") as archive:
        for member in archive:
            stem = Path(member.name).stem
            if stem in pages and member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(stem, {})[Path(member.name).suffix] = file.read()
    return {
        name: (
            charset.decode(one[".html"])[0],
            json.loads(one[".json"])["ground_truth"]["main_content"],
        )
        for name, one in found.items()
    }


def test_pages_of_domains_never_trained_on() -> None:
    rows = csv.DictReader(MODEL.with_name("main_text_pages.csv").open(encoding="utf-8"))
    chosen = {row["page"] for row in rows if row["use"] == "evaluation"}
    pages = wcxb(chosen)
    assert len(pages) == len(chosen) > 300

    def f1(tier: Tier) -> float:
        total = 0.0
        for html, wanted in pages.values():
            said, gold = (
                Counter(re.findall(r"\w+", text.lower())) for text in (html_to_text(html, tier), wanted)
            )
            total += 2 * sum((said & gold).values()) / max(1, said.total() + gold.total())
        return total / len(pages)

    trafilatura = 0.803  # release 2.3.1, see benchmarks/extraction_beside_trafilatura.py
    assert f1("quality") > max(trafilatura, f1("fast") + 0.02)
