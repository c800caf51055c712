"""The Qwen3 family (Qwen Team 2025, arXiv:2505.09388): normalised queries and keys; the default shape for
models trained from scratch. Its mixtures of experts are of the same family."""

from __future__ import annotations

from functools import partial
from typing import Any

from sishu.models.decoder import DecoderConfig, Experts
from sishu.models.families import llama
from sishu.models.families.family import Family, Fields, Rule


def _shape(fields: Fields, family: str, **more: Any) -> DecoderConfig:
    bias = bool(fields.get("attention_bias", False))
    return llama.read_shape(
        fields,
        family,
        qk_norm=True,
        attention_bias=bias,
        output_bias=bias,
        **more,
    )


def _from_published(fields: Fields) -> DecoderConfig:
    # its heads are of a width of their own, unlike other families', where a missing one can be worked out
    fields = fields | {"head_dim": fields["head_dim"]}
    return _shape(fields, "qwen3", **llama.read_windows(fields))


def _to_published(c: DecoderConfig) -> Fields:
    return llama.write_shape(c, {"attention_bias": c.attention_bias}, llama.write_windows(c))


QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    "Qwen3ForSequenceClassification",
    llama.rules,
    _from_published,
    _to_published,
)


def _moe_rules(c: DecoderConfig) -> list[Rule]:
    e = c.experts
    assert e is not None

    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    experts = partial(llama.expert_rules, module="mlp", names=names, count=e.count)
    return llama.trunk_rules(c) + llama.block_rules(c, experts)


def _moe_from_published(fields: Fields) -> DecoderConfig:
    dense, step = fields.get("mlp_only_layers") or [], fields.get("decoder_sparse_step", 1)
    count = fields["num_experts"] if "num_experts" in fields else fields["num_local_experts"]
    layers = llama.layers_of(fields)
    chosen = tuple(i for i in layers if i not in dense and count > 0 and (i + 1) % step == 0)
    experts = Experts(
        count=count,
        chosen=fields["num_experts_per_tok"],
        hidden=fields["moe_intermediate_size"],
        normalised=bool(fields.get("norm_topk_prob", False)),
        layers=None if len(chosen) == len(layers) else chosen,
    )
    window = fields.get("sliding_window") if fields.get("use_sliding_window") else None
    return _shape(fields, "qwen3_moe", experts=experts, window=window)


def _moe_to_published(c: DecoderConfig) -> Fields:
    e = c.experts
    if e is None:
        raise ValueError("a Qwen3 of the MoE kind has experts")
    return llama.write_shape(c, {"attention_bias": c.attention_bias}) | {
        "use_sliding_window": c.window is not None,
        "sliding_window": c.window,
        "num_experts": e.count,
        "num_experts_per_tok": e.chosen,
        "moe_intermediate_size": e.hidden,
        "norm_topk_prob": e.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(c.layers) if not e.at(i)],
    }


QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    "Qwen3MoeForSequenceClassification",
    _moe_rules,
    _moe_from_published,
    _moe_to_published,
)
