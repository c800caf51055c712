"""Encoders in Hugging Face folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sishu.files import dump_json, write_atomic
from sishu.models.config_file import CONFIG, check_size, empty, read_shape, written_shape
from sishu.models.encoder import Encoder, EncoderConfig
from sishu.models.families.bert import ENCODERS, HEAD_BIAS, HEAD_TABLE
from sishu.models.families.family import Family
from sishu.models.weights import StoredWeights, load_into, save_weights


def _architectures(family: Family[EncoderConfig]) -> tuple[str, ...]:
    before = family.causal.removesuffix("Model")
    return (family.causal, f"{before}ForMaskedLM", f"{before}ForPreTraining")


def read_encoder(folder: Path, dtype: torch.dtype | None = torch.float32) -> Encoder:
    """An encoder with the heads that its folder has, its weights as `dtype`; None keeps what they are
    stored as. Raises UserError naming what is missing or does not fit."""
    family, config = read_shape(folder, ENCODERS, _architectures)
    stored = StoredWeights(folder)
    check_size(folder, config.layers, stored)
    # whether there is a pooler, the configuration does not say
    config = replace(config, pooled=any(name.endswith("pooler.dense.weight") for name in stored.shapes))
    encoder = empty(Encoder, config)
    twins = {}
    if config.masked_head:
        bias = HEAD_BIAS[config.family]
        twins[HEAD_TABLE[config.family].replace("weight", "bias")] = bias
        if config.tied:
            twins[HEAD_TABLE[config.family]] = f"{config.family}.embeddings.word_embeddings.weight"
    load_into(encoder, stored, family.rules(config), dtype, family.ignored, twins)
    return encoder


def save_encoder(encoder: Encoder, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write configuration and weights as `transformers` reads them, as `dtype` or in the precision that
    they have."""
    folder.mkdir(parents=True, exist_ok=True)
    config, family = encoder.config, ENCODERS[encoder.config.family]
    head = _architectures(family)[1 if config.masked_head else 0]
    # a pooler is told by its tensors alone, and `read_encoder` looks for them
    fields = written_shape(family, replace(config, pooled=not config.masked_head), head)
    fields |= {"dtype": str(dtype or encoder.embedding.weight.dtype).removeprefix("torch.")}
    own = {name: weight.detach() for name, weight in encoder.state_dict().items()}
    own = {name: weight.to(dtype or weight.dtype) for name, weight in own.items()}
    weights: dict[str, Tensor] = {}
    for rule in family.rules(config):
        weights |= rule.to_theirs(own)
    if not config.masked_head:  # a bare trunk is published without the name before its tensors
        weights = {name.removeprefix(f"{family.name}."): weight for name, weight in weights.items()}
    write_atomic(folder / CONFIG, dump_json(fields))
    save_weights(weights, folder)
