"""`sishu corpus explain` and `sishu corpus stats` on a corpus that `sishu corpus` has made."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

CHINESE = (
    "守塔人每天傍晚登上楼梯，修剪灯芯，看渔船一只接一只地绕过沙洲归来。冬天的风暴摇撼着高塔，"
    "他不得不用手扶住灯。这一切他都记在账簿里，死后多年才有人读到。账簿如今收在镇上的小博物馆，"
    "每逢夏天，孩子们便排着队来看那些褪色的字迹。有事请写信到 jo@corp.org 。"
)
NOUNS = ["river", "bridge", "tower", "market", "garden", "harbour", "window", "kitchen", "teacher"]
HOSTILE = "\x1b[2J\x1b]0;owned\x07 [/bold] \\[/b] :warning: {{7*7}} \u202e"


def story(seed: int) -> str:
    rng = random.Random(seed)
    return "\n".join(
        f"The {rng.choice(NOUNS)} by the {rng.choice(NOUNS)} has seen {rng.randrange(1000, 9999)} of them, "
        f"and no {rng.choice(NOUNS)} was ever lost in the {rng.choice(NOUNS)} of another."
        for _ in range(8)
    )


def rows(folder: Path) -> None:
    lines = [{"url": f"https://b.org/{i}", "text": story(i)} for i in range(12)]
    lines += [
        {"url": "https://zh.org/灯塔", "text": CHINESE},
        {"url": "https://b.org/copy", "text": story(3)},
        {"url": "https://b.org/short", "text": "Short."},
        {"url": "https://evil.org/\\[/b]\x1b[2J", "text": f"{HOSTILE} jo@corp.org\n{story(99)}"},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def test_a_corpus_is_explained_and_counted(sishu: Any) -> None:
    rows(sishu.folder)
    assert "no run with a finished corpus" in sishu.refused("corpus", "stats")
    settings = ["corpus.min_characters=100", "corpus.near_duplicates=true", "vocabulary=300"]
    sishu.good("tokenizer", "data=rows.jsonl", "-q", *settings)
    before = {path: path.read_bytes() for path in (sishu.folder / "runs").rglob("*") if path.is_file()}

    kept = sishu.good("corpus", "explain", "https://zh.org/灯塔").stdout
    assert "https://zh.org/灯塔" in kept and "language zh-Hans" in kept
    assert "- …" in kept and "+ …" in kept and "<email>" in kept and "Kept, " in kept
    copies = sishu.good("corpus", "explain", "https://b.org/copy", "--run", "runs/rows").stdout
    copies += sishu.good("corpus", "explain", "https://b.org/3").stdout
    assert copies.count("It repeats https://b.org/") == 1 and copies.count("Kept, for") == 1
    short = sishu.good("corpus", "explain", "https://b.org/short").stdout
    assert "refused: too short" in short and "Refused by “quality”: too short." in short
    evil = sishu.good("corpus", "explain", "https://evil.org/\\[/b]\x1b[2J").stdout
    assert "\x1b" not in evil and "\u202e" not in evil and "⟨U+001B⟩[2J" in evil and ":warning:" in evil
    plain = sishu.good("corpus", "explain", "https://evil.org/\\[/b]\x1b[2J", "--text", "scrub").stdout
    assert plain == f"{HOSTILE} <email>\n{story(99)}\n"

    assert "16 hex digits" in sishu.refused("corpus", "explain", "https://nowhere.test/")
    assert "did you mean https://b.org/copy?" in sishu.refused("corpus", "explain", "b.org/copy/")
    assert "there is text after" in sishu.refused("corpus", "explain", "https://b.org/3", "--text", "srub")

    told = sishu.good("corpus", "stats", "--json", "stats.json").stdout
    for words in ("zh-Hans", "evil.org", "tokens", "quality: too short", "1.0"):
        assert words in told
    stats = json.loads((sishu.folder / "stats.json").read_text(encoding="utf-8"))
    # of fourteen documents one is cut in two, the second half to validate on
    assert stats["all"]["documents"] == 15 and stats["domains_in_all"] == 3
    assert stats["tokens"]["documents"] == 15 and not stats["tokens"]["sampled"]
    cut = stats["tokens"]["languages"]
    assert cut["zh-Hans"]["bytes_per_token"] >= 1 and cut["en"]["characters_per_token"] > 1
    assert stats["refused"] == {"exact duplicates: said before": 1, "quality: too short": 1}
    assert "must stay as it is" in sishu.refused("corpus", "stats", "--json", "runs/rows/corpus/stats.json")
    assert "no tokenizer.json" in sishu.refused("corpus", "stats", "--tokenizer", "runs")
    after = {path: path.read_bytes() for path in (sishu.folder / "runs").rglob("*") if path.is_file()}
    assert after == before

    (sishu.folder / "rows.jsonl").write_text('{"text": "Another."}\n')
    assert "has changed since" in sishu.refused("corpus", "explain", "https://b.org/3")
    (sishu.folder / "rows.jsonl").unlink()
    assert "The input rows.jsonl is gone" in sishu.refused("corpus", "explain", "https://b.org/3")


def test_what_a_step_earns_and_a_model_of_quality(sishu: Any) -> None:
    rows(sishu.folder)
    (sishu.folder / "shops").mkdir()
    for number in range(25):
        spam = f"<html><body><p>Buy {number} cheap watches online now, cheap and now!</p></body></html>" * 3
        (sishu.folder / "shops" / f"{number}.html").write_text(spam)
    stories = [{"url": f"https://c.org/{i}", "text": story(500 + i)} for i in range(30)]
    (sishu.folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stories))
    told = sishu.good(
        "corpus", "train-quality", "--good", "good.jsonl", "--bad", "shops", "--out", "model"
    ).stdout
    assert "Left out: nothing" in told and "100.0%" in told and "1.000" in told
    refused = sishu.refused("corpus", "train-quality", "--good", "good.jsonl", "--out", "other")
    assert "needs 20 different good texts and as many bad ones" in refused
    settings = ["quality_model=model", "held_out=0.4", "sft.held_out=0.4", "--run", "run"]
    sishu.good("corpus", "data=rows.jsonl", *settings)
    words = ["ablate", "quality-model", "pretrain.model={depth: 1, width: 32, context_length: 64}"]
    words += ["pretrain.train={steps: 4, evaluate_every: 4}", "--seeds", "2", "--run", "run", "-q"]
    told = sishu.good("corpus", *words).stdout
    assert "as it is" in told and "quality-model" in told and "seed 2" in told
    report = json.loads((sishu.folder / "run/ablations").glob("*/ablation.json").__next__().read_text())
    assert report["change"] == {"quality_model": None} and len(report["results"]["with"]) == 2
    assert "no step 'qualty'" in sishu.refused("corpus", "ablate", "qualty", "--run", "run")
