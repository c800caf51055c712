"""Each step that needs no other document: what it refuses, changes and lets through."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sishu.console import UserError
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.judge.quality_training import Example, train
from sishu.corpus.pipeline.clean import clean
from sishu.corpus.pipeline.clean_settings import BlockSettings, CleanSettings, MinHashSettings
from sishu.corpus.pipeline.split import TAIL
from sishu.corpus.table import read_split
from tests.corpus.prose import PROSE, sentences

CHINESE = """河边的小镇每到春天都要举行一次集市，附近村庄的人带着布匹、蜂蜜和新做的木器来到这里。
孩子们最喜欢看的是皮影戏，老人坐在茶馆里谈论去年的收成和今年的雨水。
"""


def document(url: str, text: str, date: str = "") -> Document:
    return Document(document_id(url), url, date, text)


def run(out: Path, items: list[Page | Document], **settings: object) -> tuple[dict[str, str], dict[str, int]]:
    """Texts by URL, and refusals by reason."""
    figures = clean(items, out, CleanSettings.model_validate({"quality": "none", **settings}))
    kept = [
        *read_split(out / "documents.parquet", "train"),
        *read_split(out / "documents.parquet", "validation"),
    ]
    return {d.url: d.text for d in kept}, figures["rejected"]


FILLER = [document(f"https://filler.org/{i}", sentences(i)) for i in range(30)]


def test_addresses_are_blocked(tmp_path: Path) -> None:
    (tmp_path / "domains.txt").write_text("# a list\nbad.example.org\n例子.测试\n")
    (tmp_path / "urls.txt").write_text("https://fine.org/bad-page\n")
    (tmp_path / "words.txt").write_text("[hard]\nwarez\n")
    texts = {url: PROSE + url for url in (
        "https://bad.example.org/a", "https://deep.bad.example.org/b", "https://xn--fsqu00a.xn--0zwm56d/c",
        "https://fine.org/bad-page", "https://fine.org/warez/d", "https://fine.org/good", "notes/warez.txt",
        "https://allowed.bad.example.org/e",
    )}  # fmt: skip
    page = Page("https://bad.example.org/page", b"<p>" + PROSE.encode(), "text/html")
    items = [page, *(document(url, text) for url, text in texts.items())]
    block = BlockSettings(
        domains=[str(tmp_path / "domains.txt")], urls=[str(tmp_path / "urls.txt")],
        words=[str(tmp_path / "words.txt")], allow=["allowed.bad.example.org"],
    )  # fmt: skip
    kept, refused = run(tmp_path / "out", [*FILLER, *items], block=block, near_duplicates=False,
                        repeated_passages=False)  # fmt: skip
    assert set(kept) & set(texts) == {
        "https://fine.org/good", "notes/warez.txt", "https://allowed.bad.example.org/e"
    }  # fmt: skip
    assert refused == {"url: blocked domain": 4, "url: blocked url": 1, "url: blocked word in url": 1}
    steps = json.loads((tmp_path / "out" / "funnel.json").read_text())["steps"]
    assert [step["name"] for step in steps[:2]] == ["url", "decode"]
    assert steps[0]["bytes_out"] == steps[1]["bytes_in"] > 0


def test_a_missing_list_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt"):
        run(tmp_path, list(FILLER), block=BlockSettings(domains=[str(tmp_path / "none.txt")]))


def test_spam_is_refused_by_its_words_unless_not_wanted(tmp_path: Path) -> None:
    words = "澳门赌场开户送彩金，时时彩投注平台，裸聊直播，六合彩开奖，百家乐网址，博彩平台，色情网站，约炮。"
    spam = document("https://a.org/spam", words * 4)
    kept, refused = run(tmp_path / "a", [*FILLER, spam, document("https://a.org/zh", CHINESE * 2)])
    assert "https://a.org/zh" in kept and spam.url not in kept
    assert refused["bad words: bad words"] == 1
    kept, refused = run(tmp_path / "b", [*FILLER, spam], bad_words=False)
    assert spam.url in kept


def test_questions_of_an_evaluation_are_kept_out(tmp_path: Path) -> None:
    question = (
        "Which of the seven bridges over the slow green river was built by the grandfather of the miller "
        "who later sold all of his horses to the travelling circus?"
    )
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": question}) + "\n")
    page = document("https://a.org/exam", f"{PROSE}\n{question.upper()}\n{PROSE[::-1]}")
    settings = {"evaluations": [str(tmp_path / "exam.jsonl")], "repeated_passages": False}
    kept, refused = run(tmp_path / "drop", [*FILLER, page], **settings)
    assert page.url not in kept and refused == {"evaluations: contains exam": 1}
    kept, refused = run(tmp_path / "cut", [*FILLER, page], contaminated="cut", **settings)
    assert refused == {}
    assert "MILLER" not in kept[page.url] and kept[page.url].startswith(PROSE[:300])


def test_paragraphs_in_another_language_are_cut(tmp_path: Path) -> None:
    page = document("https://a.org/two", f"{PROSE}\n\n{CHINESE * 2}\n\n{PROSE[::-1][:0]}The end of it all.")
    kept, _ = run(tmp_path / "keep", [*FILLER, page])
    assert "集市" in kept[page.url]
    kept, _ = run(tmp_path / "cut", [*FILLER, page], foreign_paragraphs="cut")
    assert "集市" not in kept[page.url] and PROSE in kept[page.url]
    kept, _ = run(tmp_path / "both", [*FILLER, page], foreign_paragraphs="cut", languages=["en", "zh"])
    assert "集市" in kept[page.url]


def test_a_quality_model_scores_and_refuses(tmp_path: Path) -> None:
    good = [Example(sentences(i), True) for i in range(40)]
    bad = [Example("buy cheap watches online now " * 9 + str(i), False) for i in range(40)]
    train([*good, *bad]).save(tmp_path / "model")
    page = document("https://a.org/shop", "Watches, cheap watches: buy online, now and cheap! " * 5)
    kept, refused = run(tmp_path / "out", [*FILLER, page], quality_model=str(tmp_path / "model"))
    assert page.url not in kept and refused == {"quality model: low quality": 1}
    scores = [d.quality_score for d in read_split(tmp_path / "out" / "documents.parquet", "train")]
    assert all(score is not None and 0.5 <= score <= 1 for score in scores)
    run(tmp_path / "without", list(FILLER))
    scores = [d.quality_score for d in read_split(tmp_path / "without" / "documents.parquet", "train")]
    assert set(scores) == {None}


def test_the_newest_of_an_address_is_kept(tmp_path: Path) -> None:
    twice = [document("https://a.org/x", sentences(500 + i), f"2026-0{i + 1}-01T00:00:00Z") for i in range(3)]
    kept, refused = run(tmp_path / "newest", [*FILLER, twice[2], twice[0], twice[1]], same_address="newest")
    assert kept["https://a.org/x"] == sentences(502) and refused == {"same address: older": 2}
    _, refused = run(tmp_path / "all", [*FILLER, *twice])
    assert refused == {}


def test_tokens_are_counted_if_a_tokenizer_is_given(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    page = Page("https://a.org/p", f"<p>{PROSE} Ask jo@corp.org.</p>".encode(), "text/html")
    out = tmp_path / "out"
    kept, _ = run(out, [*FILLER, FILLER[0], page], count_tokens=str(tmp_path))
    steps = {step["name"]: step for step in json.loads((out / "funnel.json").read_text())["steps"]}
    words = sum(len(text.split()) for text in kept.values())
    assert steps["near duplicates"]["tokens_out"] == words
    assert steps["decode"]["tokens_out"] == words - len(PROSE.split()) - 2 + len(FILLER[0].text.split())
    assert steps["language"]["tokens_in"] == words + len(FILLER[0].text.split())
    assert steps["scrub"]["changed"] == 1
    table = {row["name"]: row for row in pyarrow.parquet.read_table(out / "funnel.parquet").to_pylist()}
    for name, step in steps.items():
        assert {k: v for k, v in table[name].items() if k != "reasons"} == {
            k: v for k, v in step.items() if k != "reasons"
        }
        assert dict(table[name]["reasons"]) == step["reasons"]
    samples = pyarrow.parquet.read_table(out / "samples.parquet").to_pylist()
    assert [(row["step"], row["url"]) for row in samples] == [
        ("exact duplicates", "https://filler.org/0"),
        ("html to text", "https://a.org/p"),
        ("scrub", "https://a.org/p"),
    ]
    assert "jo@corp.org" in samples[2]["before"] and "<email>" in samples[2]["after"]


def test_a_language_that_is_uncertain_is_refused_unless_wanted(tmp_path: Path) -> None:
    others = "der Hund des alten Mannes lief ins Dorf, le chien du vieil homme court sur le pont, "
    mixed = document("https://a.org/mixed", "\n".join(f"{others}{line}" for line in PROSE.split("\n")))
    _, refused = run(tmp_path / "a", [*FILLER, mixed])
    assert refused == {"language: language uncertain": 1}
    kept, _ = run(tmp_path / "b", [*FILLER, mixed], min_language_score=0.0)
    assert mixed.url in kept


def test_limits_and_the_search_for_near_duplicates_are_the_users(tmp_path: Path) -> None:
    texts = [document(f"https://b.org/{i}", f"{PROSE}\nNumber {i} of twelve.") for i in range(3)]
    settings = {"quality": "fineweb", "repeated_passages": False}
    kept, _ = run(tmp_path / "a", [*FILLER, *texts], **settings)
    assert len({url.removesuffix(TAIL) for url in kept if "b.org" in url}) == 1
    strict = MinHashSettings(bands=1, rows=100, shingle=20)
    kept, _ = run(tmp_path / "b", [*FILLER, *texts], **settings, minhash=strict)
    assert len({url.removesuffix(TAIL) for url in kept if "b.org" in url}) == 3
    with pytest.raises(UserError, match="few words"):
        run(tmp_path / "c", [*FILLER, *texts], **settings, limits={"en": {"min_words": 100_000}})
