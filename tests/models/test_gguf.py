"""Models written as GGUF and read again: every family, every type, every way to stretch positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from sishu.console import UserError
from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.models.encoder import Encoder, EncoderConfig
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.reading import read_gguf_decoder, read_gguf_encoder, tokenizer_fields
from sishu.models.gguf.types import BY_NAME, TYPES, WRITTEN, decode, encode
from sishu.models.gguf.writing import write_gguf, write_gguf_encoder
from sishu.nn.rotary import RopeScaling

VOCABULARY = 300


def byte_vocabulary(size: int = VOCABULARY) -> dict[str, Any]:
    """The metadata of a byte-level BPE with one merge, as llama.cpp asks for it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    characters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    control = [f"<|{i}|>" for i in range(size - 257)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*characters, "th", *control],
        "tokenizer.ggml.token_type": [1] * 257 + [3] * len(control),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.padding_token_id": 259,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages }}",
    }


def plain_vocabulary(size: int) -> dict[str, Any]:
    """The same with tokens that are words, because llama.cpp's server holds back half characters."""
    return byte_vocabulary(size) | {"tokenizer.ggml.tokens": [f"w{i}" for i in range(size)]}


LLAMA = DecoderConfig(
    vocabulary=VOCABULARY,
    width=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=16,
    hidden=96,
    context_length=128,
    family="llama",
    qk_norm=False,
    tied=False,
)
QWEN3 = replace(LLAMA, family="qwen3", qk_norm=True, head_width=32, tied=True)
EXPERTS = Experts(count=4, chosen=2, hidden=32)
SHAPES = {
    "llama": LLAMA,
    "llama tied": replace(LLAMA, tied=True, heads=2, kv_heads=2, head_width=32),
    "llama with biases": replace(LLAMA, attention_bias=True, output_bias=True, mlp_bias=True),
    "mistral": replace(LLAMA, family="mistral", kv_heads=1),
    "mixtral": replace(LLAMA, family="mixtral", experts=EXPERTS, hidden=32),
    "qwen2": replace(LLAMA, family="qwen2", attention_bias=True),
    "qwen3": QWEN3,
    "qwen3_moe": replace(QWEN3, family="qwen3_moe", experts=EXPERTS, tied=False),
    "gpt2": replace(
        LLAMA,
        family="gpt2",
        kv_heads=4,
        norm="layer",
        norm_eps=1e-5,
        positions="learned",
        attention_bias=True,
        output_bias=True,
        gated=False,
        activation="gelu_tanh",
        mlp_bias=True,
        tied=True,
    ),
}


def random_weights(module: torch.nn.Module, seed: int = 0) -> None:
    """None of them zero, norms around one, so that every tensor that is misplaced shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            centre = 1.0 if weight.ndim == 1 else 0.0
            weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=generator))


def random_decoder(config: DecoderConfig) -> Decoder:
    decoder = Decoder(config)
    random_weights(decoder)
    return decoder.eval()


def written(config: DecoderConfig, folder: Path, kind: str = "F32") -> tuple[Decoder, GGUF]:
    decoder, path = random_decoder(config), folder / "tiny.gguf"
    write_gguf(decoder, byte_vocabulary(config.vocabulary), path, kind)
    return decoder, GGUF(path)


@pytest.mark.parametrize("name", SHAPES)
def test_every_family_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    decoder, file = written(SHAPES[name], tmp_path)
    again = read_gguf_decoder(file)
    family = "llama" if name == "mistral" else SHAPES[name].family  # the files tell no difference
    assert again.config == replace(SHAPES[name], family=family)
    for (key, a), (_, b) in zip(decoder.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
    ids = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(decoder(ids), again(ids))


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_type_is_written_as_llama_cpp_asks(tmp_path: Path, kind: str) -> None:
    decoder, file = written(SHAPES["mixtral"], tmp_path, kind)
    for name, stored in file.tensors.items():
        if len(stored.shape) == 1 or "ffn_gate_inp" in name:
            assert stored.kind.name == "F32", name
        elif name in ("token_embd.weight", "output.weight") and kind.startswith(("Q4", "Q5")):
            assert stored.kind.name == "Q8_0"
        else:
            assert stored.kind.name == kind, name
    again = read_gguf_decoder(file)
    plain = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8}
    bits = plain[kind] if kind in plain else 2.0 ** -(int(kind[1]) - 1)
    for (key, a), (_, b) in zip(decoder.state_dict().items(), again.state_dict().items(), strict=True):
        assert (a - b).abs().max() <= bits * a.abs().max(), key


def test_stored_types_can_be_kept(tmp_path: Path) -> None:
    _, file = written(LLAMA, tmp_path, "F16")
    kept = read_gguf_decoder(file, None)
    assert kept.blocks[0].attention.query.weight.dtype == torch.float16
    assert kept.norm.weight.dtype == torch.float32
    assert read_gguf_decoder(file, torch.bfloat16).norm.weight.dtype == torch.bfloat16


def test_rows_that_are_no_blocks_stay_in_half_precision(tmp_path: Path) -> None:
    _, file = written(replace(LLAMA, hidden=80), tmp_path, "Q4_0")
    kinds = {name: stored.kind.name for name, stored in file.tensors.items()}
    assert kinds["blk.0.ffn_up.weight"] == "Q4_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16"


SCALINGS = [
    RopeScaling("linear", 4.0, 128),
    RopeScaling("yarn", 4.0, 32),
    RopeScaling("yarn", 8.0, 64, attention_factor=1.5),
    RopeScaling("llama3", 8.0, 8192),
    RopeScaling("llama3", 32.0, 8192),
    RopeScaling("llama3", 4.0, 64),
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_stretched_positions_come_back(tmp_path: Path, scaling: RopeScaling) -> None:
    config = replace(LLAMA, rope_theta=500_000.0, head_width=64, rope_scaling=scaling)
    decoder, file = written(config, tmp_path)
    again = read_gguf_decoder(file)
    found = again.config.rope_scaling
    assert found is not None
    if scaling.attention_factor is not None:
        assert found.attention_factor == pytest.approx(scaling.attention_factor, rel=1e-6)
    assert replace(found, attention_factor=scaling.attention_factor) == scaling
    ids = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.allclose(decoder(ids), again(ids), atol=1e-4)


def test_a_larger_base_is_written_as_such(tmp_path: Path) -> None:
    decoder, file = written(replace(LLAMA, rope_scaling=RopeScaling("ntk", 4.0, 64)), tmp_path)
    again = read_gguf_decoder(file)
    assert again.config.rope_scaling is None
    ids = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.allclose(decoder(ids), again(ids), atol=1e-4)


def test_up_to_its_window_a_model_is_the_same_without(tmp_path: Path) -> None:
    decoder, file = written(replace(SHAPES["mistral"], window=24), tmp_path)
    again = read_gguf_decoder(file)
    assert again.config.context_length == 24
    ids = torch.arange(24)[None]
    with torch.no_grad():
        assert torch.allclose(decoder(ids), again(ids), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (replace(LLAMA, rope_scaling=RopeScaling("dynamic", 2.0, 128)), "dynamic"),
        (replace(LLAMA, rope_scaling=RopeScaling("yarn", 2.0, 64, truncate=False)), "yarn"),
        (replace(LLAMA, rope_scaling=RopeScaling("yarn", 2.0, 64, slow=2.0)), "yarn"),
        (replace(QWEN3, rope_scaling=RopeScaling("llama3", 8.0, 8192)), "llama3"),
        (replace(LLAMA, qk_norm=True), "normalised"),
        (replace(LLAMA, activation="gelu"), "gelu"),
        (replace(QWEN3, attention_bias=True), "biases"),
        (replace(SHAPES["qwen2"], output_bias=True), "biases"),
        (replace(SHAPES["gpt2"], activation="gelu"), "gelu"),
        (replace(SHAPES["qwen3_moe"], experts=replace(EXPERTS, normalised=False)), "shares"),
        (replace(SHAPES["qwen3_moe"], experts=replace(EXPERTS, layers=(0,))), "some blocks"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(tmp_path: Path, config: DecoderConfig, told: str) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(UserError, match=told):
        write_gguf(Decoder(config), byte_vocabulary(), path, "F16")
    with pytest.raises(UserError, match="Q4_0"):
        write_gguf(Decoder(LLAMA), byte_vocabulary(), path, "Q3")
    assert not any(tmp_path.iterdir())


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"an earlier one")
    decoder = Decoder(LLAMA)
    decoder.blocks[1].mlp.down.weight = torch.nn.Parameter(torch.empty(64, 96, device="meta"))
    with pytest.raises(Exception, match="meta"):
        write_gguf(decoder, byte_vocabulary(), path, "F16")
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"]
    assert path.read_bytes() == b"an earlier one"


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_encoders_come_back_without_their_heads(tmp_path: Path, family: str, kind: str) -> None:
    config = EncoderConfig(
        vocabulary=VOCABULARY,
        width=64,
        layers=2,
        heads=4,
        hidden=96,
        context_length=40,
        family=family,
        pad=1 if family == "roberta" else 0,
        first_position=2 if family == "roberta" else 0,
        masked_head=True,
    )
    encoder, path = Encoder(config).eval(), tmp_path / "tiny.gguf"
    random_weights(encoder)
    write_gguf_encoder(encoder, byte_vocabulary(), path, kind)
    again = read_gguf_encoder(GGUF(path))
    assert again.config.context_length == 40
    ids = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(encoder(ids), again(ids), atol=1e-5 if kind == "F32" else 0.15)
    with pytest.raises(UserError, match="bert"):
        read_gguf_decoder(GGUF(path))


def test_the_reference_reader_finds_what_was_written(tmp_path: Path) -> None:
    decoder, ours = written(QWEN3, tmp_path, "F16")
    theirs = gguf.GGUFReader(tmp_path / "tiny.gguf")
    for key, value in ours.fields.items():
        found = theirs.get_field(key).contents()
        if isinstance(value, np.ndarray):
            value = value.tolist()
        assert found == (pytest.approx(value) if isinstance(value, float) else value), key
    assert {t.name: tuple(t.shape.tolist())[::-1] for t in theirs.tensors} == {
        name: stored.shape for name, stored in ours.tensors.items()
    }
    table = next(t for t in theirs.tensors if t.name == "token_embd.weight")
    assert np.array_equal(table.data, decoder.embedding.weight.detach().half().numpy())


def test_the_tokenizer_is_written_and_read_as_it_is(tmp_path: Path) -> None:
    told = byte_vocabulary() | {
        "tokenizer.ggml.scores": [0.5, -1.5],
        "tokenizer.ggml.precompiled_charsmap": b"\0\1\2",
        "tokenizer.ggml.none": None,
        "tokenizer.ggml.empty": [],
    }
    write_gguf(random_decoder(LLAMA), told, tmp_path / "tiny.gguf", "F16")
    found = tokenizer_fields(GGUF(tmp_path / "tiny.gguf"))
    assert found == {key: value for key, value in told.items() if value not in (None, [])}


def test_sizes_of_types_are_those_of_the_reference() -> None:
    for kind in TYPES.values():
        reference = gguf.GGMLQuantizationType(kind.number)
        assert (reference.name, gguf.GGML_QUANT_SIZES[reference]) == (kind.name, (kind.block, kind.size))


@pytest.mark.parametrize("name", [name for name in BY_NAME if BY_NAME[name].block > 1])
def test_blocks_are_read_as_the_reference_reads_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, shape = BY_NAME[name], (6, 512)
    generator = np.random.default_rng(0)
    data = generator.integers(0, 100, kind.bytes_of(shape), dtype=np.uint8)
    rows = data.reshape(6, -1)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(kind.number))
    monkeypatch.setattr("sishu.models.gguf.types.PIECE", 5)  # which divides nothing here
    assert np.array_equal(decode(data, kind, shape).numpy(), expected, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in WRITTEN if BY_NAME[name].block > 1])
def test_blocks_are_written_as_the_reference_writes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(6, 512, generator=torch.Generator().manual_seed(0))
    kind = BY_NAME[name]
    expected = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType(kind.number))
    monkeypatch.setattr("sishu.models.gguf.types.PIECE", 5)
    assert np.array_equal(encode(weight, kind), expected.reshape(-1))
