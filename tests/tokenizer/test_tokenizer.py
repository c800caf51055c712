"""Text and ids: nothing is lost, nothing is smuggled in, and training twice gives the same bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sishu.console import UserError
from sishu.tokenizer.chat import SPECIAL_TOKENS
from sishu.tokenizer.tokenizer import Tokenizer, byte_level
from sishu.tokenizer.train import SMALLEST, train_bpe

CORPUS = [
    "def read(path):\n    return path.read_text()\n" * 3,
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？" * 3,
    "The quick brown fox — naïve café; 3.14159 and 2,048 tokens.\r\n\tTabs   and spaces  \n\n" * 3,
    "🙂👩‍👩‍👧🇨🇳 مرحبا हिन्दी ไทย 한국어" * 3,
]
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ANY_TEXT = st.one_of(
    UNICODE,
    st.text(st.sampled_from("ab \n\r\t\u3000\u00a0'12，。学🙂\u200d<|>{}()"), max_size=60),
    st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "end", " "]), max_size=10).map("".join),
)


@given(ANY_TEXT)
@example("\ufeff\u0000\u200b\U0010ffff\uffff")
@example("👩‍👩‍👧 e\u0301 \u2028\u0085\x0b\x1c")
@example("def f(x):\r\n\treturn {'a': 1}  \n\n\n   # 注释\n")
@settings(deadline=None)
def test_every_text_survives(tiny_tokenizer: Tokenizer, text: str) -> None:
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert not set(ids) & set(tiny_tokenizer.special.values())
    assert all(0 <= i < tiny_tokenizer.vocabulary_size for i in ids)
    assert b"".join(map(tiny_tokenizer.bytes_of, ids)) == text.encode()
    assert tiny_tokenizer.encode_batch([text, "x"])[0] == ids


@given(st.lists(st.integers(-2, 330), max_size=60))
@settings(deadline=None)
def test_streaming_equals_decoding_at_once(tiny_tokenizer: Tokenizer, ids: list[int]) -> None:
    decoder = tiny_tokenizer.stream_decoder()
    assert "".join(map(decoder.push, ids)) + decoder.finish() == tiny_tokenizer.decode(ids)


@given(UNICODE.filter(lambda text: "\ufffd" not in text))
@settings(deadline=None)
def test_valid_text_is_streamed_whole(tiny_tokenizer: Tokenizer, text: str) -> None:
    """A character that takes several tokens comes when it is complete, never as U+FFFD; what has come is
    always the longest whole part of the text."""
    decoder, shown, sent = tiny_tokenizer.stream_decoder(), "", b""
    for index in tiny_tokenizer.encode(text):
        shown += decoder.push(index)
        sent += tiny_tokenizer.bytes_of(index)
        assert shown == sent.decode("utf-8", "ignore")
    assert shown == text and decoder.finish() == ""


def test_half_a_character_at_the_end_is_shown_as_broken(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("🦉")
    assert len(ids) > 1
    decoder = tiny_tokenizer.stream_decoder()
    assert "".join(map(decoder.push, ids[:-1])) == "" and decoder.finish() == "\ufffd"


def test_decoding_leaves_special_tokens_out(tiny_tokenizer: Tokenizer) -> None:
    t = tiny_tokenizer
    assert t.decode([t.bos, *t.encode("hi"), t.end, t.pad, 10**6, -1]) == "hi"


@pytest.mark.parametrize("vocabulary", [300, 450])
def test_training_twice_gives_the_same_bytes(tmp_path: Path, vocabulary: int) -> None:
    rng = random.Random(0)
    texts = [
        "".join(rng.choice("abcde 学习而时之\n") for _ in range(200)) for _ in range(30)
    ]  # many equally frequent pairs, so that ties must be broken
    for name in ("one", "two"):
        train_bpe(iter(texts), vocabulary).save(tmp_path / name)
    one, two = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_vocabulary_has_a_floor_and_a_ceiling() -> None:
    with pytest.raises(UserError, match=str(SMALLEST)):
        train_bpe(CORPUS, SMALLEST - 1)
    smallest = train_bpe(CORPUS, SMALLEST)
    assert smallest.vocabulary_size == SMALLEST
    assert len(smallest.encode("学")) == 3  # bytes only
    assert train_bpe(CORPUS, 400).vocabulary_size == 400
    assert train_bpe(["abab"], 5000).vocabulary_size < 300  # no pair is left that occurs twice
    assert train_bpe([], 300).vocabulary_size == SMALLEST


def test_merges_shorten_the_text_they_were_learnt_from() -> None:
    smallest, larger = train_bpe(CORPUS, SMALLEST), train_bpe(CORPUS, 500)
    for text in CORPUS:
        assert len(larger.encode(text)) < 0.6 * len(smallest.encode(text))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    trained = train_bpe(CORPUS, 400)
    trained.save(tmp_path, context_length=77)
    loaded, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.special == trained.special and theirs.model_max_length == 77
    for text in [*CORPUS, "<|end|>"]:
        assert loaded.encode(text) == trained.encode(text)
    for text in CORPUS:
        assert theirs.encode(text) == trained.encode(text)
        assert theirs.decode(trained.encode(text)) == text


@pytest.mark.parametrize("damage", ["missing", "cut", "not json", "special"])
def test_a_broken_folder_is_named(tmp_path: Path, damage: str) -> None:
    train_bpe(CORPUS, 300).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "not json":
        path.write_bytes(b"\xff\xfe")
    else:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "<|end|>"]
        del data["model"]["vocab"]["<|end|>"]
        path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError):
        Tokenizer.load(tmp_path)


def test_words_are_cut_where_a_capital_begins_another() -> None:
    def cut(text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in byte_level().pre_tokenize_str(text)]

    assert cut("`json.HTTPError`: Handle an error.") == [
        *("`", "json", ".", "HTTP", "Error", "`:", " Handle", " an", " error", ".")
    ]
    assert cut("socket.SO_KEEPALIVE2") == ["socket", ".", "SO", "_", "KEEPALIVE", "2"]
    assert cut("getURL isX") == ["get", "URL", " is", "X"]
    assert cut("中文分词Éé E\u0301t") == ["中文分词", "Éé", " E\u0301t"]
