"""The Qwen3 family (Qwen Team 2025, arXiv:2505.09388): the default shape for models trained from scratch."""

from __future__ import annotations

from typing import Any

from sishu.models.decoder import DecoderConfig

MODEL_TYPE = "qwen3"
CAUSAL, SEQUENCE = "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"

BLOCK_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}


def weight_names(config: DecoderConfig) -> dict[str, str]:
    """Our decoder's parameter names -> the names in a published file."""
    names = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    if not config.tied:
        names["head.weight"] = "lm_head.weight"
    for i in range(config.layers):
        for ours, theirs in BLOCK_NAMES.items():
            names[f"blocks.{i}.{ours}"] = f"model.layers.{i}.{theirs}"
    return names


def to_published(config: DecoderConfig) -> dict[str, Any]:
    """Our shape as the fields of a published `config.json`."""
    return {
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "initializer_range": 0.02,
    }


def from_published(fields: dict[str, Any]) -> DecoderConfig:
    """A published `config.json` as our shape; raises KeyError naming a field that is missing."""
    rope = fields.get("rope_parameters") or {}
    return DecoderConfig(
        vocabulary=fields["vocab_size"],
        width=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        kv_heads=fields["num_key_value_heads"],
        head_width=fields["head_dim"],
        hidden=fields["intermediate_size"],
        context_length=fields["max_position_embeddings"],
        rope_theta=rope.get("rope_theta", fields.get("rope_theta", 10_000.0)),
        norm_eps=fields["rms_norm_eps"],
        tied=fields["tie_word_embeddings"],
    )
