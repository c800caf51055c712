"""Models in the form of llama2.c (Karpathy 2023, https://github.com/karpathy/llama2.c, version 0): a header
of seven numbers, all weights in float32 one after another; and the vocabulary beside it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sishu.console import UserError
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.gguf.rope import half_split
from sishu.tokenizer.tokenizer import Tokenizer

HEADER = struct.Struct("<7i")
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Kinds of tokens, as GGUF numbers them."""


def load_llama2c(weights: Path, vocabulary: Path) -> tuple[Decoder, Tokenizer]:
    """A model (`stories260K.bin`) and its tokenizer (`tok512.bin`); raises UserError for a file that is
    something else or cut."""
    decoder = read_llama2c(weights)
    return decoder, read_llama2c_tokenizer(vocabulary, decoder.config.vocabulary)


def read_llama2c(path: Path) -> Decoder:
    """A model without its tokenizer."""
    try:
        data = np.memmap(path, np.uint8, "r")
        width, hidden, layers, heads, kv_heads, vocabulary, context = HEADER.unpack(
            data[: HEADER.size].tobytes()
        )
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"{path} is no model of llama2.c: {error}.") from error
    try:
        if width % max(heads, 1):
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        config = DecoderConfig(
            vocabulary=abs(vocabulary),
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_width=width // heads if heads > 0 else 0,
            hidden=hidden,
            context_length=context,
            norm_eps=1e-5,
            tied=vocabulary > 0,  # the sign tells it
            family="llama",
            qk_norm=False,
        )
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path} is no model of llama2.c: {error}.") from error
    tables = context * config.head_width  # sines and cosines, which are computed here
    if data.size != HEADER.size + 4 * (config.parameters() + tables):
        raise UserError(f"{path} is no model of llama2.c, or cut: its size is not what its header tells.")
    decoder = _decoder(config, torch.from_numpy(np.array(data[HEADER.size :])).view(torch.float32))
    return decoder


def _decoder(c: DecoderConfig, floats: Tensor) -> Decoder:
    at = 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return floats[at - size : at].view(shape)

    queries, keys = c.width, c.kv_heads * c.head_width
    ours = {"embedding.weight": take(c.vocabulary, c.width)}
    order = {
        "attention_norm": (c.width,),
        "attention.query": (queries, c.width),
        "attention.key": (keys, c.width),
        "attention.value": (keys, c.width),
        "attention.output": (c.width, queries),
        "mlp_norm": (c.width,),
        "mlp.gate": (c.hidden, c.width),
        "mlp.down": (c.width, c.hidden),
        "mlp.up": (c.hidden, c.width),
    }
    for name, shape in order.items():
        for i, weight in enumerate(take(c.layers, *shape)):
            if name in ("attention.query", "attention.key"):
                weight = half_split(weight, c.heads if name.endswith("query") else c.kv_heads)
            ours[f"blocks.{i}.{name}.weight"] = weight
    ours["norm.weight"] = take(c.width)
    take(c.context_length * c.head_width)
    if not c.tied:
        ours["head.weight"] = take(c.vocabulary, c.width)
    with torch.device("meta"):
        decoder = Decoder(c)
    decoder.load_state_dict({name: weight.clone() for name, weight in ours.items()}, assign=True)
    return decoder


def read_llama2c_tokenizer(path: Path, size: int) -> Tokenizer:
    """The vocabulary of `size` pieces with their scores, which is SentencePiece's with spaces for ▁."""
    tokens: list[str] = []
    scores: list[float] = []
    try:
        data, at = path.read_bytes(), 4
        for _ in range(size):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            if not 0 <= length <= len(data) - at:
                raise ValueError(f"a token of {length:,} bytes with {len(data) - at:,} left")
            tokens.append(data[at : at + length].decode().replace(" ", "▁"))
            scores.append(score)
            at += length
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"{path} is no vocabulary of llama2.c with {size:,} tokens: {error}.") from error
    tokens[:3] = "<unk>", "<s>", "</s>"  # the file has line breaks around the two
    kinds = [UNKNOWN, CONTROL, CONTROL] + [
        BYTE if len(token) == 6 and token.startswith("<0x") else NORMAL for token in tokens[3:]
    ]
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return Tokenizer.from_gguf(fields)
