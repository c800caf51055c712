"""Models as GGUF files, as llama.cpp reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sishu.console import UserError
from sishu.files import whole
from sishu.models.decoder import Decoder
from sishu.models.encoder import Encoder
from sishu.models.families.family import Rule
from sishu.models.gguf import bert
from sishu.models.gguf.architectures import BY_FAMILY
from sishu.models.gguf.fields_out import pack_field, pack_text
from sishu.models.gguf.header import ALIGNMENT, MAGIC
from sishu.models.gguf.reading import ROTARY_PAIRS
from sishu.models.gguf.rope import DIVISORS, interleaved
from sishu.models.gguf.types import BY_NAME, WRITTEN, StoredType, encode
from sishu.tokenizer.tokenizer import Tokenizer

VERSION, QUANTIZATION_VERSION = 3, 2
ALWAYS_F32 = ("position_embd.weight", "token_types.weight", "ffn_gate_inp.weight", DIVISORS)
"""Ends of the names of matrices that llama.cpp wants in float32, as it wants everything of one dimension."""
NEAREST = "gpt-4o"
"""The way to cut text into words, of those that llama.cpp knows by name, that is most like ours."""
TABLES = ("token_embd.weight", "output.weight")


def save_gguf(decoder: Decoder, tokenizer: Tokenizer, path: Path, kind: str = "F16") -> list[str]:
    """Write a model that llama.cpp runs, with its tokenizer and chat template, in one step; what a user
    should know of the outcome is returned.

    `kind` is one of `WRITTEN`. Raises UserError for a model that llama.cpp would not compute the same way,
    and for a foreign tokenizer that it does not have; for one of ours it gets the nearest that it has.
    """
    told = []
    try:
        fields = tokenizer.to_gguf(decoder.config.vocabulary)
    except UserError:
        if not tokenizer.own:
            raise
        fields = tokenizer.to_gguf(decoder.config.vocabulary, pre=NEAREST)
        told.append(
            "llama.cpp cuts text into words by rules of its own, of which none is this tokenizer's: some "
            "words get other tokens there than in training. `sishu serve` has no such difference."
        )
    write_gguf(decoder, fields, path, kind)
    return told


def write_gguf(decoder: Decoder, tokenizer: Mapping[str, Any], path: Path, kind: str) -> None:
    """The same with a tokenizer that is metadata already."""
    c = decoder.config
    architecture = BY_FAMILY.get(c.family)
    if architecture is None:
        raise UserError(f"GGUF has no architecture for {c.family} models: export it with --to hf.")
    about, divisors = architecture.write(c)
    extra = {} if divisors is None else {DIVISORS: divisors}
    weights = _Weights(decoder, architecture.rules(c), extra, kind)
    if architecture.interleaved:
        for name in weights.shapes:
            if name.endswith(ROTARY_PAIRS):
                weights.heads[name] = c.heads if ".attn_q." in name else c.kv_heads
    _write(path, architecture.name, about, tokenizer, weights, kind)


def write_gguf_encoder(encoder: Encoder, tokenizer: Mapping[str, Any], path: Path, kind: str) -> None:
    """An encoder without its head and without the layer over its first token, which such files lack."""
    c = encoder.config
    if c.activation != "gelu":
        raise UserError(f"llama.cpp computes no {c.family} with the activation {c.activation}.")
    weights = _Weights(encoder, bert.rules(c), {}, kind)
    # the first row that a token takes is the first of the file
    weights.cut["position_embd.weight"] = c.first_position
    weights.shapes["position_embd.weight"] = (c.context_length, c.width)
    fields = dict(tokenizer) | {"tokenizer.ggml.token_type_count": c.types}
    _write(path, bert.NAME, bert.write_shape(c), fields, weights, kind)


class _Weights:
    """The tensors of a file to be, made one at a time."""

    def __init__(self, module: nn.Module, rules: list[Rule], extra: dict[str, Tensor], kind: str) -> None:
        if kind not in WRITTEN:
            raise UserError(f"A GGUF file cannot be written as {kind!r}: give one of {', '.join(WRITTEN)}.")
        self.own, self.extra, self.kind = module.state_dict(), extra, kind
        shapes = {name: tuple(weight.shape) for name, weight in self.own.items()}
        self.rules = {name: rule for rule in rules for name in rule.theirs}
        self.shapes = {name: shape for rule in rules for name, shape in rule.shapes(shapes).items()}
        self.shapes |= {name: tuple(weight.shape) for name, weight in extra.items()}
        self.heads: dict[str, int] = {}
        self.cut: dict[str, int] = {}

    def stored_as(self, name: str) -> StoredType:
        """How a tensor is written: like the model, but for what llama.cpp wants in float32, and for rows
        that are no whole blocks, which stay in half precision. Tables of tokens keep 8 bits: they weigh
        much, read as they are and often as the head besides."""
        shape = self.shapes[name]
        if len(shape) == 1 or name.endswith(ALWAYS_F32):
            return BY_NAME["F32"]
        kind = BY_NAME["Q8_0" if name in TABLES and self.kind.startswith(("Q4", "Q5")) else self.kind]
        return kind if shape[-1] % kind.block == 0 else BY_NAME["F16"]

    def tensor(self, name: str) -> Tensor:
        """A tensor as it lies in the file."""
        if name in self.extra:
            return self.extra[name]
        weight = self.rules[name].to_theirs(self.own)[name]
        weight = weight[self.cut.get(name, 0) :]
        return interleaved(weight, self.heads[name]) if name in self.heads else weight


def _write(
    path: Path,
    architecture: str,
    about: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    weights: _Weights,
    kind: str,
) -> None:
    fields = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": WRITTEN[kind],
        "general.quantization_version": QUANTIZATION_VERSION,
        **{f"{architecture}.{key}": value for key, value in about.items()},
        # an empty list has no kind; what is None was never told
        **{key: value for key, value in tokenizer.items() if value is not None and value not in ([], ())},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        try:
            with temporary.open("wb") as file:
                for piece in _pieces(fields, weights):
                    file.write(piece)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _pieces(fields: Mapping[str, Any], weights: _Weights) -> Iterator[bytes | memoryview]:
    header = MAGIC + struct.pack("<IQQ", VERSION, len(weights.shapes), len(fields))
    header += b"".join(pack_field(key, value) for key, value in fields.items())
    offset = 0
    for name, shape in weights.shapes.items():
        stored = weights.stored_as(name)
        header += pack_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        header += struct.pack("<IQ", stored.number, offset)
        offset += _padded(stored.bytes_of(shape))
    yield header.ljust(_padded(len(header)), b"\0")
    for name, shape in weights.shapes.items():
        stored = weights.stored_as(name)
        data = encode(weights.tensor(name), stored)
        yield data.data
        yield bytes(_padded(stored.bytes_of(shape)) - len(data))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
