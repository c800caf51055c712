"""What became of a document, kept or refused, from a web archive or from rows, as the corpus knows it."""

import json
import random
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow.parquet
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sishu.console import UserError
from sishu.corpus.look.explain import UNKNOWN, Account, explain
from sishu.corpus.look.lookup import find, run_with_corpus
from sishu.files import sha256
from sishu.road import load_recipe, walk
from sishu.run import Run
from sishu.stages.crawl import CrawlSettings

WORDS = ["river", "bridge", "tower", "market", "garden", "harbour", "window", "kitchen", "teacher", "winter"]
CHINESE = (
    "守塔人每天傍晚登上楼梯，修剪灯芯，看渔船一只接一只地绕过沙洲归来。冬天的风暴摇撼着高塔，"
    "他不得不用手扶住灯。这一切他都记在账簿里，死后多年才有人读到。账簿如今收在镇上的小博物馆，"
    "每逢夏天，孩子们便排着队来看那些褪色的字迹。\n有事请写信到 jo@corp.org 。"
)
POEM = (
    "北冥有鱼，其名为鲲。鲲之大，不知其几千里也；化而为鸟，其名为鹏。鹏之背，不知其几千里也；怒而飞，其翼若垂天之云。"
    "是鸟也，海运则将徙于南冥。南冥者，天池也。齐谐者，志怪者也。谐之言曰：鹏之徙于南冥也，水击三千里，抟扶摇而上者九万里。"
)
HOSTILE = "\x1b[31m\x9b2J\u202e[/bold]\\[/b] <script>alert(1)</script>"


def story(seed: int, lines: int = 8) -> str:
    rng = random.Random(seed)
    return "\n".join(
        f"The {rng.choice(WORDS)} by the {rng.choice(WORDS)} has seen {rng.randrange(1000, 9999)} of them, "
        f"and no {rng.choice(WORDS)} in the {rng.choice(WORDS)} was ever {rng.choice(['lost', 'found'])}."
        for _ in range(lines)
    )


def html(text: str) -> bytes:
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return f"<html><body><article>{paragraphs}</article></body></html>".encode()


PAGES = {
    "https://a.org/kept": ("text/html; charset=utf-8", html(story(1) + "\nWrite to jo@corp.org today.")),
    "https://a.org/中文": ("text/html", html(POEM)),
    "https://a.org/short": ("text/html", b"<p>Hello.</p>"),
    "https://a.org/picture": ("image/png", b"\x89PNG"),
    "https://a.org/hostile\\[/b]": ("text/html", html(story(2) + "\n" + HOSTILE) + b"<div>" * 100),
}
ROWS = [
    *({"url": f"https://b.org/{i}", "text": story(100 + i)} for i in range(20)),
    {"url": "https://b.org/zh", "text": CHINESE, "date": "2026-02-03"},
    {"url": "https://b.org/copy", "text": story(103).upper()},
    {"url": "https://b.org/near", "text": story(300, 60).replace("\n", " ")},
    {"url": "https://b.org/nearly", "text": story(300, 60).replace("\n", " ").replace("seen", "known", 1)},
    {"url": "https://b.org/partly", "text": story(400) + "\n" + "\n".join(story(105).split("\n")[2:7])},
    {"url": "https://b.org/nothing", "text": "\n".join(story(106).split("\n")[1:6])},
    {"url": "https://b.org/twice", "text": story(500)},
    {"url": "https://b.org/twice", "text": story(501)},
    {"url": "https://b.org/same", "text": story(600)},
    {"url": "https://b.org/same", "text": story(600)},
    {"text": story(700)},
]


def archive() -> bytes:
    buffer = BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for url, (kind, body) in PAGES.items():
        headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.1")
        writer.write_record(
            writer.create_warc_record(url, "response", payload=BytesIO(body), http_headers=headers)
        )
    return buffer.getvalue()


def make(folder: Path, data: Path, **settings: object) -> Path:
    given = {"quality": "loose", "near_duplicates": True, "repeated_passages": True, "min_characters": 100}
    corpus = {"data": str(data), "workers": 1} | given | settings
    walk(load_recipe("text", {"corpus": corpus}), folder, ["corpus"])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a corpus of a web archive, rows and a text, made by the real stage."""
    folder = tmp_path_factory.mktemp("explain")
    data = folder / "data"
    data.mkdir()
    (data / "pages.warc.gz").write_bytes(archive())
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (data / "notes.txt").write_text(story(800), encoding="utf-8")
    return make(folder / "runs" / "one", data)


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The run and its input, to be spoilt by a test."""
    data = run.parents[1] / "data"
    kept = tmp_path / "kept"
    shutil.copytree(data, kept)
    yield run, data
    shutil.rmtree(data)
    shutil.copytree(kept, data)


def only(run: Path, name: str) -> Account:
    accounts = explain(run, name)
    assert len(accounts) == 1
    return accounts[0]


def outcomes(account: Account) -> dict[str, str]:
    return {o.step: o.reason or ("changed" if o.changed else "") for o in account.steps}


@pytest.mark.parametrize(
    ("name", "date"), [("https://b.org/zh", "2026-02-03"), ("https://a.org/中文", None), ("notes.txt", "")]
)
def test_a_kept_document_ends_as_the_text_of_the_corpus(run: Path, name: str, date: str | None) -> None:
    account = only(run, name)
    (row,) = find(run / "corpus", name)
    assert account.verdicts == [row] and row.split and row.text
    assert account.steps[-1].after == row.text
    assert date is None or account.date == date
    names = [outcome.step for outcome in account.steps]
    comparing = ["exact duplicates", "repeated passages", "near duplicates"]
    assert names[-3:] == comparing and {"decode", "html to text", "language", "quality", "scrub"} < set(names)
    for one, following in zip(account.steps, account.steps[1:], strict=False):
        assert one.left == following.arrived


def test_a_changed_text_is_seen_before_and_after(run: Path) -> None:
    for name, language in (("https://a.org/kept", "en"), ("https://b.org/zh", "zh-Hans")):
        account = only(run, name)
        assert account.language == language and account.language_score > 0.5
        scrub = next(outcome for outcome in account.steps if outcome.step == "scrub")
        assert scrub.changed and "jo@corp.org" in scrub.before
        assert scrub.after is not None and "<email>" in scrub.after
    decode = next(o for o in only(run, "https://a.org/kept").steps if o.step == "decode")
    assert (decode.arrived, decode.body) == (len(PAGES["https://a.org/kept"][1]),) * 2
    assert decode.after is not None and decode.after.startswith("<html>")


@pytest.mark.parametrize(
    ("name", "step", "reason"),
    [
        ("https://a.org/short", "quality", "too short"),
        ("https://a.org/picture", "decode", "not a text page"),
        ("https://b.org/nothing", "repeated passages", "nothing new"),
    ],
)
def test_a_refused_document_ends_where_the_corpus_says(run: Path, name: str, step: str, reason: str) -> None:
    account = only(run, name)
    last = account.steps[-1]
    assert (last.step, last.reason, last.after) == (step, reason, None)
    (row,) = find(run / "corpus", name)
    assert (row.step, row.reason) == (step, reason)


def test_a_duplicate_names_what_it_repeats_and_what_became_of_that(run: Path) -> None:
    pairs = ({"https://b.org/copy", "https://b.org/3"}, {"https://b.org/near", "https://b.org/nearly"})
    for pair, step in zip(pairs, ("exact duplicates", "near duplicates"), strict=True):
        accounts = {url: only(run, url) for url in pair}
        (lost,) = [url for url, account in accounts.items() if not account.verdicts[0].split]
        account = accounts[lost]
        ((identity, rows),) = account.originals.items()
        assert {lost, rows[0].url} == pair and rows[0].split and identity == rows[0].id
        assert outcomes(account)[step] == "said before"
    # how much of a near duplicate was cut before it was compared is known to nobody
    assert [o.after for o in account.steps if o.step == "repeated passages"] == [UNKNOWN]
    assert account.steps[-1].arrived is None


def test_repeated_passages_are_a_step_with_its_cut(run: Path) -> None:
    partly, other = only(run, "https://b.org/partly"), only(run, "https://b.org/5")
    (cut,) = [
        o for account in (partly, other) for o in account.steps if o.step == "repeated passages" and o.changed
    ]
    gone = set(cut.before.split("\n")) - set((cut.after or "").split("\n"))
    assert gone == set(story(105).split("\n")[2:7])


def test_all_documents_of_one_url_are_told_and_told_apart(run: Path) -> None:
    twice = explain(run, "https://b.org/twice")
    assert [account.steps[0].before for account in twice] == [story(500), story(501)]
    assert [account.verdicts[0].text for account in twice] == [story(500), story(501)]
    same = explain(run, "https://b.org/same")
    assert len(same) == 2
    assert sorted(account.verdicts[0].step for account in same) == ["", "exact duplicates"]


def test_older_pages_of_an_address_are_told_apart_from_the_newest(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    texts = {"2026-01": CHINESE, "2026-03": POEM, "2026-02": story(9)}
    for date, text in texts.items():
        row = {"url": "https://c.org/", "date": date, "text": text}
        (data / f"{date}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (data / "more.txt").write_text(story(10, 20), encoding="utf-8")
    accounts = explain(make(tmp_path / "run", data, same_address="newest"), "https://c.org/")
    assert {account.date: account.steps[-1].reason for account in accounts} == {
        "2026-01": "older",
        "2026-02": "older",
        "2026-03": "",
    }
    (kept,) = [account for account in accounts if account.verdicts[0].split]
    assert kept.steps[-1].after == POEM and "same address" in outcomes(kept)


def test_an_id_and_a_row_without_an_address_are_found(run: Path) -> None:
    account = only(run, f"rows.jsonl#{len(ROWS)}")
    assert account.steps[0].before == story(700)
    assert only(run, account.id).url == account.url
    assert only(run, account.id.upper()).url == account.url


def test_a_hostile_page_is_explained_like_any_other(run: Path) -> None:
    account = only(run, "https://a.org/hostile\\[/b]")
    assert account.steps[-1].after and story(2).split("\n")[0] in account.steps[-1].after


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0123456789abcdef", "No document has the id 0123456789abcdef"),
        ("0123", "16 hex digits"),
        ("https://b.org/neat", r"did you mean https://b\.org/near\?"),
        ("http://www.b.org/zh/", r"did you mean https://b\.org/zh\?"),
        ("a.org/中", r"did you mean https://a\.org/中文\?"),
        ("b.org", "in that of several, such as https://b.org/0 and https://b.org/1"),
        ("https://nowhere.test/", "give a URL as it is in the input"),
        ("", "give a URL as it is in the input"),
    ],
)
def test_an_unknown_document_is_one_sentence(run: Path, name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        explain(run, name)


def test_an_input_that_is_gone_or_another_is_said(copied: tuple[Path, Path]) -> None:
    run, data = copied
    (data / "rows.jsonl").write_text(json.dumps({"url": "https://b.org/zh", "text": story(1)}) + "\n")
    with pytest.raises(
        UserError, match=r"data has changed since the corpus was made \(its text is another\)"
    ):
        explain(run, "https://b.org/zh")
    with pytest.raises(UserError, match="it holds 0 of 1 documents"):
        explain(run, "https://b.org/1")
    (data / "rows.jsonl").write_text(json.dumps({"url": "https://b.org/zh", "text": "Short."}) + "\n")
    with pytest.raises(UserError, match="then let through; now quality: too short"):
        explain(run, "https://b.org/zh")
    (data / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"rows\.jsonl is no longer in .*data"):
        explain(run, "https://b.org/1")
    shutil.rmtree(data)
    with pytest.raises(UserError, match=r"The input .*data is gone"):
        explain(run, "https://b.org/1")
    data.mkdir()  # as the fixture takes it away


def test_files_that_settings_name_are_gone_back_to_as_well(tmp_path: Path) -> None:
    data, blocked = tmp_path / "rows.jsonl", tmp_path / "blocked.txt"
    blocked.write_text("blocked.test\n", encoding="utf-8")
    lines = [*ROWS, {"url": "https://www.blocked.test/1", "text": story(1)}]
    data.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    run = make(tmp_path / "run", data, block={"domains": [str(blocked)]})
    assert only(run, "https://www.blocked.test/1").steps[-1].reason == "blocked domain"
    blocked.write_text("other.test\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"blocked\.txt has changed since the corpus was made"):
        explain(run, "https://www.blocked.test/1")


def test_what_another_sishu_did_is_noted(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    path = other / "corpus" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(manifest | {"code_digest": "another"}), encoding="utf-8")
    assert only(other, "https://a.org/short").notes == []
    refused = other / "corpus" / "refused.parquet"
    table = pyarrow.parquet.read_table(refused)
    reasons = ["too long" if one == "too short" else one for one in table["reason"].to_pylist()]
    changed = table.set_column(table.column_names.index("reason"), "reason", pyarrow.array(reasons))
    pyarrow.parquet.write_table(changed, refused)
    (note,) = only(other, "https://a.org/short").notes
    assert "sishu has changed" in note and "then quality: too long; now quality: too short" in note


def test_what_was_given_up_is_not_gone_through_again(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    refused = other / "corpus" / "refused.parquet"
    table = pyarrow.parquet.read_table(refused)
    reasons = ["took too long" if one == "too short" else one for one in table["reason"].to_pylist()]
    changed = table.set_column(table.column_names.index("reason"), "reason", pyarrow.array(reasons))
    pyarrow.parquet.write_table(changed, refused)
    account = only(other, "https://a.org/short")
    assert account.steps == [] and account.verdicts[0].reason == "took too long"
    assert "not gone through again" in account.notes[0]


def test_one_file_cut_in_two_for_validation(tmp_path: Path) -> None:
    book = tmp_path / "书.txt"
    book.write_text(story(900, 40) + "\n" + CHINESE, encoding="utf-8")
    run = make(tmp_path / "run", book)
    account = only(run, "书.txt")
    assert account.end is not None and CHINESE[:20] in account.end.text + account.verdicts[0].text
    assert [o.changed for o in account.steps if o.step == "repeated passages"] == [False]
    assert only(run, account.end.id).url == "书.txt"
    book.write_text(story(901, 40), encoding="utf-8")
    with pytest.raises(UserError, match="has changed since the corpus was made: run"):
        explain(run, "书.txt")


def crawl(run: Path, body: bytes) -> None:
    """Leaves an archive as the crawl stage does."""
    with Run(run).begin("crawl", sha256(body), CrawlSettings(), {}, 1) as (context, _):
        (context.folder / "pages.warc.gz").write_bytes(body)


def test_the_pages_of_the_run_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    crawl(run, archive())
    walk(load_recipe("text", {"corpus": {"workers": 1}}), run, ["corpus"])
    account = only(run, "https://a.org/中文")
    assert account.source == "pages.warc.gz" and account.verdicts[0].split
    shutil.move(run, tmp_path / "moved")
    assert only(tmp_path / "moved", "https://a.org/中文").id == account.id
    crawl(tmp_path / "moved", archive() + archive())
    with pytest.raises(UserError, match=r"pages\.warc\.gz has changed since the corpus was made"):
        explain(tmp_path / "moved", "https://a.org/中文")


def test_a_run_with_a_corpus_is_found_or_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    assert run_with_corpus(None).resolve() == run
    assert run_with_corpus(run) == run
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run with a finished corpus"):
        run_with_corpus(None)
    with pytest.raises(UserError, match="has no finished corpus"):
        run_with_corpus(tmp_path)
    for name in "ab":
        (tmp_path / "runs" / name / "corpus").mkdir(parents=True)
        (tmp_path / "runs" / name / "corpus" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="choose one with --run"):
        run_with_corpus(None)
