"""Well-known shapes by name, as data: what their published configurations say."""

from __future__ import annotations

from dataclasses import replace

from sishu.models.decoder_config import DecoderConfig, Experts
from sishu.nn.rotary import RopeScaling


def _gpt2(width: int, layers: int, heads: int) -> DecoderConfig:
    return DecoderConfig(
        vocabulary=50_257,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=4 * width,
        context_length=1024,
        norm_eps=1e-5,
        family="gpt2",
        norm="layer",
        positions="learned",
        qk_norm=False,
        attention_bias=True,
        output_bias=True,
        gated=False,
        activation="gelu_tanh",
        mlp_bias=True,
    )


def _llama(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    hidden: int,
    context_length: int,
    rope_theta: float,
    *,
    family: str = "llama",
    head_width: int | None = None,
    tied: bool = False,
    eps: float = 1e-5,
    stretched: float | None = None,
) -> DecoderConfig:
    """`stretched`: the factor by which Llama 3.1 and 3.2 read more than the 8,192 positions of Llama 3."""
    scaling = RopeScaling("llama3", stretched, 8192) if stretched else None
    return DecoderConfig(
        vocabulary,
        width,
        layers,
        heads,
        kv_heads,
        head_width or width // heads,
        hidden,
        context_length,
        rope_theta=rope_theta,
        norm_eps=eps,
        tied=tied,
        family=family,
        rope_scaling=scaling,
        qk_norm=False,
    )


def _qwen2(width: int, layers: int, heads: int, kv_heads: int, hidden: int, *, tied: bool) -> DecoderConfig:
    large = width > 2048  # whose table of tokens is longer, and whose context is
    shape = _llama(
        152_064 if large else 151_936,
        width,
        layers,
        heads,
        kv_heads,
        hidden,
        131_072 if large else 32_768,
        1e6,
        family="qwen2",
        tied=tied,
        eps=1e-6,
    )
    return replace(shape, attention_bias=True)


def _qwen3(width: int, layers: int, heads: int, kv_heads: int, hidden: int, *, tied: bool) -> DecoderConfig:
    return DecoderConfig(
        151_936, width, layers, heads, kv_heads, 128, hidden, 40_960, rope_theta=1e6, tied=tied
    )


PRESETS: dict[str, DecoderConfig] = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "llama-2-7b": _llama(32_000, 4096, 32, 32, 32, 11_008, 4096, 1e4),
    "llama-3-8b": _llama(128_256, 4096, 32, 32, 8, 14_336, 8192, 5e5),
    "llama-3-70b": _llama(128_256, 8192, 80, 64, 8, 28_672, 8192, 5e5),
    "llama-3.1-8b": _llama(128_256, 4096, 32, 32, 8, 14_336, 131_072, 5e5, stretched=8.0),
    "llama-3.2-1b": _llama(128_256, 2048, 16, 32, 8, 8192, 131_072, 5e5, tied=True, stretched=32.0),
    "llama-3.2-3b": _llama(128_256, 3072, 28, 24, 8, 8192, 131_072, 5e5, tied=True, stretched=32.0),
    "smollm2-135m": _llama(49_152, 576, 30, 9, 3, 1536, 8192, 1e5, tied=True),
    "smollm2-360m": _llama(49_152, 960, 32, 15, 5, 2560, 8192, 1e5, tied=True),
    "smollm2-1.7b": _llama(49_152, 2048, 24, 32, 32, 8192, 8192, 1.3e5, tied=True),
    "mistral-7b-v0.1": replace(
        _llama(32_000, 4096, 32, 32, 8, 14_336, 32_768, 1e4, family="mistral"), window=4096
    ),
    "mistral-7b-v0.3": _llama(32_768, 4096, 32, 32, 8, 14_336, 32_768, 1e6, family="mistral"),
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 4864, tied=True),
    "qwen2.5-1.5b": replace(_qwen2(1536, 28, 12, 2, 8960, tied=True), context_length=131_072),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 18_944, tied=False),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 8, 3072, tied=True),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 8, 6144, tied=True),
    "qwen3-4b": _qwen3(2560, 36, 32, 8, 9728, tied=True),
    "qwen3-8b": _qwen3(4096, 36, 32, 8, 12_288, tied=False),
    "qwen3-30b-a3b": replace(
        _qwen3(2048, 48, 32, 4, 6144, tied=False), family="qwen3_moe", experts=Experts(128, 8, 768)
    ),
    "mixtral-8x7b": replace(
        _llama(32_000, 4096, 32, 32, 8, 14_336, 32_768, 1e6, family="mixtral"),
        experts=Experts(8, 2, 14_336),
    ),
}
"""The shapes by the names that their models are known by; context lengths are those of the models that are
named without an addition such as Base or Instruct."""
