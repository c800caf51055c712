"""`sishu pretrain data=…`: the user's own text in, a model out that opens and speaks."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import random
from html import escape
from io import BytesIO
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sishu.corpus.document import Document
from sishu.corpus.table import read_split
from sishu.generate.engine import Engine, Sampling

TINY = ["model={depth: 1, width: 32, context_length: 64}", "train.steps=20", "train.batch=8"]
PROSE = [text for _, text in sorted(topics.items()) if 1500 < len(text) < 6000]
CLASSICS = (
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？",
    "道可道，非常道；名可名，非常名。无名，天地之始；有名，万物之母。",
    "大学之道，在明明德，在亲民，在止于至善。知止而后有定，定而后能静。",
    "天命之谓性，率性之谓道，修道之谓教。道也者，不可须臾离也，可离非道也。",
    "孟子见梁惠王。王曰：叟！不远千里而来，亦将有以利吾国乎？",
    "北冥有鱼，其名为鲲。鲲之大，不知其几千里也；化而为鸟，其名为鹏。",
    "关关雎鸠，在河之洲。窈窕淑女，君子好逑。参差荇菜，左右流之。",
    "兵者，国之大事，死生之地，存亡之道，不可不察也。",
)


def recited(count: int) -> str:
    """`count` different lines of four of the classics each."""
    orders = sorted(itertools.permutations(CLASSICS, 4))
    return "\n".join("".join(order) for order in random.Random(5).sample(orders, count))


def documents(run: Path) -> list[Document]:
    path = run / "corpus" / "documents.parquet"
    return [document for side in ("train", "validation") for document in read_split(path, side)]


def learnt(sishu: Any, data: str, *settings: str) -> tuple[dict[str, Any], str, Path]:
    """Train on it; the corpus stage's figures, some of the model's text, and the run."""
    done = sishu.good("pretrain", f"data={data}", *TINY, *settings)
    stage = Path(done.stdout.splitlines()[-1])
    assert stage.name == "pretrain"
    engine = Engine.load(stage / "model")
    answers = engine.complete([[engine.tokenizer.bos]] * 16, Sampling(max_tokens=40, seed=1))
    sample = "".join(answer.text for answer in answers)
    assert sample.strip()
    lines = (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 20 and losses[-1] < losses[0]
    pretrained = json.loads((stage / "manifest.json").read_text(encoding="utf-8"))["figures"]
    bits = losses[-1] / math.log(2) / pretrained["bytes_per_token"]
    assert json.loads(lines[-1])["bits_per_byte"] == pytest.approx(bits, rel=1e-3)
    manifest = json.loads((stage.parent / "corpus" / "manifest.json").read_text(encoding="utf-8"))
    return manifest["figures"], sample, stage.parent


def test_twenty_kilobytes_of_english(sishu: Any) -> None:
    text = "\n\n".join(PROSE)[:20_000]
    (sishu.folder / "school.txt").write_text(text, encoding="utf-8")
    figures, _, run = learnt(sishu, "school.txt")
    assert run == sishu.folder / "runs" / "school"  # named after the file
    assert figures["characters"] > 19_000  # nothing of the user's own text is thrown away
    assert any(text[5_000:6_000] in d.text for d in documents(run))
    assert figures["validation"]["characters"] > 0


def test_chinese_text_of_two_hundred_kilobytes(sishu: Any) -> None:
    text = recited(550)
    assert len(text.encode()) > 150_000
    (sishu.folder / "论语 摘.txt").write_text(text, encoding="utf-8")
    figures, sample, run = learnt(sishu, "论语 摘.txt")
    assert run.name == "论语 摘"
    assert figures["languages"] == {"zh-Hans": figures["documents"]}
    assert figures["characters"] > 0.95 * len(text)
    tokenizer = Engine.load(run / "pretrain" / "model").tokenizer
    ids = tokenizer.encode(CLASSICS[0])
    assert len(ids) < len(CLASSICS[0])  # learnt whole words of it
    assert tokenizer.decode(ids) == CLASSICS[0]
    assert any("\u4e00" <= c <= "\u9fff" for c in sample)


def test_chinese_text_in_the_encoding_of_old(sishu: Any) -> None:
    text = recited(30)
    (sishu.folder / "old.txt").write_bytes(text.encode("gb18030"))
    _, _, run = learnt(sishu, "old.txt")
    kept = "".join(document.text for document in documents(run))
    assert CLASSICS[1] in kept and "\ufffd" not in kept


def test_five_megabytes_of_real_chinese_classics(sishu: Any) -> None:
    data = Path(os.environ.get("SISHU_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    files = sorted((data / "zh-classics").glob("*.txt*"))
    if not files:
        pytest.skip("needs ../shared/data/zh-classics (or SISHU_TEST_DATA)")
    folder, room = sishu.folder / "classics", 5_000_000
    folder.mkdir()
    for file in files:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        (folder / file.name.removesuffix(".gz")).write_bytes(
            content[:room].decode("utf-8", "ignore").encode()
        )
        room -= min(room, len(content))
        if room <= 0:
            break
    figures, sample, _ = learnt(sishu, "classics")
    assert figures["characters"] > 100_000 and "zh-Hans" in figures["languages"]
    assert any("\u4e00" <= c <= "\u9fff" for c in sample)


def test_a_folder_of_every_kind_of_file(sishu: Any) -> None:
    folder = sishu.folder / "mixed"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(PROSE[0], encoding="utf-8")
    (folder / "deep" / "b.md").write_text("# Notes\n\n" + PROSE[1], encoding="utf-8")
    (folder / "c.html").write_text(page(PROSE[2]), encoding="utf-8")
    rows = [{"text": PROSE[3]}, {"content": PROSE[4], "url": "http://school.test/row"}]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": [PROSE[5], PROSE[6]]}), folder / "e.parquet")
    (folder / "f.warc.gz").write_bytes(archive(PROSE[7:9]))
    (folder / "picture.png").write_bytes(b"\x89PNG")  # of no kind that can be read
    (folder / ".hidden.txt").write_text(PROSE[9])
    figures, _, run = learnt(sishu, "mixed", "documents=separate")
    assert figures["documents"] == 9
    # one of them is cut in two, the second half to validate on
    assert {document.url.removesuffix("#validation") for document in documents(run)} == {
        *("a.txt", "deep/b.md", "c.html", "d.jsonl#1", "http://school.test/row"),
        *("e.parquet#1", "e.parquet#2", "http://school.test/0", "http://school.test/1"),
    }


def page(prose: str) -> str:
    paragraphs = "".join(f"<p>{escape(p)}</p>" for p in prose.split("\n\n"))
    return f"<html><body><article>{paragraphs}</article></body></html>"


def archive(texts: list[str]) -> bytes:
    buffer = BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for number, prose in enumerate(texts):
        headers = StatusAndHeaders(
            "200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1"
        )
        record = writer.create_warc_record(
            f"http://school.test/{number}",
            "response",
            payload=BytesIO(page(prose).encode()),
            http_headers=headers,
        )
        writer.write_record(record)
    return buffer.getvalue()
