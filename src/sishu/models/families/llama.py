"""Llama 1 to 3.2 and SmolLM2 (Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024,
arXiv:2407.21783; Ben Allal et al. 2025, arXiv:2502.02737), and what the families that came of it share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sishu.models.decoder import DecoderConfig
from sishu.models.families.family import Family, Fields, Rule, same, with_biases
from sishu.models.families.rope import read_rope, write_rope
from sishu.nn.mlp import Activation

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""Names of activations in published configurations, and ours."""

ATTENTION = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
}
MLP = {"mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
QK_NORMS = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}


MOST_LAYERS = 10_000


def read_activation(name: str) -> Activation:
    """Our name of a published activation."""
    if name not in ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is not supported")
    return ACTIVATIONS[name]


def trunk_rules(c: DecoderConfig) -> list[Rule]:
    """What stands outside the blocks."""
    names = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    if not c.tied:
        names["head.weight"] = "lm_head.weight"
    return same(names)


def block_rules(c: DecoderConfig, experts: Callable[[int], list[Rule]] | None = None) -> list[Rule]:
    """The blocks; `experts` names the network of a block that is a mixture."""
    biased = [*list(ATTENTION)[:3]] if c.attention_bias else []
    biased += ["attention.output"] if c.output_bias else []
    shared = ATTENTION | NORMS | (QK_NORMS if c.qk_norm else {})
    rules = []
    for i in range(c.layers):
        before = f"blocks.{i}.", f"model.layers.{i}."
        rules += same(with_biases(shared, biased), *before)
        if experts is not None and c.experts is not None and c.experts.at(i):
            rules += experts(i)
        else:
            rules += same(with_biases(MLP, MLP if c.mlp_bias else []), *before)
    return rules


def expert_rules(layer: int, module: str, names: Mapping[str, str], count: int) -> list[Rule]:
    """The network of a block that is a mixture, published expert by expert; `module` is what it is called,
    `names` are what an expert's matrices are."""
    ours, theirs = f"blocks.{layer}.mlp.", f"model.layers.{layer}.{module}."
    return same({"router.weight": "gate.weight"}, ours, theirs) + [
        Rule((ours + a,), tuple(f"{theirs}experts.{n}.{b}.weight" for n in range(count)))
        for a, b in names.items()
    ]


def rules(c: DecoderConfig) -> list[Rule]:
    """All weights of a model without experts."""
    return trunk_rules(c) + block_rules(c)


def read_shape(fields: Fields, family: str, **more: Any) -> DecoderConfig:
    """The fields that all these families have, and `more` that one of them adds."""
    heads = fields["num_attention_heads"]
    return DecoderConfig(
        vocabulary=fields["vocab_size"],
        width=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        heads=heads,
        kv_heads=fields.get("num_key_value_heads") or heads,
        head_width=fields.get("head_dim") or fields["hidden_size"] // heads,
        hidden=fields["intermediate_size"],
        norm_eps=fields.get("rms_norm_eps", 1e-6),
        tied=bool(fields.get("tie_word_embeddings", False)),
        family=family,
        activation=read_activation(fields.get("hidden_act", "silu")),
        **read_rope(fields),
        **({"qk_norm": False} | more),
    )


def write_shape(c: DecoderConfig, biases: Fields | None = None, more: Fields | None = None) -> Fields:
    """The fields that all these families have, with those in which one says its biases, and `more`."""
    return {
        "model_type": c.family,
        "vocab_size": c.vocabulary,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_width,
        "intermediate_size": c.hidden,
        **write_rope(c),
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        **(biases or {}),
        "attention_dropout": 0.0,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(c.activation, c.activation),
        **(more or {}),
        "initializer_range": 0.02,
    }


def layers_of(fields: Fields) -> range:
    """The numbers of the blocks; raises ValueError before a list of absurd length is made of them."""
    layers = fields["num_hidden_layers"]
    if not isinstance(layers, int) or not 0 < layers <= MOST_LAYERS:
        raise ValueError(f"num_hidden_layers must be a number from 1 to {MOST_LAYERS}, not {layers!r}")
    return range(layers)


def layer_types(c: DecoderConfig) -> list[str]:
    """Which layers look through a window, in the published words."""
    return ["full_attention" if c.window_of(i) is None else "sliding_attention" for i in range(c.layers)]


def read_windows(fields: Fields) -> dict[str, Any]:
    """`window` and `window_layers` where layers differ, as in Qwen 2 and 3."""
    if not fields.get("use_sliding_window") or fields.get("sliding_window") is None:
        return {}
    layers, types = layers_of(fields), fields.get("layer_types")
    if types is None:
        chosen = tuple(layers)[fields.get("max_window_layers", 28) :]
    elif len(types) != len(layers) or not {"full_attention", "sliding_attention"}.issuperset(types):
        raise ValueError("layer_types must say full_attention or sliding_attention of every layer")
    else:
        chosen = tuple(i for i in layers if types[i] == "sliding_attention")
    every = None if len(chosen) == len(layers) else chosen
    return {"window": fields["sliding_window"], "window_layers": every} if chosen else {}


def write_windows(c: DecoderConfig) -> Fields:
    """The same, written."""
    if c.window is None:
        return {"use_sliding_window": False}
    types = layer_types(c)
    full = types.index("sliding_attention") if "sliding_attention" in types else c.layers
    return {
        "use_sliding_window": True,
        "sliding_window": c.window,
        "max_window_layers": full,
        "layer_types": types,
    }


def _from_published(fields: Fields) -> DecoderConfig:
    bias = bool(fields.get("attention_bias", False))
    return read_shape(
        fields,
        "llama",
        attention_bias=bias,
        output_bias=bias,
        mlp_bias=bool(fields.get("mlp_bias", False)),
    )


def _to_published(c: DecoderConfig) -> Fields:
    return write_shape(c, {"attention_bias": c.attention_bias, "mlp_bias": c.mlp_bias})


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    rules,
    _from_published,
    _to_published,
    ignored=("rotary_emb.inv_freq",),
)
