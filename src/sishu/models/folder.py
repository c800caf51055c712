"""Model folders on disk: Hugging Face layout, safetensors only, every tensor accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sishu.console import UserError
from sishu.models.decoder import Decoder, DecoderConfig, Scorer
from sishu.models.families import qwen3
from sishu.tokenizer.tokenizer import Tokenizer

WEIGHTS, CONFIG, GENERATION = "model.safetensors", "config.json", "generation_config.json"
SCORE_NAME = "score.weight"
FINGERPRINT = "tokenizer_fingerprint"
"""Our own field of `config.json`: which tokenizer the model was trained with."""


def save_model(model: Decoder | Scorer, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder that `transformers` loads: a causal model, or a one-label sequence classifier for a
    `Scorer`. Each file appears in one step; weights in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = model.trunk if isinstance(model, Scorer) else model
    own = decoder.state_dict()
    weights = {theirs: own[ours] for ours, theirs in qwen3.weight_names(model.config).items()}
    fields = qwen3.to_published(model.config) | {
        "architectures": [qwen3.CAUSAL],
        "dtype": "float32",
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.pad,
        FINGERPRINT: tokenizer.fingerprint(),
    }
    if isinstance(model, Scorer):
        weights[SCORE_NAME] = model.score.weight
        fields |= {
            "architectures": [qwen3.SEQUENCE],
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
        }
    tokenizer.save(folder, model.config.context_length)
    _write_json(folder / CONFIG, fields)
    _write_json(
        folder / GENERATION,
        {
            "bos_token_id": tokenizer.bos,
            "eos_token_id": [tokenizer.end, tokenizer.bos],
            "pad_token_id": tokenizer.pad,
        },
    )
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file(
        {name: w.detach().float().contiguous().cpu() for name, w in weights.items()},
        temporary,
        metadata={"format": "pt"},
    )
    temporary.chmod(0o644)  # the library writes for the owner alone
    temporary.replace(folder / WEIGHTS)


def load_decoder(folder: Path) -> tuple[Decoder, Tokenizer]:
    """A causal model and its tokenizer; raises UserError naming what is missing or does not fit."""
    config = _read_config(folder, qwen3.CAUSAL)
    decoder = Decoder(config)
    decoder.load_state_dict(_read_weights(folder, decoder, config, extra={}))
    return decoder, _fitting_tokenizer(folder, config)


def load_scorer(folder: Path) -> tuple[Scorer, Tokenizer]:
    """A reward model and its tokenizer; raises UserError naming what is missing or does not fit."""
    config = _read_config(folder, qwen3.SEQUENCE)
    scorer = Scorer(config)
    weights = _read_weights(folder, scorer.trunk, config, {SCORE_NAME: scorer.score.weight})
    scorer.score.load_state_dict({"weight": weights.pop(SCORE_NAME)})
    scorer.trunk.load_state_dict(weights)
    return scorer, _fitting_tokenizer(folder, config)


def _fitting_tokenizer(folder: Path, config: DecoderConfig) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    fingerprint = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get(FINGERPRINT)
    larger = tokenizer.vocabulary_size > config.vocabulary
    if larger or fingerprint not in (None, tokenizer.fingerprint()):
        raise UserError(
            f"The tokenizer in {folder} is not the one its model was trained with "
            f"({tokenizer.vocabulary_size} tokens, the model has {config.vocabulary}): they are not of one "
            "run; copy the right tokenizer.json into the folder."
        )
    return tokenizer


def _read_config(folder: Path, architecture: str) -> DecoderConfig:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"There is no model in {folder}: it has no {CONFIG}.")
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = fields.get("architectures", [None])[0]
        if fields.get("model_type") != qwen3.MODEL_TYPE or found != architecture:
            raise UserError(
                f"{path} describes {found or fields.get('model_type')!r}; this command needs {architecture}."
            )
        return qwen3.from_published(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a usable model configuration: {error!s}.") from error


def _read_weights(
    folder: Path, decoder: Decoder, config: DecoderConfig, extra: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors under our names, `extra` ones under their own; missing, unexpected and mis-shaped raise."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"There are no weights in {folder}: {WEIGHTS} is missing.")
    wanted = {
        theirs: (ours, decoder.state_dict()[ours].shape)
        for ours, theirs in qwen3.weight_names(config).items()
    }
    wanted |= {name: (name, tensor.shape) for name, tensor in extra.items()}
    weights: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for problem, which in (
                ("lacks", wanted.keys() - names),
                ("has unknown", names - wanted.keys()),
            ):
                if which:
                    raise UserError(f"{path} {problem} tensors, first {sorted(which)[0]!r}.")
            for theirs, (ours, shape) in wanted.items():
                tensor = file.get_tensor(theirs)
                if tensor.shape != shape:
                    raise UserError(
                        f"{theirs!r} in {path} has shape {list(tensor.shape)}, "
                        f"but {CONFIG} asks for {list(shape)}."
                    )
                weights[ours] = tensor.to(torch.float32)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut ({error}): copy or train it again.") from error
    return weights


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
