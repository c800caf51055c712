"""Models from folders and from GGUF files, by one function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.models.gguf.writing import save_gguf, write_gguf
from sishu.models.open import open_config, open_decoder
from sishu.tokenizer.tokenizer import Tokenizer
from tests.models.test_gguf import byte_vocabulary

TEXT = "The school opens at eight: 私塾 🙂\n  json.dumps(1234)"


def test_a_folder_and_a_file_are_the_same_model(
    tmp_path: Path, tiny_model_folder: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    file = tmp_path / "one" / "tiny.gguf"
    save_gguf(tiny_decoder, tiny_tokenizer, file, "F32")
    ids = torch.arange(50)[None]
    for path in (tiny_model_folder, file, file.parent):
        decoder, tokenizer = open_decoder(path)
        with torch.no_grad():
            assert torch.equal(decoder(ids), tiny_decoder(ids))
        assert tokenizer.bos_id == tiny_tokenizer.bos_id
        assert tokenizer.decode(tiny_tokenizer.encode(TEXT)) == TEXT
        assert open_config(path) == decoder.config, "the shape is told without the weights"


def test_our_conversations_are_the_same_out_of_a_file(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    """All but how words are cut, which a GGUF file cannot hold."""
    file = tmp_path / "tiny.gguf"
    told = save_gguf(tiny_decoder, tiny_tokenizer, file, "F32")
    assert "other tokens" in told[0]
    _, tokenizer = open_decoder(file)
    messages = [{"role": "user", "content": "eight"}, {"role": "assistant", "content": "school"}]
    ids = tokenizer.encode_conversation(messages, True).ids
    assert ids == tiny_tokenizer.encode_conversation(messages, True).ids


def test_what_is_no_model_is_told(tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no model"):
        open_decoder(tmp_path)
    with pytest.raises(UserError, match="no model"):
        open_decoder(tmp_path / "nothing")
    with pytest.raises(UserError, match="no model"):
        open_config(tmp_path / "nothing")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(UserError, match="no GGUF file"):
        open_decoder(tmp_path / "note.txt")
    for name in ("a.gguf", "b.gguf"):
        save_gguf(tiny_decoder, tiny_tokenizer, tmp_path / name)
    with pytest.raises(UserError, match=r"several models: give one of a\.gguf, b\.gguf"):
        open_decoder(tmp_path)


def test_a_file_with_more_tokens_than_rows_is_told(tmp_path: Path, tiny_decoder: Decoder) -> None:
    write_gguf(tiny_decoder, byte_vocabulary(330), tmp_path / "tiny.gguf", "F16")
    with pytest.raises(UserError, match="330 tokens, but its model 320"):
        open_decoder(tmp_path)
