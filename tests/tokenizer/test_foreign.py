"""Tokenizers of every kind: read from their files, written for transformers, decoded and streamed whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sishu.console import UserError
from sishu.tokenizer import fast_path as quick
from sishu.tokenizer.patterns import QWEN2
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe
from tests.tokenizer import examples

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from("ab \n\r\t\u3000'1，。学🙂\u200d<|>sS/_"), max_size=40),
    st.lists(st.sampled_from([*examples.SPECIAL, "<|", "im_end", " "]), max_size=6).map("".join),
)
LOSSLESS = ("byte level", "tiktoken", "two files", "sentencepiece", "unigram", "pieces")
LOADED: dict[str, Tokenizer] = {}


@pytest.fixture(params=examples.ALL)
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    chosen: str = request.param
    if chosen not in LOADED:
        LOADED[chosen] = Tokenizer.load(examples.ALL[chosen](tmp_path_factory.mktemp("folder")))
    return chosen


def test_every_text_survives_and_is_streamed_whole(name: str) -> None:
    tokenizer = LOADED[name]

    @given(TEXT)
    @example("\ufeff\u0000\u200b\U0010ffff\uffff")
    @example("  two  spaces \n\n and 👩‍👩‍👧 e\u0301 12345")
    @settings(deadline=None, max_examples=150)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert not set(ids) & (set(tokenizer.special.values()) - {tokenizer.special.get("[UNK]", -1)})
        assert all(0 <= i < tokenizer.vocabulary_size for i in ids)
        shown = tokenizer.decode(ids)
        if name in LOSSLESS and "▁" not in text:
            assert shown == text
        stream = tokenizer.stream_decoder()
        parts = [stream.push(i) for i in ids]
        assert "".join(parts) + stream.finish() == shown
        assert "\ufffd" in text or not any("\ufffd" in part for part in parts)
        assert tokenizer.encode_batch([text, "x"])[0] == ids

    check()


def test_any_ids_stream_to_what_they_decode_to(name: str) -> None:
    tokenizer = LOADED[name]

    @given(st.lists(st.integers(-2, tokenizer.vocabulary_size + 2), max_size=30), st.booleans())
    @settings(deadline=None, max_examples=150)
    def check(ids: list[int], keep: bool) -> None:
        stream = type(tokenizer.stream_decoder())(tokenizer._spelling, keep)
        assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids, keep)

    check()


def test_transformers_reads_what_is_saved(name: str, tmp_path: Path) -> None:
    tokenizer = LOADED[name]
    tokenizer.save(tmp_path, context_length=99)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint() and theirs.model_max_length == 99
    assert (again.special, again.bos_id, again.end_id, again.pad, again.stop_ids) == (
        tokenizer.special, tokenizer.bos_id, tokenizer.end_id, tokenizer.pad, tokenizer.stop_ids
    )  # fmt: skip
    for text in (examples.TEXT, "", " a", "学 🙂", "the school of teachers"):
        ids = tokenizer.encode(text)
        assert ids == again.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert tokenizer.begin(ids) == again.begin(ids) == theirs.encode(text)
        assert tokenizer.decode(ids) == theirs.decode(ids)
        assert tokenizer.decode(tokenizer.begin(ids)) == theirs.decode(
            theirs.encode(text), skip_special_tokens=True
        )


def test_metadata_for_gguf_and_back(name: str) -> None:
    tokenizer = LOADED[name]
    again = Tokenizer.from_gguf(tokenizer.to_gguf())
    for text in (examples.TEXT, "", " a b", "学 🙂 12345", "<s></s><|im_end|>"):
        assert again.encode(text) == tokenizer.encode(text)
    assert again.begin([5]) == tokenizer.begin([5])
    assert again.chat_template == tokenizer.chat_template
    padded = tokenizer.to_gguf(tokenizer.vocabulary_size + 7)
    assert len(padded["tokenizer.ggml.tokens"]) == len(padded["tokenizer.ggml.token_type"]) == (
        tokenizer.vocabulary_size + 7
    )  # fmt: skip
    assert Tokenizer.from_gguf(padded).encode(examples.TEXT) == tokenizer.encode(examples.TEXT)


@pytest.mark.parametrize("unigram", [False, True])
def test_sentencepiece_gives_the_same_ids(tmp_path: Path, unigram: bool) -> None:
    folder = examples.sentencepiece_folder(tmp_path, unigram)
    ours = Tokenizer.load(folder)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
    @example(examples.TEXT)
    # where "<" is unknown, Unigram here takes a text that spells a byte's token for that token
    @example("<s> </s> <unk>" if unigram else "<s> </s> <unk> <0x41>")
    @settings(deadline=None, max_examples=200)
    def check(text: str) -> None:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))

    check()
    assert ours.begin([7]) == ([7, 2] if unigram else [1, 7])


def test_special_tokens_are_made_only_when_asked(name: str) -> None:
    tokenizer = LOADED[name]
    for token, index in tokenizer.special.items():
        if token not in ("[UNK]", "<unk>"):
            assert index not in tokenizer.encode(f"a {token} b")
        assert index in tokenizer.encode(f"a {token} b", special=True)


def test_half_a_pair_is_no_text(name: str) -> None:
    for text in ("\ud83d", "ab \udc00"):
        with pytest.raises(UserError, match="surrogate"):
            LOADED[name].encode(text)
        with pytest.raises(UserError, match="surrogate"):
            LOADED[name].encode_batch(["x", text])


@given(st.binary(max_size=30))
@settings(deadline=None)
def test_any_bytes_survive(tiny_tokenizer: Tokenizer, data: bytes) -> None:
    ids = tiny_tokenizer.encode_bytes(data)
    assert b"".join(map(tiny_tokenizer.bytes_of, ids)) == data


def test_where_there_is_nothing_to_begin_or_end_with(tmp_path: Path) -> None:
    words = Tokenizer.load(examples.words_folder(tmp_path))
    assert words.bos_id is None and words.end_id is None and words.pad == 0
    assert not words.stop_ids and words.adds_bos
    assert [words.token_of(i) for i in words.begin(words.encode("the SCHOOLs"))] == [
        "[CLS]", "the", "school", "##s", "[SEP]"
    ]  # fmt: skip
    with pytest.raises(UserError, match="bos_token"):
        _ = words.bos
    with pytest.raises(UserError, match="eos_token"):
        _ = words.end
    with pytest.raises(UserError, match="no chat template"):
        words.encode_conversation([{"role": "user", "content": "x"}])


def test_what_ends_an_answer(tmp_path: Path) -> None:
    folder = examples.byte_level_folder(tmp_path, examples.LLAMA3_CHAT)
    found = Tokenizer.load(folder)
    assert found.stop_ids == {found.end, found.special["<|eot_id|>"]}
    for said in (7, [7, 9]):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
        assert Tokenizer.load(folder).stop_ids == {found.end, *(said if isinstance(said, list) else [said])}


@pytest.mark.parametrize("named", [{}, {"tool_use": "<|im_start|>tools{{ tools[0].name }}"}])
def test_templates_of_their_own_files(tmp_path: Path, named: dict[str, str]) -> None:
    folder = examples.byte_level_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("<|im_start|>{{ messages[0].content }}!")
    if named:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(named["tool_use"])
    ours = Tokenizer.load(folder)
    asked = [{"role": "user", "content": "hi"}]
    for prompt in (ours, _saved(ours, tmp_path / "again")):
        assert prompt.decode(prompt.encode_conversation(asked, True).ids) == "hi!"
        told = prompt.encode_conversation(asked, True, tools=[{"name": "f"}]).ids
        assert prompt.decode(told) == ("toolsf" if named else "hi!")


def _saved(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    tokenizer.save(folder)
    return Tokenizer.load(folder)


@pytest.mark.parametrize("key", ["bos_token", "eos_token"])
def test_a_token_that_does_not_exist_is_named(tmp_path: Path, key: str) -> None:
    folder = examples.byte_level_folder(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {key: "<|nowhere|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="nowhere"):
        Tokenizer.load(folder)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_code_of_others_is_not_passed_on(tmp_path: Path) -> None:
    folder = examples.byte_level_folder(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    Tokenizer.load(folder).save(tmp_path / "saved")
    assert "evil" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()


def test_our_own_says_what_llama_cpp_cannot(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"llama\.cpp"):
        tiny_tokenizer.to_gguf()
    fields = tiny_tokenizer.to_gguf(pre="gpt-4o")
    again = Tokenizer.from_gguf(fields)
    assert again.special == tiny_tokenizer.special and again.begin([9]) == tiny_tokenizer.begin([9])
    trained = train_bpe([examples.TEXT] * 3, 330, pattern="qwen2")
    assert trained.to_gguf()["tokenizer.ggml.pre"] == "qwen2"


@pytest.mark.parametrize("pattern", ["nobody", "falcon"])
def test_patterns_to_train_with_are_single_ones(pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        train_bpe(["x"], 300, pattern=pattern)


def test_the_faster_trainer_learns_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        examples.TEXT,
        "这是一个测试，学生在学校里学习。" * 3,
        "def train(model, batch):\n    return 1\n" * 3,
    ]
    small = train_bpe(texts * 5, 420)
    monkeypatch.setattr("sishu.tokenizer.train.LARGE", 100)
    large = train_bpe(iter(texts * 5), 420)
    assert large.own and large.special == small.special and large.vocabulary_size == 420
    assert [large.token_of(i) for i in range(262)] == [small.token_of(i) for i in range(262)]
    counts = [sum(map(len, t.encode_batch(texts))) for t in (small, large)]
    assert abs(counts[1] / counts[0] - 1) < 0.02
    assert large.decode(large.encode(examples.TEXT)) == examples.TEXT


@pytest.mark.parametrize("kind", ["own", "byte level", "tiktoken", "two files"])
def test_the_fast_path_gives_the_same_ids(tmp_path: Path, tiny_tokenizer: Tokenizer, kind: str) -> None:
    tokenizer = tiny_tokenizer if kind == "own" else Tokenizer.load(examples.ALL[kind](tmp_path))
    path = quick.fast_path(tokenizer._fast)
    assert path is not None

    @given(TEXT)
    @example("don't I'LL ſ 'ſ \u212a  \n \r\n\n x 12345 <think> a")
    @settings(deadline=None, max_examples=300)
    def check(text: str) -> None:
        expected = tokenizer._fast.encode(text, add_special_tokens=False).ids
        found = path.encode(text)
        assert found == expected or (found is None and "<think>" in text)
        assert path.encode_batch([text])[0] == found

    check()


def _changed(data: dict[str, Any], change: str) -> None:
    model = data["model"]
    if change == "order":
        model["merges"].reverse()
    elif change == "unmade":
        model["merges"] = model["merges"][:-1]
    elif change == "pattern":
        data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w+|\W+"}
    elif change == "space":
        data["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    elif change == "braces":
        data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\p{N}{1,3}+|[^\p{N}]+"}
    else:
        data["normalizer"] = {"type": "Lowercase"}


@pytest.mark.parametrize("change", ["order", "unmade", "pattern", "space", "normalizer", "braces"])
def test_there_is_no_fast_path_where_ids_could_differ(tmp_path: Path, change: str) -> None:
    folder = examples.byte_level_folder(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert quick.fast_path(Tokenizer.load(folder)._fast) is not None
    _changed(data, change)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    assert quick.fast_path(Tokenizer.load(folder)._fast) is None


def test_much_text_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = examples.byte_level_folder(tmp_path)
    slow, fast = Tokenizer.load(folder), Tokenizer.load(folder)
    monkeypatch.setattr("sishu.tokenizer.tokenizer.WORTH_A_FAST_PATH", 0)
    texts = [examples.TEXT, "<think> <|im_end|>", "", "学"]
    found = fast.encode_batch(texts), [fast.encode(t) for t in texts]
    assert fast._fast_path is not None
    monkeypatch.setattr("sishu.tokenizer.tokenizer.WORTH_A_FAST_PATH", 1 << 60)
    assert found == (slow.encode_batch(texts), [slow.encode(t) for t in texts])
    assert slow._fast_path is None


def test_tiktoken_files_with_their_own_pattern(tmp_path: Path) -> None:
    folder = examples.tiktoken_folder(tmp_path)
    special = {"<|a|>": 1000, "<|b|>": 5000}
    ours = Tokenizer.from_tiktoken(folder / "qwen.tiktoken", QWEN2, special)
    assert ours.special == special and ours.vocabulary_size == 5001
    assert ours.encode("x<|b|>", special=True)[-1] == 5000
    with pytest.raises(UserError, match="ids"):
        Tokenizer.from_tiktoken(folder / "qwen.tiktoken", QWEN2, {"<|a|>": 3})
