"""Models of llama2.c: the story that is known of the smallest one, and files that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.models.folder import write_model
from sishu.models.gguf.rope import interleaved
from sishu.models.llama2c import load_llama2c, read_llama2c, read_llama2c_tokenizer
from tests.models.test_gguf import LLAMA, random_decoder
from tests.shared_data import shared_data

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
    "she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, \"I "
    "want to play with your ball, but I can't find it.\"\n"
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\n"
    "Lily didn't want to help her mom, so she"
)
"""What llama2.c's own test expects of 200 steps at temperature 0, from the beginning of a text."""


def test_the_smallest_model_tells_its_story(tmp_path: Path) -> None:
    folder = shared_data("stories260K")
    decoder, tokenizer = load_llama2c(folder / "stories260K.bin", folder / "tok512.bin")
    write_model(decoder, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = theirs.generate(torch.tensor([[1]]), max_new_tokens=200, do_sample=False, pad_token_id=0)[0]
    assert tokenizer.decode(ids[1:].tolist()) == STORY
    with torch.no_grad():
        ours = decoder.eval()(ids[None, :-1])[0]
    assert torch.equal(ours.argmax(-1), ids[1:])
    assert tokenizer.encode("Once upon a time")[:4] == ids[1:5].tolist()


def as_llama2c(decoder: Decoder) -> bytes:
    """The bytes that llama2.c's own export would write."""
    c, own = decoder.config, decoder.state_dict()
    vocabulary = c.vocabulary if c.tied else -c.vocabulary
    header = struct.pack(
        "<7i", c.width, c.hidden, c.layers, c.heads, c.kv_heads, vocabulary, c.context_length
    )
    names = ["attention_norm", "attention.query", "attention.key", "attention.value", "attention.output"]
    names += ["mlp_norm", "mlp.gate", "mlp.down", "mlp.up"]
    tensors = [own["embedding.weight"]]
    for name in names:
        for i in range(c.layers):
            weight = own[f"blocks.{i}.{name}.weight"]
            heads = {"attention.query": c.heads, "attention.key": c.kv_heads}.get(name)
            tensors.append(interleaved(weight, heads) if heads else weight)
    tensors += [own["norm.weight"], torch.zeros(c.context_length * c.head_width)]
    tensors += [] if c.tied else [own["head.weight"]]
    return header + torch.cat([tensor.flatten() for tensor in tensors]).numpy().tobytes()


def test_an_untied_model_comes_back(tmp_path: Path) -> None:
    decoder = random_decoder(LLAMA)
    path = tmp_path / "model.bin"
    path.write_bytes(as_llama2c(decoder))
    again = read_llama2c(path)
    for (name, a), (_, b) in zip(decoder.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("change", ["cut", "empty", "negative", "huge", "no heads"])
def test_another_file_is_told(tmp_path: Path, change: str) -> None:
    sound = as_llama2c(random_decoder(LLAMA))
    changed = {
        "cut": sound[:-4],
        "empty": b"",
        "negative": struct.pack("<i", -64) + sound[4:],
        "huge": struct.pack("<i", 2**30) + sound[4:],
        "no heads": sound[:12] + struct.pack("<i", 0) + sound[16:],
    }
    path = tmp_path / "model.bin"
    path.write_bytes(changed[change])
    with pytest.raises(UserError, match=r"model\.bin is no model of llama2\.c"):
        read_llama2c(path)


def test_another_vocabulary_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tok.bin"
    for data in (b"", struct.pack("<ifi", 7, 0.0, 2**30), struct.pack("<ifi", 7, 0.0, 1) + b"\xff"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="no vocabulary"):
            read_llama2c_tokenizer(path, 300)
