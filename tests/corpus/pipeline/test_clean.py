"""The pipeline end to end: what comes out, what is counted, what never stops it."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

from sishu.console import UserError
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.pipeline.clean import clean
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.table import read_split
from tests.corpus.prose import PROSE, sentences


def pages(count: int = 60) -> list[Page]:
    return [
        Page(
            f"https://a.org/{i}.html",
            f"<html><body><p>{sentences(i).replace(chr(10), '<br>')}</p></body></html>".encode(),
            "text/html; charset=utf-8",
            "2026-01-02T03:04:05Z",
        )
        for i in range(count)
    ]


def both(out: Path) -> list[Document]:
    path = out / "documents.parquet"
    return [*read_split(path, "train"), *read_split(path, "validation")]


def test_figures_files_and_funnel_agree(tmp_path: Path) -> None:
    items: list[Page | Document] = [
        *pages(),
        Page("https://a.org/copy", pages()[3].body, "text/html"),
        Page("https://a.org/i.png", b"\x89PNG\x00", "image/png"),
        Page("https://a.org/empty", b"", "text/html"),
        Page("https://a.org/short", b"<p>Hello.</p>", "text/html"),
        Page("https://a.org/plain", sentences(900).encode(), "text/plain"),
        Page("https://a.org/bare", b"<!doctype html><p>" + sentences(901).encode(), ""),
        Document(document_id("x"), "x", "", sentences(902) + " Mail jo@corp.org."),
        Document(document_id("s"), "s", "", "cheap watches online " * 50),
    ]
    counts: list[int] = []
    figures = clean(
        iter(items),
        tmp_path,
        CleanSettings(min_language_score=0),
        damaged=["broken record: a", "broken record: b"],
        on_document=counts.append,
    )
    documents = both(tmp_path)
    assert figures["documents"] == len(documents) == 63
    assert figures["characters"] == sum(len(d.text) for d in documents)
    assert figures["train"]["documents"] + figures["validation"]["documents"] == 63
    assert figures["rejected"] == {
        "decode: not a text page": 1,
        "html to text: no text": 1,
        "quality: repeated words": 1,
        "quality: too short": 1,
        "exact duplicates: said before": 1,
    }
    assert figures["damaged"] == {"broken record": 2}
    assert figures["scrubbed"] == {"email": 1}
    assert figures["languages"] == {"en": 63}
    assert counts == list(range(1, len(items) + 1))
    by_url = {d.url: d for d in documents}
    assert "<email>" in by_url["x"].text
    assert by_url["https://a.org/plain"].text == sentences(900)
    assert "doctype" not in by_url["https://a.org/bare"].text
    assert by_url["https://a.org/5.html"].date == "2026-01-02T03:04:05Z"

    funnel = json.loads((tmp_path / "funnel.json").read_text())
    assert funnel["damaged"] == {"broken record": 2}
    names = ["url", "decode", "html to text", "language", "quality", "bad words", "scrub",
             "exact duplicates", "repeated passages", "near duplicates"]  # fmt: skip
    assert [step["name"] for step in funnel["steps"]] == names
    for step, following in zip(funnel["steps"], funnel["steps"][1:], strict=False):
        assert step["documents_out"] == following["documents_in"]
        assert step["characters_out"] == following["characters_in"]
    for step in funnel["steps"]:
        assert step["documents_in"] - step["documents_out"] == sum(step["reasons"].values())
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").open()]
    assert {r["url"] for r in rejects} >= {"https://a.org/i.png", "https://a.org/short", "s"}
    assert set(rejects[0]) == {"step", "id", "url", "reason", "excerpt"}


def test_finewebs_rules_refuse_more_and_cut_lines(tmp_path: Path) -> None:
    menu = "Home\nRead our privacy policy first.\n"
    items = [
        Document(document_id("a"), "a", "", menu + PROSE),
        Document(document_id("b"), "b", "", "The cup that you have of it. " * 60),
    ]
    kept = {}
    for quality in ("none", "loose", "fineweb"):
        clean(iter(items), tmp_path / quality, CleanSettings(quality=quality))
        kept[quality] = {d.url: d.text for d in both(tmp_path / quality)}
    assert {q: {url.partition("#")[0] for url in texts} for q, texts in kept.items()} == {
        "none": {"a", "b"},
        "loose": {"a"},
        "fineweb": {"a"},
    }
    assert kept["loose"]["a"].startswith("Home") and kept["fineweb"]["a"].startswith(PROSE[:40])
    refused = json.loads((tmp_path / "fineweb" / "funnel.json").read_text())["steps"]
    assert next(step["reasons"] for step in refused if step["name"] == "quality") == {"repeated words": 1}


def test_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    clean(pages(), tmp_path / "a", CleanSettings())
    clean(pages()[::-1], tmp_path / "b", CleanSettings())
    for name in ("documents.parquet", "rejects.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_single_small_file_gives_both_sides(tmp_path: Path) -> None:
    book = Document(document_id("b.txt"), "b.txt", "", sentences(1, 40))
    figures = clean([book], tmp_path, CleanSettings())
    assert figures["validation"]["characters"] >= 200
    assert figures["train"]["characters"] > 1000


@pytest.mark.parametrize("texts", [[], ["Only a little text, though it is a fine text. " * 3]])
def test_too_little_text_says_how_much(tmp_path: Path, texts: list[str]) -> None:
    items = [Document(document_id(t), t[:3], "", t) for t in texts]
    with pytest.raises(UserError, match=r"only [0-9,]+ characters") as error:
        clean(items, tmp_path, CleanSettings())
    assert "1,000" in str(error.value)
    assert (tmp_path / "funnel.json").exists()
    assert not (tmp_path / "documents.parquet").exists()


def test_hostile_pages_become_reasons_not_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    hostile = [
        Page("https://h.org/nul", b"\x00" * 5000, "text/html"),
        Page("https://h.org/noise", rng.randbytes(5000), "text/html"),
        Page("https://h.org/deep", b"<div>" * 50_000, "text/html; charset=nonsense"),
        Page("https://h.org/half", b"<script><!--<p", "text/html"),
        Page("https://h.org/\ud800", "\ufffe".encode() + b"\xff\xfe\xd8", "text/html; charset=utf-16"),
        Document(document_id("sur"), "sur\ud800", "", "\ud800\udc00" + sentences(77)),
    ]
    figures = clean(pages() + hostile, tmp_path, CleanSettings())
    assert figures["documents"] == 61
    assert sum(figures["rejected"].values()) == 5


def test_a_failure_in_one_page_is_counted(tmp_path: Path) -> None:
    class Broken(str):
        def replace(self, *args: object) -> str:
            raise RuntimeError("no")

    broken = Document("b" * 16, "b", "", Broken("text"))
    figures = clean([*pages(), broken], tmp_path, CleanSettings())
    assert figures["rejected"] == {"decode: failed: RuntimeError": 1}


def test_an_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    def items() -> Iterator[Page]:
        yield pages()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean(items(), tmp_path, CleanSettings())


def test_languages_are_chosen(tmp_path: Path) -> None:
    chinese = (
        "守塔人每天傍晚登上楼梯，修剪灯芯，看渔船一只接一只地绕过沙洲归来。冬天的风暴摇撼着高塔，"
        "他不得不用手扶住灯。这一切他都记在账簿里，死后多年才有人读到。账簿如今收在镇上的小博物馆，"
        "每逢夏天，孩子们便排着队来看那些褪色的字迹。"
    )
    items = [*pages(), Document(document_id("zh"), "zh", "", chinese)]
    figures = clean(items, tmp_path, CleanSettings(languages=["en"]))
    assert figures["rejected"] == {"language: other language": 1}
    figures = clean(items, tmp_path, CleanSettings())
    assert figures["languages"] == {"en": 60, "zh-Hans": 1}


def test_passages_and_near_duplicates_can_be_left_in(tmp_path: Path) -> None:
    shared = sentences(500, 6)
    items = [Document(document_id(str(i)), str(i), "", sentences(i, 8) + "\n" + shared) for i in range(30)]
    near = Document(document_id("near"), "near", "", sentences(3, 8) + "\n" + shared + "\nNew end.")
    off = CleanSettings(near_duplicates=False, repeated_passages=False)
    clean([*items, near], tmp_path / "off", off)
    assert sum(shared in d.text for d in both(tmp_path / "off")) == 31
    clean([*items, near], tmp_path / "on", CleanSettings())
    assert sum(shared in d.text for d in both(tmp_path / "on")) == 1
    figures = clean([*items, near], tmp_path / "near", CleanSettings(repeated_passages=False))
    assert figures["rejected"] == {"near duplicates: said before": 1}


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    items = [
        Document(document_id(f"{p}/{i}"), f"{p}/{i}", "", sentences(ord(p) * 50 + i))
        for p in "abcdefghij"
        for i in range(5)
    ]
    clean(items, tmp_path, CleanSettings(held_out=0.3, held_out_group="^([a-z])/"))
    path = tmp_path / "documents.parquet"
    train, held = ({d.url[0] for d in read_split(path, s)} for s in ("train", "validation"))
    assert train and held and not train & held


def test_few_rejects_are_kept_and_always_the_same(tmp_path: Path) -> None:
    short = [Document(document_id(str(i)), str(i), "", "short") for i in range(500)]
    settings = CleanSettings(keep_rejects=3)
    clean([*pages(), *short], tmp_path / "a", settings)
    clean([*short[::-1], *pages()], tmp_path / "b", settings)
    lines = (tmp_path / "a" / "rejects.jsonl").read_text()
    assert lines.count("too short") == 3
    assert lines == (tmp_path / "b" / "rejects.jsonl").read_text()


@pytest.mark.parametrize(
    "wrong",
    [{"held_out": 0}, {"held_out_group": "("}, {"held_out_group": "a"}, {"languges": ["en"]}],
)
def test_settings_refuse_what_they_cannot_mean(wrong: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        CleanSettings.model_validate(wrong)
