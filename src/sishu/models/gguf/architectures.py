"""The architectures of GGUF files: their metadata as shapes, and what their tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sishu.console import UserError
from sishu.models.config_file import WIDEST_HEAD
from sishu.models.decoder import DecoderConfig, Experts
from sishu.models.families.family import Rule, same, with_biases
from sishu.models.gguf.metadata import Metadata
from sishu.models.gguf.rope import read_rope, write_rope

Shapes = Mapping[str, tuple[int, ...]]

ATTENTION = {f"attention.{part}": f"attn_{part[0]}" for part in ("query", "key", "value")}
ATTENTION["attention.output"] = "attn_output"
NORMS = {"attention_norm": "attn_norm", "mlp_norm": "ffn_norm"}
QK_NORMS = {"attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm"}
GATED = {"mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down"}
EXPERTS = {"mlp.gate": "ffn_gate_exps", "mlp.up": "ffn_up_exps", "mlp.down": "ffn_down_exps"}


@dataclass(frozen=True)
class Architecture:
    """One `general.architecture`."""

    name: str
    families: tuple[str, ...]
    """Ours that are written as it."""
    read: Callable[[Metadata, Shapes, Tensor | None], DecoderConfig]
    """The shape a file describes, from its metadata, the shapes of its tensors, and its divisors of
    rotary frequencies; raises UserError."""
    write: Callable[[DecoderConfig], tuple[dict[str, Any], Tensor | None]]
    """The metadata of a shape, without the architecture's name, and the divisors; raises UserError for
    what llama.cpp cannot compute."""
    rules: Callable[[DecoderConfig], list[Rule]]
    interleaved: bool = False
    """Whether the pairs that rotary positions turn stand side by side in queries and keys."""


def _trunk(c: DecoderConfig) -> list[Rule]:
    names = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    return same(names | ({} if c.tied else {"head.weight": "output.weight"}))


def _gated_rules(c: DecoderConfig) -> list[Rule]:
    biased = [*list(ATTENTION)[:3]] if c.attention_bias else []
    biased += ["attention.output"] if c.output_bias else []
    shared = ATTENTION | NORMS | (QK_NORMS if c.qk_norm else {})
    rules = _trunk(c)
    for i in range(c.layers):
        before = f"blocks.{i}.", f"blk.{i}."
        rules += same(with_biases(shared, biased), *before)
        if c.experts is not None:
            names = {a: f"{b}.weight" for a, b in EXPERTS.items()}
            rules += same(names | {"mlp.router.weight": "ffn_gate_inp.weight"}, *before)
        else:
            rules += same(with_biases(GATED, GATED if c.mlp_bias else []), *before)
    return rules


def _read_gated(family: str, sparse: str, qk_norm: bool = False) -> Callable[..., DecoderConfig]:
    """How shapes of the llama kind are read; `sparse` is the family of those with experts."""

    def read(about: Metadata, shapes: Shapes, divisors: Tensor | None) -> DecoderConfig:
        width, heads = about.whole("embedding_length"), about.whole("attention.head_count")
        head_width = about.whole("attention.key_length", max(width // heads, 1))
        if about.whole("attention.value_length", head_width) != head_width:
            raise about.wrong(
                "attention.value_length", about.whole("attention.value_length"), f"{head_width}"
            )
        if head_width > WIDEST_HEAD or head_width % 2:
            raise about.wrong("attention.key_length", head_width, f"even and at most {WIDEST_HEAD:,}")
        context = about.whole("context_length")
        count = about.whole("expert_count") if about.is_set("expert_count") else 0
        inside = "expert_feed_forward_length"
        hidden = about.whole("feed_forward_length", about.whole(inside) if about.has(inside) else None)
        experts = None
        if count:
            chosen = about.whole("expert_used_count")
            experts = Experts(count, chosen, hidden=about.whole(inside, hidden))
        return DecoderConfig(
            vocabulary=_vocabulary(about, shapes),
            width=width,
            layers=_layers(about, shapes),
            heads=heads,
            kv_heads=about.whole("attention.head_count_kv", heads),
            head_width=head_width,
            hidden=hidden,
            context_length=context,
            norm_eps=about.number("attention.layer_norm_rms_epsilon"),
            tied="output.weight" not in shapes,
            family=sparse if experts else family,
            qk_norm=qk_norm,
            attention_bias="blk.0.attn_q.bias" in shapes,
            output_bias="blk.0.attn_output.bias" in shapes,
            mlp_bias="blk.0.ffn_gate.bias" in shapes,
            experts=experts,
            **read_rope(about, head_width, context, divisors),
        )

    return read


def _vocabulary(about: Metadata, shapes: Shapes) -> int:
    """From the table itself, which has rows that the list of tokens may lack."""
    if "token_embd.weight" not in shapes:
        raise UserError(f"{about.path} has no token_embd.weight: it holds no whole model.")
    return shapes["token_embd.weight"][0]


def _layers(about: Metadata, shapes: Shapes) -> int:
    layers = about.whole("block_count")
    if layers > len(shapes):
        raise about.wrong("block_count", layers, f"less than the number of tensors, {len(shapes):,}")
    return layers


def _write_gated(c: DecoderConfig, turned: bool) -> tuple[dict[str, Any], Tensor | None]:
    if c.activation != "silu" or not c.gated or c.norm != "rms" or c.positions != "rotary":
        raise _no_words(c, f"norm {c.norm}, positions {c.positions}, activation {c.activation}")
    context = c.context_length
    if c.window is not None and (c.window_layers is None or c.window_layers):
        # llama.cpp looks through no window in these architectures: up to its size the two agree
        context = min(context, c.window)
    rope, divisors = write_rope(c, turned)
    fields = {
        "vocab_size": c.vocabulary,
        "context_length": context,
        "embedding_length": c.width,
        "block_count": c.layers,
        "feed_forward_length": c.experts.hidden if c.experts else c.hidden,
        "attention.head_count": c.heads,
        "attention.head_count_kv": c.kv_heads,
        "attention.key_length": c.head_width,
        "attention.value_length": c.head_width,
        "attention.layer_norm_rms_epsilon": c.norm_eps,
        **rope,
    }
    if (e := c.experts) is not None:
        if e.layers is not None or not e.normalised:
            raise _no_words(c, "experts in some blocks alone, or with shares that do not sum to 1")
        fields |= {"expert_count": e.count, "expert_used_count": e.chosen}
    return fields, divisors


def _no_words(c: DecoderConfig, what: str) -> UserError:
    return UserError(
        f"llama.cpp computes no {c.family} model like this one ({what}): export it with --to hf instead."
    )


def _write_llama(c: DecoderConfig) -> tuple[dict[str, Any], Tensor | None]:
    if c.qk_norm:
        raise _no_words(c, "normalised queries and keys")
    return _write_gated(c, turned=True)


def _write_qwen2(c: DecoderConfig) -> tuple[dict[str, Any], Tensor | None]:
    if c.qk_norm or c.output_bias or c.mlp_bias:
        raise _no_words(c, "other biases or norms than a Qwen2 has")
    return _write_gated(c, turned=False)


def _write_qwen3(c: DecoderConfig) -> tuple[dict[str, Any], Tensor | None]:
    if not c.qk_norm or c.attention_bias or c.output_bias or c.mlp_bias:
        raise _no_words(c, "biases, or no normalised queries and keys")
    fields, divisors = _write_gated(c, turned=False)
    if c.experts:
        # the size of a dense block, which no block of such a model has, beside that of an expert
        fields |= {"feed_forward_length": c.hidden, "expert_feed_forward_length": c.experts.hidden}
    return fields, divisors


FUSED = tuple(f"attention.{part}" for part in ("query", "key", "value"))
GPT2_BLOCK = {
    "attention.output": "attn_output",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    **NORMS,
}


def _gpt2_rules(c: DecoderConfig) -> list[Rule]:
    rules = _trunk(c)
    rules += same({"position_embedding.weight": "position_embd.weight", "norm.bias": "output_norm.bias"})
    for i in range(c.layers):
        for part in ("weight", "bias"):
            fused = tuple(f"blocks.{i}.{one}.{part}" for one in FUSED)
            rules.append(Rule(fused, (f"blk.{i}.attn_qkv.{part}",)))
            names = {f"{a}.{part}": f"{b}.{part}" for a, b in GPT2_BLOCK.items()}
            rules += same(names, f"blocks.{i}.", f"blk.{i}.")
    return rules


def _read_gpt2(about: Metadata, shapes: Shapes, divisors: Tensor | None) -> DecoderConfig:
    width, heads = about.whole("embedding_length"), about.whole("attention.head_count")
    if width % heads or width // heads > WIDEST_HEAD:
        raise about.wrong("attention.head_count", heads, f"a divisor of the width, {width:,}")
    return DecoderConfig(
        vocabulary=_vocabulary(about, shapes),
        width=width,
        layers=_layers(about, shapes),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=about.whole("feed_forward_length"),
        context_length=about.whole("context_length"),
        norm_eps=about.number("attention.layer_norm_epsilon"),
        tied="output.weight" not in shapes,
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


def _write_gpt2(c: DecoderConfig) -> tuple[dict[str, Any], Tensor | None]:
    if c.activation != "gelu_tanh":
        raise _no_words(c, f"activation {c.activation}")
    return {
        "vocab_size": c.vocabulary,
        "context_length": c.context_length,
        "embedding_length": c.width,
        "block_count": c.layers,
        "feed_forward_length": c.hidden,
        "attention.head_count": c.heads,
        "attention.layer_norm_epsilon": c.norm_eps,
    }, None


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture(
            "llama",
            ("llama", "mistral", "mixtral"),
            _read_gated("llama", "mixtral"),
            _write_llama,
            _gated_rules,
            interleaved=True,
        ),
        Architecture("qwen2", ("qwen2",), _read_gated("qwen2", "qwen2"), _write_qwen2, _gated_rules),
        Architecture("qwen3", ("qwen3",), _read_gated("qwen3", "qwen3", True), _write_qwen3, _gated_rules),
        Architecture(
            "qwen3moe",
            ("qwen3_moe",),
            _read_gated("qwen3_moe", "qwen3_moe", True),
            _write_qwen3,
            _gated_rules,
        ),
        Architecture("gpt2", ("gpt2",), _read_gpt2, _write_gpt2, _gpt2_rules),
    )
}
BY_FAMILY = {family: one for one in ARCHITECTURES.values() for family in one.families}
