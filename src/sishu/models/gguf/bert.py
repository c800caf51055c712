"""Encoders in GGUF files: the architecture `bert`, which RoBERTa is written as, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sishu.console import UserError
from sishu.models.encoder import EncoderConfig
from sishu.models.families.family import Rule, same
from sishu.models.gguf.metadata import Metadata

NAME = "bert"
EMBEDDINGS = {
    "embedding.weight": "token_embd.weight",
    "position_embedding.weight": "position_embd.weight",
    "type_embedding.weight": "token_types.weight",
    "embedding_norm.weight": "token_embd_norm.weight",
    "embedding_norm.bias": "token_embd_norm.bias",
}
BLOCK = {
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention_norm": "attn_output_norm",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "mlp_norm": "layer_output_norm",
}


def rules(c: EncoderConfig) -> list[Rule]:
    """All weights that such files hold: no layer over the first token, no head for masked tokens."""
    names = {f"{a}.{part}": f"{b}.{part}" for a, b in BLOCK.items() for part in ("weight", "bias")}
    blocks = [rule for i in range(c.layers) for rule in same(names, f"blocks.{i}.", f"blk.{i}.")]
    return same(EMBEDDINGS) + blocks


def read_shape(about: Metadata, shapes: Mapping[str, tuple[int, ...]]) -> EncoderConfig:
    """The shape a file describes; raises UserError."""
    for table in list(EMBEDDINGS.values())[:3]:
        if table not in shapes:
            raise UserError(f"{about.path} has no {table}: it holds no whole encoder.")
    layers = about.whole("block_count")
    if layers > len(shapes):
        raise about.wrong("block_count", layers, f"less than the number of tensors, {len(shapes):,}")
    pad = about.fields.get("tokenizer.ggml.padding_token_id", 0)
    return EncoderConfig(
        vocabulary=shapes["token_embd.weight"][0],
        width=about.whole("embedding_length"),
        layers=layers,
        heads=about.whole("attention.head_count"),
        hidden=about.whole("feed_forward_length"),
        context_length=shapes["position_embd.weight"][0],
        types=shapes["token_types.weight"][0],
        norm_eps=about.number("attention.layer_norm_epsilon"),
        pad=pad if type(pad) is int else 0,
        pooled=False,
    )


def write_shape(c: EncoderConfig) -> dict[str, Any]:
    """The metadata of a shape, without the architecture's name."""
    return {
        "vocab_size": c.vocabulary,
        "context_length": c.context_length,
        "embedding_length": c.width,
        "block_count": c.layers,
        "feed_forward_length": c.hidden,
        "attention.head_count": c.heads,
        "attention.layer_norm_epsilon": c.norm_eps,
        "attention.causal": False,
    }
