"""BERT and RoBERTa (Devlin et al. 2019, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692), and what is of
their shape: MiniLM (Wang et al. 2020, arXiv:2002.10957), bert-base-chinese, BGE."""

from __future__ import annotations

from typing import Any

from sishu.models.encoder import EncoderConfig
from sishu.models.families.family import Family, Fields, Rule, same
from sishu.models.families.llama import read_activation

EMBEDDINGS = {
    "embedding.weight": "embeddings.word_embeddings.weight",
    "position_embedding.weight": "embeddings.position_embeddings.weight",
    "type_embedding.weight": "embeddings.token_type_embeddings.weight",
    "embedding_norm.weight": "embeddings.LayerNorm.weight",
    "embedding_norm.bias": "embeddings.LayerNorm.bias",
}
BLOCK = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
HEADS = {
    "bert": {
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
    },
    "roberta": {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm"},
}
HEAD_BIAS = {"bert": "cls.predictions.bias", "roberta": "lm_head.bias"}
HEAD_TABLE = {"bert": "cls.predictions.decoder.weight", "roberta": "lm_head.decoder.weight"}


def _rules(c: EncoderConfig) -> list[Rule]:
    before = f"{c.family}."
    rules = same(EMBEDDINGS, theirs=before)
    for i in range(c.layers):
        names = {f"{a}.{part}": f"{b}.{part}" for a, b in BLOCK.items() for part in ("weight", "bias")}
        rules += same(names, f"blocks.{i}.", f"{before}encoder.layer.{i}.")
    if c.pooled:
        rules += same({f"pooler.{part}": f"{before}pooler.dense.{part}" for part in ("weight", "bias")})
    if c.masked_head:
        head = HEADS[c.family]
        rules += same({f"{a}.{part}": f"{b}.{part}" for a, b in head.items() for part in ("weight", "bias")})
        rules += same({"head.bias": HEAD_BIAS[c.family]})
        if not c.tied:
            rules += same({"head.table.weight": HEAD_TABLE[c.family]})
    return rules


def _shape(fields: Fields, family: str, **more: Any) -> EncoderConfig:
    if fields.get("position_embedding_type", "absolute") != "absolute" or fields.get("is_decoder"):
        raise ValueError("only encoders with absolute positions are supported")
    architecture = (fields.get("architectures") or [""])[0]
    return EncoderConfig(
        vocabulary=fields["vocab_size"],
        width=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        hidden=fields["intermediate_size"],
        types=fields.get("type_vocab_size", 2),
        norm_eps=fields.get("layer_norm_eps", 1e-12),
        activation=read_activation(fields.get("hidden_act", "gelu")),
        family=family,
        pooled=not architecture.endswith("ForMaskedLM"),
        masked_head=architecture.endswith(("ForMaskedLM", "ForPreTraining")),
        tied=bool(fields.get("tie_word_embeddings", True)),
        **more,
    )


def _bert_from_published(fields: Fields) -> EncoderConfig:
    pad = fields.get("pad_token_id") or 0
    return _shape(fields, "bert", context_length=fields["max_position_embeddings"], pad=pad)


def _roberta_from_published(fields: Fields) -> EncoderConfig:
    pad = fields.get("pad_token_id", 1)
    context = fields["max_position_embeddings"] - pad - 1
    return _shape(fields, "roberta", context_length=context, pad=pad, first_position=pad + 1)


def _to_published(c: EncoderConfig) -> Fields:
    return {
        "model_type": c.family,
        "vocab_size": c.vocabulary,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.hidden,
        "max_position_embeddings": c.context_length + c.first_position,
        "type_vocab_size": c.types,
        "layer_norm_eps": c.norm_eps,
        "hidden_act": {"gelu_tanh": "gelu_new"}.get(c.activation, c.activation),
        "pad_token_id": c.pad,
        "tie_word_embeddings": c.tied,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }


BERT = Family(
    "bert",
    "BertModel",
    "BertForSequenceClassification",
    _rules,
    _bert_from_published,
    _to_published,
    ignored=("embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias"),
)
ROBERTA = Family(
    "roberta",
    "RobertaModel",
    "RobertaForSequenceClassification",
    _rules,
    _roberta_from_published,
    _to_published,
    ignored=("embeddings.position_ids",),
)
ENCODERS: dict[str, Family[EncoderConfig]] = {family.name: family for family in (BERT, ROBERTA)}
