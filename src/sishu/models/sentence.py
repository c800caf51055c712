"""Sentences as vectors: an encoder, a mean over its tokens, and length 1 (Reimers & Gurevych 2019,
arXiv:1908.10084), from a folder in the layout of sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from sishu.console import UserError
from sishu.models.encoder import Encoder
from sishu.models.encoder_folder import read_encoder

Pooling = Literal["mean", "cls", "max"]
POOLINGS: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
POOLINGS |= {"max": "max", "max_tokens": "max"}
"""Published names, and ours."""

BATCH_TOKENS = {"cpu": 2_048}
"""Tokens, padding included, that are computed at once, where it is not `MANY`: more of them leave a CPU's
caches and take up to twice the time (MiniLM, one core)."""
MANY = 16_384


class SentenceEncoder:
    """Texts to vectors whose scalar product is their likeness."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        pooling: Pooling = "mean",
        normalise: bool = True,
        longest: int | None = None,
        before: str = "",
        lower: bool = False,
    ) -> None:
        """`longest`: tokens of a text that are read, the rest is cut; `before` is put before every text;
        `lower`: in lower case."""
        self.encoder, self.tokenizer = encoder.eval(), tokenizer
        self.pooling, self.normalise, self.before, self.lower = pooling, normalise, before, lower
        self.longest = min(longest or encoder.config.context_length, encoder.config.context_length)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.longest)

    @classmethod
    def load(cls, folder: Path) -> SentenceEncoder:
        """A folder of sentence-transformers, or a bare encoder's, which is read by the mean of its tokens.
        Raises UserError naming what is missing, damaged or not known."""
        if not folder.is_dir():
            raise UserError(f"There is no sentence encoder in {folder}: it is no folder.")
        inner, pooling, normalise = folder, "mean", True
        if (folder / "modules.json").is_file():
            inner, pooling, normalise = _read_modules(folder)
        about = _read_mapping(inner / "sentence_bert_config.json")
        prompts = _read_mapping(folder / "config_sentence_transformers.json")
        longest, chosen = about.get("max_seq_length"), prompts.get("default_prompt_name")
        named = prompts.get("prompts") or {}
        before = named.get(str(chosen), "") if chosen and isinstance(named, dict) else ""
        if (
            not isinstance(before, str)
            or not isinstance(named, dict)
            or not (longest is None or (isinstance(longest, int) and longest > 0))
        ):
            raise UserError(f"{folder} is not a usable sentence encoder: max_seq_length or its prompts.")
        encoder, tokenizer = read_encoder(inner), _read_tokenizer(inner)
        if tokenizer.get_vocab_size() > encoder.config.vocabulary:
            raise UserError(
                f"The tokenizer in {inner} has {tokenizer.get_vocab_size():,} tokens and the model "
                f"{encoder.config.vocabulary:,}: they are not of one model; get both from one place."
            )
        lower = bool(about.get("do_lower_case", False))
        return cls(encoder, tokenizer, POOLINGS[pooling], normalise, longest, before, lower)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors (N, D) in float32, in the order of the texts; texts of like length share a batch."""
        wanted = [self.before + (text.lower() if self.lower else text) for text in texts]
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(wanted)]
        out_ND = torch.zeros(len(ids), self.encoder.config.width)
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        at_once = BATCH_TOKENS.get(self.encoder.embedding.weight.device.type, MANY)
        while order:
            count = max(1, at_once // max(1, len(ids[order[0]])))
            rows, order = order[:count], order[count:]
            out_ND[rows] = self._embed_batch([ids[row] for row in rows]).float().cpu()
        return out_ND

    def _embed_batch(self, ids: list[list[int]]) -> Tensor:
        device = self.encoder.embedding.weight.device
        longest = max(1, *map(len, ids)) if ids else 1
        ids_BT = torch.full((len(ids), longest), self.encoder.config.pad, dtype=torch.long)
        present_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        for row, some in enumerate(ids):
            ids_BT[row, : len(some)] = torch.tensor(some, dtype=torch.long)
            present_BT[row, : len(some)] = True
        present_BT = present_BT.to(device)
        x_BTD = self.encoder(ids_BT.to(device), present_BT)
        vectors_BD = pool(x_BTD, present_BT, self.pooling)
        return F.normalize(vectors_BD, dim=-1) if self.normalise else vectors_BD


def pool(x_BTD: Tensor, present_BT: Tensor, pooling: Pooling) -> Tensor:
    """States of tokens -> one vector a text, (B, D); padding, where `present_BT` is false, has no say."""
    if pooling == "cls":
        return x_BTD[:, 0]
    present_BT1 = present_BT[..., None]
    if pooling == "max":
        return x_BTD.masked_fill(~present_BT1, -torch.inf).amax(1)
    return (x_BTD * present_BT1).sum(1) / present_BT1.sum(1).clamp(min=1)


def _read_modules(folder: Path) -> tuple[Path, str, bool]:
    """Where the encoder lies, how it is pooled, and whether the vectors are made of length 1."""
    path = folder / "modules.json"
    found: dict[str, Path] = {}
    for module in _read_json(path, list):
        if not isinstance(module, dict) or not all(isinstance(module.get(n), str) for n in ("type", "path")):
            raise UserError(f"{path} is not a usable list of modules: each has a type and a path.")
        kind, place = module["type"].rsplit(".", 1)[-1], module["path"]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(f"{path} has a module of the type {kind!r}, which is not read here.")
        if Path(place).name != place or place in (".", ".."):
            raise UserError(f"{path} names {place!r}, which is not in the folder.")
        found[kind] = folder / place
    if "Transformer" not in found or "Pooling" not in found:
        raise UserError(f"{path} is not a usable list of modules: it needs a Transformer and a Pooling.")
    path = found["Pooling"] / "config.json"
    fields = _read_json(path, dict)
    named = fields.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    modes += [n.removeprefix("pooling_mode_") for n, on in fields.items() if n[:13] == "pooling_mode_" and on]
    if len(modes) != 1 or str(modes[0]) not in POOLINGS:
        raise UserError(f"{path} asks for the pooling {modes!r}; read here are mean, cls and max, one alone.")
    return found["Transformer"], modes[0], "Normalize" in found


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.json: get it as well.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        raise UserError(f"{path} is not a usable tokenizer: {error!s}.") from error


def _read_mapping(path: Path) -> dict[str, Any]:
    return dict(_read_json(path, dict)) if path.is_file() else {}


def _read_json(path: Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error!s}.") from error
    if not isinstance(data, kind):
        raise UserError(f"{path} cannot be read: it must be a {kind.__name__}.")
    return data
