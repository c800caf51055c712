"""Mistral 7B and after (Jiang et al. 2023, arXiv:2310.06825): Llama with a sliding window; and Mixtral (Jiang
et al. 2024, arXiv:2401.04088), the same with a mixture of experts."""

from __future__ import annotations

from functools import partial

from sishu.models.decoder import DecoderConfig, Experts
from sishu.models.families import llama
from sishu.models.families.family import Family, Fields, Rule


def _from_published(fields: Fields) -> DecoderConfig:
    return llama.read_shape(fields, "mistral", window=fields.get("sliding_window", 4096))


def _to_published(c: DecoderConfig) -> Fields:
    return llama.write_shape(c) | {"sliding_window": c.window}


MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    "MistralForSequenceClassification",
    llama.rules,
    _from_published,
    _to_published,
    ignored=("rotary_emb.inv_freq",),
)


def _mixtral_rules(c: DecoderConfig) -> list[Rule]:
    e = c.experts
    assert e is not None

    names = {"gate": "w1", "up": "w3", "down": "w2"}
    experts = partial(llama.expert_rules, module="block_sparse_moe", names=names, count=e.count)
    return llama.trunk_rules(c) + llama.block_rules(c, experts)


def _mixtral_from_published(fields: Fields) -> DecoderConfig:
    experts = Experts(
        count=fields["num_local_experts"],
        chosen=fields["num_experts_per_tok"],
        hidden=fields["intermediate_size"],
    )
    return llama.read_shape(fields, "mixtral", window=fields.get("sliding_window"), experts=experts)


def _mixtral_to_published(c: DecoderConfig) -> Fields:
    e = c.experts
    if e is None:
        raise ValueError("a Mixtral has experts")
    return llama.write_shape(c) | {
        "sliding_window": c.window,
        "intermediate_size": e.hidden,
        "num_local_experts": e.count,
        "num_experts_per_tok": e.chosen,
    }


MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    "MixtralForSequenceClassification",
    _mixtral_rules,
    _mixtral_from_published,
    _mixtral_to_published,
)
