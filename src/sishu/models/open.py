"""A language model from wherever it is: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path

import torch

from sishu.console import UserError
from sishu.models.config_file import CONFIG, read_shape
from sishu.models.decoder import Decoder
from sishu.models.decoder_config import DecoderConfig
from sishu.models.families.decoders import DECODERS
from sishu.models.folder import load_decoder
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.reading import load_gguf, read_gguf_config
from sishu.tokenizer.tokenizer import Tokenizer


def open_decoder(path: Path, dtype: torch.dtype | None = torch.float32) -> tuple[Decoder, Tokenizer]:
    """A causal model and its tokenizer, its weights as `dtype` or, with None, as they are stored.

    `path` is a folder with a `config.json`, a GGUF file, or a folder with one GGUF file alone. Raises
    UserError naming what is missing or does not fit.
    """
    file = gguf_at(path)
    return load_gguf(file, dtype) if file else load_decoder(path, dtype)


def open_config(path: Path) -> DecoderConfig:
    """The shape of the model that `open_decoder` would open, without its weights; raises UserError."""
    file = gguf_at(path)
    if file:
        return read_gguf_config(GGUF(file))
    return read_shape(path, DECODERS, lambda family: (family.causal,))[1]


def gguf_at(path: Path) -> Path | None:
    """The GGUF file that a path means, if it means one: itself, or the only one in a folder that is no
    Hugging Face folder. Raises UserError where there are several."""
    if path.is_file():
        return path
    if (path / CONFIG).is_file() or not path.is_dir():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{path} holds several models: give one of {names}.")
    return found[0] if found else None
