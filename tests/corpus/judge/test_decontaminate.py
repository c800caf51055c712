"""What an evaluation holds is found however it was typed; what merely sounds alike is not."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.judge import ngrams
from sishu.corpus.judge.decontaminate import Contamination, Hit, read_items
from tests.shared_data import shared_data

ENGLISH = (
    "Janet's ducks lay sixteen eggs per day; she eats three for breakfast every morning, and bakes the rest."
)
SHORT = "Who wrote the first book about blue whales?"  # eight words
CHINESE = "在下列各项中，哪一项最能说明光合作用需要叶绿素的参与？"
SHORT_CHINESE = "谁最先写了一本讲蓝鲸的书？"  # twelve characters
MIXED = "请问Python中的list和tuple有什么不同之处，哪个更快？"
ITEMS = [("ducks", ENGLISH), ("whales", SHORT), ("leaves", CHINESE), ("zh whales", SHORT_CHINESE)]
ITEMS += [("python", MIXED)]
FILLER = "Nothing in this sentence has to do with any question that was ever asked of anybody. "
ZH_FILLER = "这一句话和任何人被问过的任何问题都没有一点关系。"


@pytest.fixture(scope="module")
def index() -> Contamination:
    return Contamination.build(ITEMS)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (ENGLISH, "ducks"),
        (FILLER * 3 + ENGLISH + FILLER, "ducks"),
        (ENGLISH.upper(), "ducks"),
        (re.sub(r"[^\w\s]", "", ENGLISH.replace("'", " ")), "ducks"),
        (ENGLISH.replace(" ", "\n"), "ducks"),
        (ENGLISH.replace("'", "’").replace(" ", " - "), "ducks"),
        ("".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in ENGLISH), "ducks"),
        (ENGLISH.replace("ea", "e\u0301a").replace("ay", "\u00e1y"), "ducks"),
        (ENGLISH.replace("bre", "b\u200bre\u00ad"), "ducks"),
        (" ".join(ENGLISH.split()[3:15]) + " bakes", "ducks"),
        ("这里引用：" + ENGLISH + "完", "ducks"),
        (SHORT, "whales"),
        (FILLER + SHORT.lower() + FILLER, "whales"),
        (CHINESE, "leaves"),
        (ZH_FILLER * 3 + CHINESE + ZH_FILLER, "leaves"),
        (CHINESE.replace("，", "\n"), "leaves"),
        (" ".join(CHINESE), "leaves"),
        (CHINESE[3:23], "leaves"),
        (ZH_FILLER + SHORT_CHINESE.replace("？", "。") + ZH_FILLER, "zh whales"),
        (MIXED.replace("Python", "ＰＹＴＨＯＮ").replace("list", " List "), "python"),
    ],
)
def test_planted_questions_are_found(index: Contamination, text: str, task: str) -> None:
    assert index.judge(text) == f"contains {task}"
    (hit,) = index.find(text)
    assert hit.task == task
    assert index.judge(text[hit.start : hit.end]) == f"contains {task}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        FILLER * 100,
        ZH_FILLER * 100,
        " ".join(ENGLISH.split()[:11]),  # Janet's are two
        " ".join(reversed(ENGLISH.split())),
        ENGLISH.replace("per", "each").replace("breakfast", "lunch"),
        "Who wrote the second book about blue whales?",
        SHORT.replace("whales", "whale"),
        CHINESE[:10] + "的" + CHINESE[10:20],
        SHORT_CHINESE[:9],
        "\ud800" * 100,
        "\0" * 100,
    ],
)
def test_what_is_not_there_is_not_found(index: Contamination, text: str) -> None:
    assert index.judge(text) == ""
    assert index.find(text) == []


def test_where_a_passage_is(index: Contamination) -> None:
    text = FILLER + ENGLISH + " " + FILLER + CHINESE + ZH_FILLER + ENGLISH
    first, second = text.index(ENGLISH), text.rindex(ENGLISH)
    assert index.find(text) == [
        Hit("ducks", first, first + len(ENGLISH) - 1),  # without the full stop
        Hit("leaves", text.index(CHINESE), text.index(CHINESE) + len(CHINESE) - 1),
        Hit("ducks", second, second + len(ENGLISH) - 1),
    ]


@pytest.mark.parametrize("before", [0, 1, 37, ngrams.BLOCK - 60, ngrams.BLOCK - 30, ngrams.BLOCK - 1])
@pytest.mark.parametrize("filler", ["word ", "字", "long" * 500])
def test_borders_of_blocks_do_not_matter(index: Contamination, before: int, filler: str) -> None:
    front = (filler * (2 * ngrams.BLOCK // len(filler) + 1))[: before + ngrams.BLOCK] + "\n"
    for question, task in ((ENGLISH, "ducks"), (CHINESE, "leaves")):
        text = front + question + "\n" + filler * 1000
        assert index.find(text) == [Hit(task, len(front), len(front) + len(question) - 1)]


def test_templates_and_numbers_say_nothing() -> None:
    template = "Which of the following statements about the history and about the geography of {} is true?"
    names = ["Peru", "Chile", "Kenya", "Nepal", "Laos", "Fiji", "Malta", "Samoa", "Tonga", "Benin", "Togo"]
    items = [("countries", template.format(name)) for name in names] * 3
    text = template.format("Oz")
    assert Contamination.build(items, common=10).judge(text) == ""
    assert Contamination.build(items, common=11).judge(text) == "contains countries"
    # the same passage in one text after another is still one passage
    assert Contamination.build([("one", template)] * 20).judge(template) == "contains one"
    count = (
        "Count: "
        + " ".join(map(str, range(1, 21)))
        + ", and then say the word that your teacher said before all of this began."
    )
    counting = Contamination.build([("counting", count)])
    assert counting.judge("pages " + " ".join(map(str, range(1, 21)))) == ""
    assert counting.judge(count[60:]) == "contains counting"


def test_phrases_of_the_training_texts_can_be_left_out(index: Contamination) -> None:
    quoting = [f"{FILLER} Number {number}. {SHORT}" for number in range(11)]
    assert index.without_common(quoting[:10]).judge(SHORT) == "contains whales"
    less = index.without_common(iter(quoting))
    assert less.judge(SHORT) == ""
    assert less.judge(ENGLISH) == "contains ducks"


def test_the_order_of_items_does_not_matter(tmp_path: Path) -> None:
    items = [*ITEMS, ("another", ENGLISH), ("ducks", SHORT)]
    written = []
    for number in range(3):
        random.Random(number).shuffle(items)
        folder = tmp_path / str(number)
        Contamination.build(items).save(folder)
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert written[0] == written[1] == written[2]
    assert Contamination.load(tmp_path / "0").judge(ENGLISH) == "contains another"


def test_saved_and_loaded(index: Contamination, tmp_path: Path) -> None:
    index.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "contamination.json",
        "hashes.npy",
        "tasks.npy",
    ]
    loaded = Contamination.load(tmp_path)
    text = "".join(FILLER + question for _, question in ITEMS)
    assert loaded.find(text) == index.find(text)
    assert {hit.task for hit in loaded.find(text)} == {task for task, _ in ITEMS}


@pytest.mark.parametrize("name", ["contamination.json", "hashes.npy", "tasks.npy"])
def test_damaged_indexes_are_refused(index: Contamination, tmp_path: Path, name: str) -> None:
    index.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"[]", b"\x80\x04N."):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match="build it again"):
            Contamination.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match="build it again"):
        Contamination.load(tmp_path)


def test_hashes_out_of_order_are_refused(index: Contamination, tmp_path: Path) -> None:
    index.save(tmp_path)
    numpy.save(tmp_path / "hashes.npy", index.hashes[::-1])
    with pytest.raises(UserError, match="build it again"):
        Contamination.load(tmp_path)


def test_cut_as_gpt_3(index: Contamination) -> None:
    front, back = FILLER * 10, FILLER * 20
    text = front + ENGLISH + back
    assert index.cut(text) == [text[: len(front) - 200], text[len(front) + len(ENGLISH) - 1 + 200 :]]
    assert index.cut(text, around=0, shortest=1) == [front, "." + back]
    assert index.cut(FILLER * 2 + ENGLISH + FILLER * 2) == []
    assert index.cut(FILLER * 9) == [FILLER * 9]
    assert len(index.cut((FILLER * 10 + ENGLISH) * 9)) == 9
    assert index.cut((FILLER * 10 + ENGLISH) * 10 + FILLER * 10) == []  # eleven pieces


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UserError, match="shortest"):
        Contamination.build(ITEMS, words=7)
    with pytest.raises(UserError, match="no text of 8 words"):
        Contamination.build([("few", "only four words here")])


# --- against references -------------------------------------------------------------------------------------


def plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def by_brute_force(items: Sequence[str], text: str, words: int) -> bool:
    """Sets of tuples: no hashes, no blocks."""

    def runs(one: str) -> set[tuple[str, ...]]:
        found = plain_words(one)
        return {tuple(found[at : at + words]) for at in range(len(found) - words + 1)}

    return bool(runs(text) & set().union(*map(runs, items)))


FEW_WORDS = st.lists(st.sampled_from(["a", "B", "cc", "d,", "E.", "(f"]), max_size=40).map(" ".join)


@settings(max_examples=200)
@given(st.lists(FEW_WORDS, min_size=1, max_size=4), FEW_WORDS, st.integers(2, 6))
def test_the_same_as_sets_of_tuples(items: list[str], text: str, words: int) -> None:
    long_enough = [item for item in items if len(plain_words(item)) >= words]
    if long_enough:
        built = Contamination.build(
            [("x", item) for item in items], words=words, shortest=words, common=1 << 40
        )
        assert bool(built.judge(text)) == by_brute_force(items, text, words)
    else:
        with pytest.raises(UserError):
            Contamination.build([("x", item) for item in items], words=words, shortest=words)


@settings(max_examples=100)
@given(st.text(alphabet="ab 中文字", min_size=5, max_size=60), st.data())
def test_any_long_enough_part_is_found(text: str, data: st.DataObject) -> None:
    """Of mixed scripts: what begins and ends at units and weighs enough."""
    parts = re.findall(r"[ab]+|[中文字]", text)
    first = data.draw(st.integers(0, len(parts)))
    part = parts[first : data.draw(st.integers(first, len(parts)))]

    def weight(some: list[str]) -> int:
        return sum(5 if one[0] in "ab" else 4 for one in some)

    if weight(parts) >= 20:
        built = Contamination.build([("x", text)], words=4, characters=5, shortest=4)
        found = bool(built.judge(" | ".join(part)))
        if weight(part) >= 20:
            assert found
        else:
            assert not found


def test_the_same_decisions_as_datatrove(tmp_path: Path) -> None:
    """On English, 12 words; with white space between words, for want of the tokeniser that it loads."""
    module = pytest.importorskip("datatrove.pipeline.decont.n_grams")
    from datatrove.data import Document
    from datatrove.utils.hashing import HashConfig, create_hash_func
    from datatrove.utils.text import TextNormConfig

    config = module.NGramsDecontConfig(
        norm_config=TextNormConfig(norm_numbers=False), hash_config=HashConfig(hash_fc="sha1")
    )
    by_space = SimpleNamespace(word_tokenize=str.split)
    hashing = create_hash_func(config.hash_config)
    self = SimpleNamespace(config=config, tokenizer=by_space, hash_func=hashing)
    draw = random.Random(5)
    vocabulary = ["river", "stone", "Lamp,", "window;", "garden", "(table)", "night:", "winter's", "bread!"]
    vocabulary += ["mountain-top?", '"letter"', "of"]

    def sentence(length: int) -> list[str]:
        return [draw.choice(vocabulary) for _ in range(length)]

    questions = [sentence(draw.randint(6, 40)) for _ in range(200)]
    texts = []
    for _ in range(400):
        question = draw.choice(questions)
        start = draw.randrange(len(question))
        part = question[start : start + draw.randint(5, 20)]
        texts.append(" ".join([*sentence(30), *part, *sentence(30)]).replace(" of ", "\n OF "))
    hashes = {
        one
        for question in questions
        for one in module.NGramsDecontIndexer.compute_hashes(self, " ".join(question))
    }
    self._index_hashes = dict.fromkeys(hashes, "x")
    self.stat_update = lambda *_: None
    theirs = [
        module.NGramsDecontFilter.filter(self, Document(text=text, id="")) is not True for text in texts
    ]
    items = [("x", " ".join(question)) for question in questions]
    built = Contamination.build(items, words=12, shortest=12, common=1 << 40)
    assert [bool(built.judge(text)) for text in texts] == theirs
    assert 50 < sum(theirs) < 350


# --- files --------------------------------------------------------------------------------------------------

ROWS = [
    {"question": "q1", "answer": "a1", "choices": ["x", "y"], "id": "no"},
    {"answer": {"text": ["a2"]}, "n": 3},
]
TEXTS = ["q1", "a1", "x", "y", "a2"]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_evaluations_from_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"exam.test{ending}"
    lines = "\n\n".join(map(json.dumps, ROWS)).encode() + b"\n[1]\n"
    if ending == ".parquet":
        rows = [ROWS[0], {"question": None, "answer": "a2", "choices": None, "id": "no"}]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(lines) if ending.endswith("gz") else lines)
    assert list(read_items(path)) == [("exam", text) for text in TEXTS]
    assert list(read_items(path, ["id"], "other")) == [("other", "no")] * (2 if ending == ".parquet" else 1)
    with pytest.raises(UserError, match="none of the fields missing"):
        list(read_items(path, ["missing"]))


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "exam.txt"
    path.write_text("one\n二\n", encoding="utf-8")
    assert list(read_items(path)) == [("exam", "one"), ("exam", "二")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"{"),
        ("a.jsonl", b"[" * 100_000),
        ("a.jsonl.gz", b"\x1f\x8b no"),
        ("a.parquet", b"PAR1"),
        ("a.csv", b"x"),
    ],
)
def test_unreadable_evaluations(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        list(read_items(tmp_path / name))
    with pytest.raises(UserError):
        list(read_items(tmp_path / "missing.jsonl"))


def test_real_questions_among_real_pages() -> None:
    """All 1,319 questions of GSM8K, retyped, are found; in none of five novels is any."""
    folder = shared_data("gsm8k")
    questions = [text for _, text in read_items(folder / "test.jsonl.gz", ["question"])]
    index = Contamination.build(("gsm8k", question) for question in questions)
    novels = [
        gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        for file in sorted(shared_data("gutenberg-en").glob("*.txt.gz"))
    ]
    assert len(questions) == 1319 and len(novels) == 5
    assert [index.judge(novel) for novel in novels] == [""] * 5
    for at, question in enumerate(questions):
        retyped = re.sub(r"[,.?](?!\d)", "", question.upper()).replace(" ", "\n", 5)
        assert index.judge(novels[0][at * 50 : at * 50 + 300] + "\n" + retyped) == "contains gsm8k", question
