"""The report card as a whole: complete, self-contained, safe, deterministic."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lxml.html
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.document import Document, document_id
from sishu.corpus.table import write_documents
from sishu.report.build import build

Run = Callable[..., Path]

SECTIONS = [
    "funnel",
    "documents",
    "tokens",
    "pretraining",
    "sft",
    "reward",
    "ppo",
    "samples",
    "time",
    "lineage",
]


def sections_of(page: str) -> list[str]:
    return [element.get("id") for element in lxml.html.document_fromstring(page).iter("section")]


def text_of(page: str, selector: str) -> str:
    found = lxml.html.document_fromstring(page).xpath(selector)
    assert found, selector
    return " ".join(" ".join(found[0].itertext()).split())


def test_every_section_in_the_order_of_the_road(make_run: Run) -> None:
    page = build(make_run())
    assert sections_of(page) == SECTIONS
    root = lxml.html.document_fromstring(page)
    for section in root.iter("section"):
        assert len(section.xpath("./p")) >= 1, section.get("id")
        assert len(section.xpath("./p")[0].text_content()) > 150


def test_asks_for_nothing_and_runs_nothing(make_run: Run) -> None:
    page = build(make_run())
    root = lxml.html.document_fromstring(page)
    for element in root.iter("*"):
        for name, value in element.attrib.items():
            if name in ("src", "srcset", "href", "data", "action", "poster") or "href" in name:
                assert value.startswith("#"), (element.tag, name, value)
            assert not name.startswith("on"), (element.tag, name)
            assert "//" not in value or name == "title", (element.tag, name, value)
    assert not root.xpath("//script | //iframe | //object | //embed | //link | //img | //base")
    for target in re.findall(r"url\(([^)]*)\)", page):
        assert target.startswith("#"), target
    assert "@import" not in page


def test_every_anchor_has_its_target_and_ids_are_unique(make_run: Run) -> None:
    page = build(make_run())
    root = lxml.html.document_fromstring(page)
    ids = root.xpath("//@id")
    assert len(ids) == len(set(ids))
    anchors = set(root.xpath("//a/@href")) | {
        f"#{ident}" for ident in " ".join(root.xpath("//@aria-labelledby")).split()
    }
    assert {anchor[1:] for anchor in anchors} <= set(ids)
    clips = re.findall(r'clip-path="url\(#([^)]*)\)"', page)
    assert clips and set(clips) <= set(ids)


def test_figures_come_from_the_run(make_run: Run) -> None:
    page = build(make_run())
    headline = text_of(page, "//header[@id='headline']")
    for words in ("2,189", "1.98", "94%", "86%", "+1.21", "of 4,210 pages read"):
        assert words in headline
    assert headline.count("after PPO") == 1
    documents = text_of(page, "//section[@id='documents']")
    assert "例子.中国" in documents and "docs30.example.org" not in documents  # the 20 largest
    assert "32 2 domains" in documents and "2 2 languages" in documents  # each with its citation
    assert "zh-Hans: 17.3 k · 7.6%" in documents and "private data: 27.4 MB" in documents
    assert "exact duplicates 5–9 3" in documents
    assert "8,192" in text_of(page, "//section[@id='tokens']")
    assert "5-gram 2.21" in text_of(page, "//section[@id='pretraining']")
    assert "98.5%" in text_of(page, "//section[@id='sft']")
    assert "documented > shuffled" in text_of(page, "//section[@id='reward']")
    ppo = text_of(page, "//section[@id='ppo']")
    assert "kl above twice its target" in ppo and "PPO without ptx 2.61" in ppo
    assert "1.27 USD at 0.50/h" in text_of(page, "//section[@id='time']")
    funnel = text_of(page, "//section[@id='funnel']")
    assert "too short 350" in funnel and "not a response 52, too large 3" in funnel
    assert "Home | Next | Previous" in funnel


def test_numbers_lead_to_the_lineage_of_their_stage(make_run: Run) -> None:
    root = lxml.html.document_fromstring(build(make_run()))
    for fact in root.xpath("//ul[@class='facts']/li"):
        assert fact.xpath(".//sup/a"), fact.text_content()
    for cite in root.xpath("//sup[@class='cite']/a"):
        stage = cite.get("title").removeprefix("source: ")
        heading = root.get_element_by_id(cite.get("href")[1:]).find("h3").text_content()
        assert heading.split() == [cite.text, stage]


def test_lineage_names_what_made_each_stage(make_run: Run) -> None:
    run = make_run()
    manifest = json.loads((run / "ppo" / "manifest.json").read_text())
    lineage = text_of(build(run), "//article[@id='stage-7']")
    digests = [manifest["key"], manifest["config_digest"], manifest["code_digest"]]
    digests += [given["digest"] for given in manifest["inputs"].values()]
    digests += [made["sha256"] for made in manifest["outputs"].values()]
    for words in (
        *digests,
        manifest["command"],
        "20260501",
        "torch 2.13.0",
        "Example 9000",
    ):
        assert words in lineage
    assert ", from reward" in lineage


def test_hostile_text_is_shown_and_does_nothing(
    make_run: Run, hostile: str, evaluation: dict[str, Any]
) -> None:
    sample = evaluation["samples"][0]
    sample.update(question=hostile, name=hostile, reference=hostile)
    sample["answers"] = dict.fromkeys(sample["answers"], hostile)
    evaluation["reward"]["by_pair"] = {hostile: 0.7}
    run = make_run(evaluation=evaluation)
    for place in ("corpus/funnel.json", "tokenizer/manifest.json", "ppo/manifest.json"):
        path = run / place
        poisoned = path.read_text().replace("near duplicates", "@@").replace("Example 9000", "@@")
        path.write_text(poisoned.replace("@@", json.dumps(hostile)[1:-1]))
    page = build(run)
    root = lxml.html.document_fromstring(page)
    assert not root.xpath("//script | //img")
    shown = hostile.replace("\u200b", "⟨U+200B⟩")
    assert "<script>alert" not in page and "\u200b" not in page
    assert "{{7*7}}" in page and "你好 👩‍🔬" in page
    answers = root.xpath("//section[@id='samples']/article[1]//dd")
    assert len(answers) == 4
    assert all(shown in answer.text_content() for answer in answers)
    assert shown in root.get_element_by_id("stage-7").text_content()
    assert shown[:55] in root.get_element_by_id("funnel").text_content()  # long names are cut


def test_missing_stages_leave_their_sections_out(make_run: Run) -> None:
    page = build(make_run(stages=("corpus", "tokenizer", "pretrain")))
    assert sections_of(page) == ["funnel", "documents", "tokens", "pretraining", "time", "lineage"]
    root = lxml.html.document_fromstring(page)
    assert len(root.xpath("//header//ul[@class='facts']/li")) == 5
    assert not root.xpath("//*[@class='showpiece']")
    assert "PPO" not in root.text_content()


@pytest.mark.parametrize("part", ["bits_per_byte", "answers", "reward", "rewards", "kl", "samples"])
def test_any_part_of_the_evaluation_may_be_missing(
    make_run: Run, evaluation: dict[str, Any], part: str
) -> None:
    del evaluation[part]
    expected = [name for name in SECTIONS if name != part]
    if part == "reward":
        expected = SECTIONS
    assert sections_of(build(make_run(evaluation=evaluation, steps=20))) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_values_of_the_wrong_kind_never_break_it(make_run: Run, data: st.DataObject) -> None:
    run = make_run(steps=5)
    names = (
        "eval/eval.json",
        "corpus/funnel.json",
        "ppo/manifest.json",
        "tokenizer/manifest.json",
    )
    originals = {name: (run / name).read_text() for name in names}
    for name, original in originals.items():
        whole = json.loads(original)
        parts = whole["steps"][0] if name.endswith("funnel.json") else whole
        for key in data.draw(st.lists(st.sampled_from(sorted(parts)), max_size=3)):
            parts[key] = data.draw(JSON)
        (run / name).write_text(json.dumps(whole))
    page = build(run)
    page.encode("utf-8")
    lxml.html.document_fromstring(page)


def test_small_with_long_metrics_and_the_same_bytes_again(make_run: Run) -> None:
    run = make_run(steps=20_000)
    page = build(run)
    assert len(page.encode("utf-8")) < 2_000_000
    longest = max(len(points.split()) for points in re.findall(r'points="([^"]*)"', page))
    assert longest == 400
    assert build(run) == page


def test_only_the_run_folder_decides(make_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(steps=20)
    page = build(run)
    (run / "report").mkdir()
    (run / "report" / "manifest.json").write_text('{"stage": "report"}')
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    os.utime(run / "eval" / "eval.json", (1, 1))
    monkeypatch.chdir(run.parent)
    assert build(Path(run.name)) == page


def test_a_hostile_domain_is_shown_and_does_nothing(make_run: Run) -> None:
    run = make_run(steps=20)
    url = "https://<img\u202esrc=x\x1b[31m>{{7*7}}/"
    odd = Document(document_id(url), url, "", "text " * 90_000, language="</text>")
    write_documents(run / "corpus" / "documents.parquet", {"train": [odd]})
    page = build(run)
    root = lxml.html.document_fromstring(page)
    assert not root.xpath("//img | //script") and "\u202e" not in page and "\x1b" not in page
    assert "<img⟨U+202E⟩src=x⟨U+001B⟩[31m>{{7*7}}" in root.get_element_by_id("documents").text_content()


def test_a_corpus_without_tables_has_no_section_but_its_bytes(make_run: Run) -> None:
    run = make_run(steps=20)
    (run / "corpus" / "documents.parquet").unlink()
    section = lxml.html.document_fromstring(build(run)).get_element_by_id("documents")
    assert [title.text for title in section.iter("title")] == ["Bytes left by each step"] * 2
    assert not section.xpath(".//table | .//ul")


def test_a_funnel_may_be_a_plain_list_of_steps(make_run: Run) -> None:
    run = make_run(steps=20)
    path = run / "corpus" / "funnel.json"
    path.write_text(json.dumps(json.loads(path.read_text())["steps"]))
    assert "too short 350" in text_of(build(run), "//section[@id='funnel']")


def test_a_running_stage_is_shown_as_unfinished(make_run: Run) -> None:
    run = make_run(steps=20)
    (run / "ppo" / "manifest.json").unlink()
    page = build(run)
    assert "not finished" in text_of(page, "//article[@id='stage-7']")
    assert "ppo" in sections_of(page)


def test_no_run_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        build(tmp_path / "absent")
    with pytest.raises(UserError, match="no finished stage"):
        build(tmp_path)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "eval.json").write_text('{"kl": ')
    with pytest.raises(UserError, match=r"eval\.json"):
        build(tmp_path)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "funnel.json").write_text("{}")
    (tmp_path / "corpus" / "documents.parquet").write_bytes(b"PAR1")
    (tmp_path / "eval" / "eval.json").unlink()
    with pytest.raises(UserError, match=r"documents\.parquet is not a table"):
        build(tmp_path)
