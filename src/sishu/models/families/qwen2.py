"""Qwen 2 and 2.5 (Qwen Team 2024, arXiv:2412.15115): Llama with biases on queries, keys and values."""

from __future__ import annotations

from sishu.models.decoder import DecoderConfig
from sishu.models.families import llama
from sishu.models.families.family import Family, Fields


def _from_published(fields: Fields) -> DecoderConfig:
    return llama.read_shape(fields, "qwen2", attention_bias=True, **llama.read_windows(fields))


def _to_published(c: DecoderConfig) -> Fields:
    return llama.write_shape(c, more=llama.write_windows(c))


QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    "Qwen2ForSequenceClassification",
    llama.rules,
    _from_published,
    _to_published,
)
