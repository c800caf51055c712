"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere, and matrices published as
(inputs, outputs) with queries, keys and values in one."""

from __future__ import annotations

from sishu.models.decoder import DecoderConfig
from sishu.models.families.family import Family, Fields, Rule, same
from sishu.models.families.llama import read_activation

HEADS = tuple(f"attention.{part}" for part in ("query", "key", "value"))
MATRICES = {"attention.output": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
NORMS = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}


def _rules(c: DecoderConfig) -> list[Rule]:
    rules = same(
        {
            "embedding.weight": "transformer.wte.weight",
            "position_embedding.weight": "transformer.wpe.weight",
            "norm.weight": "transformer.ln_f.weight",
            "norm.bias": "transformer.ln_f.bias",
        }
    )
    if not c.tied:
        rules += same({"head.weight": "lm_head.weight"})
    for i in range(c.layers):
        ours, theirs = f"blocks.{i}.", f"transformer.h.{i}."
        for part in ("weight", "bias"):
            matrix = part == "weight"
            fused = tuple(f"{ours}{head}.{part}" for head in HEADS)
            rules.append(Rule(fused, (f"{theirs}attn.c_attn.{part}",), transposed=matrix))
            rules += [
                Rule((f"{ours}{a}.{part}",), (f"{theirs}{b}.{part}",), transposed=matrix)
                for a, b in MATRICES.items()
            ]
            rules += same({f"{a}.{part}": f"{b}.{part}" for a, b in NORMS.items()}, ours, theirs)
    return rules


def _from_published(fields: Fields) -> DecoderConfig:
    if fields.get("scale_attn_by_inverse_layer_idx") or not fields.get("scale_attn_weights", True):
        raise ValueError("a GPT-2 whose attention is scaled in another way is not supported")
    width, heads = fields["n_embd"], fields["n_head"]
    if width % heads:
        raise ValueError(f"n_embd ({width}) must be a multiple of n_head ({heads})")
    return DecoderConfig(
        vocabulary=fields["vocab_size"],
        width=width,
        layers=fields["n_layer"],
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=fields.get("n_inner") or 4 * width,
        context_length=fields["n_positions"] if "n_positions" in fields else fields["n_ctx"],
        norm_eps=fields.get("layer_norm_epsilon", 1e-5),
        tied=bool(fields.get("tie_word_embeddings", True)),
        family="gpt2",
        norm="layer",
        positions="learned",
        qk_norm=False,
        attention_bias=True,
        output_bias=True,
        gated=False,
        activation=read_activation(fields.get("activation_function", "gelu_new")),
        mlp_bias=True,
    )


def _to_published(c: DecoderConfig) -> Fields:
    return {
        "model_type": "gpt2",
        "vocab_size": c.vocabulary,
        "n_embd": c.width,
        "n_layer": c.layers,
        "n_head": c.heads,
        "n_inner": c.hidden,
        "n_positions": c.context_length,
        "n_ctx": c.context_length,
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(c.activation, c.activation),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
    }


GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    "GPT2ForSequenceClassification",
    _rules,
    _from_published,
    _to_published,
    ignored=(".attn.bias", ".attn.masked_bias"),
)
