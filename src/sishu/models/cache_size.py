"""How much memory the keys and values of a text take."""

from __future__ import annotations

import torch

from sishu.models.decoder_config import DecoderConfig


def cache_bytes(config: DecoderConfig, tokens: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the keys and values of one text of `tokens` tokens, over all layers, as our caches hold them.

    Layers with a sliding window are counted in full: our caches keep every position of theirs too.
    """
    per_token = 2 * config.layers * config.kv_heads * config.head_width * dtype.itemsize
    return tokens * per_token
