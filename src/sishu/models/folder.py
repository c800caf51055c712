"""Model folders on disk: Hugging Face layout, safetensors only, every tensor accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sishu.console import UserError
from sishu.files import dump_json, write_atomic
from sishu.models.config_file import CONFIG, check_size, empty, read_config, read_shape, written_shape
from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.models.families.decoders import DECODERS
from sishu.models.families.family import Family, Rule
from sishu.models.families.rope import as_written
from sishu.models.weights import StoredWeights, load_into, save_weights
from sishu.tokenizer.tokenizer import Tokenizer

GENERATION = "generation_config.json"
SCORE = Rule(("score.weight",), ("score.weight",))
FINGERPRINT = "tokenizer_fingerprint"
"""Our own field of `config.json`: which tokenizer the model was trained with."""


def save_model(
    model: Decoder | Scorer, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write a folder that `transformers` loads: a causal model, or a one-label sequence classifier for a
    `Scorer`. Each file appears in one step; weights as `dtype`, or in the precision that they have."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.pad,
    }
    ends = [tokenizer.end, tokenizer.bos] if tokenizer.own else sorted(tokenizer.stop_ids)
    generation = about | {"eos_token_id": ends}
    fields = published_config(model, dtype, about | {FINGERPRINT: tokenizer.fingerprint()})
    tokenizer.save(folder, model.config.context_length)
    write_atomic(folder / CONFIG, dump_json(fields))
    write_atomic(folder / GENERATION, dump_json(generation))
    save_weights(published_weights(model, DECODERS[model.config.family], dtype), folder)


def write_model(model: Decoder | Scorer, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write configuration and weights alone, without a tokenizer; what `read_decoder` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CONFIG, dump_json(published_config(model, dtype)))
    save_weights(published_weights(model, DECODERS[model.config.family], dtype), folder)


def published_config(
    model: Decoder | Scorer, dtype: torch.dtype | None = None, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The `config.json` of a model, with what is said `about` its tokenizer. Raises UserError where the
    family of its shape cannot say all of the shape."""
    family, scores = DECODERS[model.config.family], isinstance(model, Scorer)
    fields = written_shape(family, as_written(model.config), family.sequence if scores else family.causal)
    dtype = dtype or next(model.parameters()).dtype
    fields |= {"dtype": str(dtype).removeprefix("torch."), **(about or {})}
    return fields | ({"id2label": {"0": "reward"}, "label2id": {"reward": 0}} if scores else {})


def published_weights(
    model: Decoder | Scorer, family: Family[DecoderConfig], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """All weights under their published names."""
    decoder = model.trunk if isinstance(model, Scorer) else model
    own = {name: weight.detach().to(dtype or weight.dtype) for name, weight in decoder.state_dict().items()}
    weights: dict[str, Tensor] = {}
    for rule in family.rules(decoder.config):
        weights |= rule.to_theirs(own)
    if isinstance(model, Scorer):
        score = model.score.weight.detach()
        weights |= SCORE.to_theirs({"score.weight": score.to(dtype or score.dtype)})
    return weights


def load_decoder(folder: Path, dtype: torch.dtype | None = torch.float32) -> tuple[Decoder, Tokenizer]:
    """A causal model and its tokenizer; raises UserError naming what is missing or does not fit."""
    decoder = read_decoder(folder, dtype)
    return decoder, _fitting_tokenizer(folder, decoder.config)


def read_decoder(folder: Path, dtype: torch.dtype | None = torch.float32) -> Decoder:
    """A causal model without its tokenizer, its weights as `dtype`; None keeps what they are stored as."""
    family, config = read_shape(folder, DECODERS, lambda family: (family.causal,))
    stored = StoredWeights(folder)
    check_size(folder, config.networks, stored)
    decoder = empty(Decoder, config)
    first = family.rules(config)[0].theirs[0]
    twins = {"lm_head.weight": first} if config.tied else {}
    load_into(decoder, stored, family.rules(config), dtype, family.ignored, twins)
    return decoder


def load_scorer(folder: Path) -> tuple[Scorer, Tokenizer]:
    """A reward model and its tokenizer; raises UserError naming what is missing or does not fit."""
    family, config = read_shape(folder, DECODERS, lambda family: (family.sequence,))
    stored = StoredWeights(folder)
    check_size(folder, config.networks, stored)
    scorer = empty(Scorer, config)
    trunk = [
        Rule(tuple(f"trunk.{name}" for name in rule.ours), rule.theirs, rule.transposed)
        for rule in family.rules(scorer.trunk.config)
    ]
    ignored = (*family.ignored, "lm_head.weight")  # which an untied reward model need not keep
    load_into(scorer, stored, [*trunk, SCORE], torch.float32, ignored)
    return scorer, _fitting_tokenizer(folder, config)


def _fitting_tokenizer(folder: Path, config: DecoderConfig) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    fingerprint = read_config(folder).get(FINGERPRINT)
    larger = tokenizer.vocabulary_size > config.vocabulary
    if larger or fingerprint not in (None, tokenizer.fingerprint()):
        raise UserError(
            f"The tokenizer in {folder} is not the one its model was trained with "
            f"({tokenizer.vocabulary_size} tokens, the model has {config.vocabulary}): they are not of one "
            "run; copy the right tokenizer.json into the folder."
        )
    return tokenizer
