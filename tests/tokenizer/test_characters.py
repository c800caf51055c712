"""A vocabulary of characters, beside the library that others read it with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sishu.console import UserError
from sishu.tokenizer.characters import character_tokenizer
from sishu.tokenizer.tokenizer import Tokenizer

LEARNT = "To be, or not to be: 生存还是毁灭，é 😀\r\n\t"
TOKENIZER = character_tokenizer([LEARNT, "生存"])


@given(st.text(st.sampled_from(LEARNT + "abcXYZ \n")))
@settings(deadline=None)
def test_known_characters_are_one_token_each(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text) and TOKENIZER.decode(ids) == text


@given(st.text())
@settings(deadline=None)
def test_any_text_comes_back_and_no_token_reaches_beyond_a_character(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert ids == [i for character in text for i in TOKENIZER.encode(character)]
    assert all(len(TOKENIZER.encode(c)) == 1 for c in text if c in LEARNT or c.isascii())


def test_transformers_reads_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (LEARNT, "未见之字 ☃", "a" * 100, "<|bos|>"):
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids == TOKENIZER.encode(text)


def test_a_long_text_goes_the_fast_way_to_the_same_ids() -> None:
    tokenizer = character_tokenizer(["生存还是毁灭，"])
    text = "生存还是毁灭，这是一个问题。\n" * 100
    before = tokenizer.encode(text)
    many = tokenizer.encode_batch([text] * 800)  # long enough that the fast way is made ready
    assert tokenizer._fast_path is not None and all(ids == before for ids in many)


def test_llama_cpp_gets_the_same_however_it_cuts_text() -> None:
    """A GGUF file names a way to cut text into words; with any of them the ids stay."""
    fields = TOKENIZER.to_gguf()
    for way in ("qwen2", "gpt-4o", "llama-bpe"):
        theirs = Tokenizer.from_gguf(fields | {"tokenizer.ggml.pre": way})
        for text in (LEARNT, "未见之字 ☃ it's 12345\n\n  x"):
            assert theirs.encode(text) == TOKENIZER.encode(text)


def test_the_most_frequent_ones_stay_where_there_is_room_for_few() -> None:
    tokenizer = character_tokenizer(["一一一二二三é", "二二"], 262 + 4)
    assert tokenizer.vocabulary_size == 266  # 一 and 三 share their first two bytes
    assert [len(tokenizer.encode(c)) for c in "一二三é"] == [1, 1, 2, 2]
    with pytest.raises(UserError, match="at least 262"):
        character_tokenizer(["abc"], 261)
