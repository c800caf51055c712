"""Models out of GGUF files, every tensor accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.models.decoder_config import DecoderConfig
from sishu.models.encoder import Encoder
from sishu.models.families.family import Rule
from sishu.models.gguf import bert
from sishu.models.gguf.architectures import ARCHITECTURES, Architecture
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.metadata import Metadata
from sishu.models.gguf.rope import DIVISORS, half_split
from sishu.tokenizer.tokenizer import Tokenizer

Made = TypeVar("Made", Decoder, Encoder)

ROTARY_PAIRS = (".attn_q.weight", ".attn_k.weight", ".attn_q.bias", ".attn_k.bias")
"""Ends of the names of tensors whose rows the llama architecture lays pair by pair."""


def load_gguf(path: Path, dtype: torch.dtype | None = torch.float32) -> tuple[Decoder, Tokenizer]:
    """A causal model and its tokenizer; raises UserError naming what is missing or does not fit."""
    file = GGUF(path)
    tokenizer = read_gguf_tokenizer(file)
    decoder = read_gguf_decoder(file, dtype)
    if tokenizer.vocabulary_size > decoder.config.vocabulary:
        raise UserError(
            f"{path} has {tokenizer.vocabulary_size:,} tokens, but its model {decoder.config.vocabulary:,}: "
            "they are not of one model; get the file again."
        )
    return decoder, tokenizer


def read_gguf_tokenizer(file: GGUF) -> Tokenizer:
    """The tokenizer of a file; raises UserError where it has none or one that is not read here."""
    return Tokenizer.from_gguf(tokenizer_fields(file))


def tokenizer_fields(file: GGUF) -> dict[str, Any]:
    """What a file says of its tokenizer, by key: arrays as lists, but arrays of bytes as bytes."""
    return {key: _plain(value) for key, value in file.fields.items() if key.startswith("tokenizer.")}


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return value.tobytes() if value.dtype.itemsize == 1 and value.dtype != np.bool_ else value.tolist()


def read_gguf_decoder(file: GGUF, dtype: torch.dtype | None = torch.float32) -> Decoder:
    """A causal model without its tokenizer, its weights as `dtype`; None keeps plain types as they are
    stored and makes float32 of blocks."""
    architecture, config = _shape(file)
    decoder = _empty(file, lambda: Decoder(config))

    def read(name: str) -> Tensor:
        weight = file.read(name)
        if architecture.interleaved and name.endswith(ROTARY_PAIRS):
            heads = config.heads if ".attn_q." in name else config.kv_heads
            weight = half_split(weight, heads)
        return weight

    _fill(decoder, file, architecture.rules(config), read, dtype)
    return decoder


def read_gguf_config(file: GGUF) -> DecoderConfig:
    """The shape of a causal model, no weight being read."""
    return _shape(file)[1]


def _shape(file: GGUF) -> tuple[Architecture, DecoderConfig]:
    """What a file's model is of, and its shape; raises UserError where it is none that is read here."""
    about = _about(file)
    architecture = ARCHITECTURES.get(about.architecture)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(
            f"{file.path} holds a model of the architecture {about.architecture!r}; language models that are "
            f"read from GGUF here are of {known}."
        )
    divisors = file.read(DIVISORS) if DIVISORS in file.tensors else None
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    try:
        config = architecture.read(about, shapes, divisors)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{file.path} is not a usable model: {error}.") from error
    if config.experts and config.experts.count > max(shape[0] for shape in shapes.values()):
        raise about.wrong("expert_count", config.experts.count, "how many experts there are tensors of")
    return architecture, config


def read_gguf_encoder(file: GGUF, dtype: torch.dtype | None = torch.float32) -> Encoder:
    """An encoder, which such files hold without a head."""
    about = _about(file)
    if about.architecture != bert.NAME:
        raise UserError(f"{file.path} holds no encoder but a model of {about.architecture!r}.")
    shapes = {name: stored.shape for name, stored in file.tensors.items()}
    try:
        config = bert.read_shape(about, shapes)
    except ValueError as error:
        raise UserError(f"{file.path} is not a usable encoder: {error}.") from error
    encoder = _empty(file, lambda: Encoder(config))
    _fill(encoder, file, bert.rules(config), file.read, dtype)
    return encoder


def _about(file: GGUF) -> Metadata:
    parts = file.fields.get("split.count", 1)
    if parts not in (0, 1):
        raise UserError(
            f"{file.path} is one of {parts} parts of a model: join them with `llama-gguf-split --merge`."
        )
    return Metadata(file.path, file.fields)


def _empty(file: GGUF, make: Callable[[], Made]) -> Made:
    """A module without memory for its weights."""
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, ArithmeticError) as error:  # sizes whose product no computer can count
        raise UserError(f"{file.path} tells of a model that cannot be: {error!s:.80}.") from error


def _fill(
    module: nn.Module,
    file: GGUF,
    rules: list[Rule],
    read: Callable[[str], Tensor],
    dtype: torch.dtype | None,
) -> None:
    """Give a module on the meta device the weights of a file, one tensor after another; all names and
    shapes are looked at before the first is read."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wanted = {name: shape for rule in rules for name, shape in rule.shapes(shapes).items()}
    for name, shape in wanted.items():
        if name not in file.tensors:
            raise UserError(f"{file.path} lacks the tensor {name!r}: get the file again.")
        if (found := file.tensors[name].shape) != shape:
            raise UserError(
                f"{name!r} in {file.path} has shape {list(found)}, but its metadata asks for {list(shape)}."
            )
    unknown = sorted(file.tensors.keys() - wanted.keys() - {DIVISORS})
    if unknown:
        raise UserError(f"{file.path} has an unknown tensor, {unknown[0]!r}.")
    ours: dict[str, Tensor] = {}
    for rule in rules:
        parts = rule.to_ours(
            {name: read(name) for name in rule.theirs}, [shapes[name][0] for name in rule.ours]
        )
        ours |= {name: part.to(dtype or part.dtype).contiguous() for name, part in parts.items()}
    module.load_state_dict(ours, assign=True)
