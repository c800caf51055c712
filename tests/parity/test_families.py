"""Every family in and out: tiny random models of transformers', read, computed and written back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor, nn

from sishu.models.decoder import Decoder
from sishu.models.encoder_folder import read_encoder, save_encoder
from sishu.models.folder import read_decoder, write_model
from sishu.nn.layout import Layout

VOCABULARY, PAD, T = 97, 1, 24
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GPT2 |= {"bos_token_id": 2, "eos_token_id": 3}
MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 12}
MIXTRAL = {"num_local_experts": 5, "num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

DECODERS: dict[str, tuple[type, dict[str, Any]]] = {
    "gpt2": (hf.GPT2Config, GPT2),
    "gpt2 untied, another size inside": (
        hf.GPT2Config,
        GPT2 | {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "gelu"},
    ),
    "llama": (hf.LlamaConfig, SIZES | {"rms_norm_eps": 1e-5, "head_dim": 12}),
    "llama tied": (hf.LlamaConfig, SIZES | {"tie_word_embeddings": True}),
    "llama with biases": (hf.LlamaConfig, SIZES | {"attention_bias": True, "mlp_bias": True}),
    "llama, one key-value head": (hf.LlamaConfig, SIZES | {"num_key_value_heads": 1, "hidden_act": "gelu"}),
    "llama, as many as heads": (hf.LlamaConfig, SIZES | {"num_key_value_heads": 4}),
    "llama3 rope": (hf.LlamaConfig, SIZES | {"rope_parameters": LLAMA3}),
    "linear rope": (
        hf.LlamaConfig,
        SIZES | {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "dynamic rope": (
        hf.LlamaConfig,
        SIZES
        | {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 3.0},
        },
    ),
    "yarn": (hf.LlamaConfig, SIZES | {"rope_parameters": YARN}),
    "yarn, everything said": (
        hf.LlamaConfig,
        SIZES
        | {
            "rope_parameters": YARN
            | {"beta_fast": 8.0, "beta_slow": 0.5, "attention_factor": 1.3, "truncate": False}
        },
    ),
    "mistral": (hf.MistralConfig, SIZES | {"sliding_window": 5}),
    "mistral without a window": (hf.MistralConfig, SIZES | {"sliding_window": None, "head_dim": 16}),
    "qwen2": (hf.Qwen2Config, SIZES),
    "qwen2, a window on the last layers": (
        hf.Qwen2Config,
        SIZES | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": (hf.Qwen3Config, SIZES | {"head_dim": 12, "tie_word_embeddings": True}),
    "qwen3, a window on some layers, biases": (
        hf.Qwen3Config,
        SIZES
        | {
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3_moe": (hf.Qwen3MoeConfig, SIZES | MOE | {"norm_topk_prob": True}),
    "qwen3_moe, shares as they are": (hf.Qwen3MoeConfig, SIZES | MOE | {"norm_topk_prob": False}),
    "qwen3_moe, some blocks dense": (hf.Qwen3MoeConfig, SIZES | MOE | {"mlp_only_layers": [1]}),
    "qwen3_moe, every second block, a window": (
        hf.Qwen3MoeConfig,
        SIZES | MOE | {"decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 7},
    ),
    "mixtral": (hf.MixtralConfig, SIZES | MIXTRAL),
    "mixtral with a window": (hf.MixtralConfig, SIZES | MIXTRAL | {"sliding_window": 5}),
}
"""What the configurations say beyond `SIZES`."""

ENCODER_SIZES = {name: SIZES[name] for name in SIZES if name != "num_key_value_heads"}
ENCODERS = {
    "bert": (hf.BertConfig, hf.BertModel),
    "bert with its head": (hf.BertConfig, hf.BertForMaskedLM),
    "bert with all its heads": (hf.BertConfig, hf.BertForPreTraining),
    "roberta": (hf.RobertaConfig, hf.RobertaModel),
    "roberta with its head": (hf.RobertaConfig, hf.RobertaForMaskedLM),
}

WRITTEN_OTHERWISE = {"decoder_sparse_step", "mlp_only_layers", "n_inner", "max_window_layers", "head_dim"}
"""Fields that say the same in another way."""
NO_MATTER = {"pad_token_id", "bos_token_id", "eos_token_id", "initializer_range", "attention_dropout"}
NO_MATTER |= {"attn_pdrop", "embd_pdrop", "resid_pdrop", "architectures", "sliding_window", "_name_or_path"}


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Nothing is 0 or 1, the same on every call."""
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            inputs = weight.shape[0] if "c_" in name else weight.shape[-1]
            weight.copy_(noise * inputs**-0.5)
        else:
            weight.copy_(
                0.2 * noise + ("norm" in name.lower() or "ln_" in name) * (not name.endswith("bias"))
            )


@dataclass
class Pair:
    name: str
    folder: Path
    theirs: Any
    ours: Decoder


@pytest.fixture(scope="module", params=list(DECODERS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of transformers', and ours from its folder."""
    kind, fields = DECODERS[request.param]
    model = hf.AutoModelForCausalLM.from_config(kind(**fields)).eval()
    randomise(model)
    folder = tmp_path_factory.mktemp("family")
    model.save_pretrained(folder)
    return Pair(request.param, folder, model, read_decoder(folder).eval())


def some_ids(rows: int, length: int = T) -> Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def furthest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def test_logits(pair: Pair) -> None:
    ids = some_ids(3)
    expected = pair.theirs(ids).logits
    assert 0.5 < expected.std() < 10, "a comparison of noise"
    assert furthest(pair.ours(ids), expected) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(pair: Pair, side: str) -> None:
    ids, lengths = some_ids(3), [T, 9, 15]
    present = torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate(lengths):
        present[row, -length:] = side == "left"
        present[row, :length] |= side == "right"
    ids = ids.masked_fill(~present, PAD)
    positions = (present.long().cumsum(1) - 1).clamp(min=0)
    expected = pair.theirs(ids, attention_mask=present.long(), position_ids=positions).logits
    ours = pair.ours(ids, Layout.padded(present))
    assert ours.isfinite().all()
    assert furthest(ours[present], expected[present]) <= 1e-5
    if pair.name != "dynamic rope":  # whose angles depend on the longest text of the batch
        for row, length in enumerate(lengths):
            alone = pair.ours(ids[row, present[row]][None])[0]
            assert len(alone) == length and furthest(ours[row, present[row]], alone) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[10, *[1] * 14], [3, 9, 12]])
def test_with_a_cache(pair: Pair, chunks: list[int]) -> None:
    ids = some_ids(2)
    cache, past = pair.ours.new_cache(2, T), hf.DynamicCache(config=pair.theirs.config)
    found, expected, begin = [], [], 0
    for length in chunks:
        end = begin + length
        positions = torch.arange(begin, end).expand(2, -1)
        found.append(pair.ours(ids[:, begin:end], cache.layout(positions)))
        expected.append(pair.theirs(ids[:, begin:end], past_key_values=past, use_cache=True).logits)
        begin = end
    assert furthest(torch.cat(found, 1), torch.cat(expected, 1)) <= 1e-5
    if pair.name != "dynamic rope":  # whose cached keys keep the angles of when they were written
        assert furthest(torch.cat(found, 1), pair.ours(ids)) <= 1e-5


@torch.no_grad()
def test_written_back(pair: Pair, tmp_path: Path) -> None:
    write_model(pair.ours, tmp_path)
    same_tensors(tmp_path, pair.folder)
    theirs, info = hf.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    check_loaded(pair.theirs, theirs, info)
    ids = some_ids(2)
    assert torch.equal(theirs.eval()(ids).logits, pair.theirs(ids).logits)
    assert read_decoder(tmp_path).config == pair.ours.config


def test_weights_are_counted(pair: Pair) -> None:
    real = sum(weight.numel() for weight in pair.theirs.parameters())
    assert pair.ours.config.parameters() == real == sum(w.numel() for w in pair.ours.parameters())
    tables = [pair.ours.embedding, pair.ours.position_embedding, pair.ours.head]
    rest = real - sum(table.weight.numel() for table in tables if table is not None)
    assert pair.ours.config.parameters(embedding=False) == rest


def same_tensors(ours: Path, theirs: Path) -> None:
    written, published = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert sorted(written) == sorted(published)
    for name, tensor in published.items():
        assert torch.equal(written[name], tensor), name


def check_loaded(model: Any, again: Any, info: dict[str, Any]) -> None:
    """The second is the first: nothing missing, every tensor, every field that matters."""
    assert not any(info.values()), info
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    before, after = model.config.to_dict(), again.config.to_dict()
    for name in before.keys() - NO_MATTER - WRITTEN_OTHERWISE:
        assert after[name] == before[name], name
    windows = [getattr(c, "sliding_window", None) for c in (model.config, again.config)]
    assert windows[0] == windows[1]


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_encoders(name: str, tmp_path: Path) -> None:
    kind, architecture = ENCODERS[name]
    fields = ENCODER_SIZES | ({"pad_token_id": 0} if kind is hf.BertConfig else {"type_vocab_size": 1})
    model = architecture(kind(**fields)).eval()
    randomise(model)
    model.save_pretrained(tmp_path / "theirs")
    ours = read_encoder(tmp_path / "theirs").eval()
    pad = model.config.pad_token_id
    assert ours.config.pad == pad
    for side in ("none", "left", "right"):
        ids = some_ids(3)
        present = torch.ones_like(ids, dtype=torch.bool)
        if side != "none":
            present[0, :9] = side != "left"
            present[1, -7:] = side != "right"
        ids = ids.masked_fill(~present, pad)
        types = torch.randint(0, model.config.type_vocab_size, ids.shape)
        more = {"attention_mask": present.long(), "token_type_ids": types}
        if kind is hf.BertConfig:  # the other works positions out of the padding itself
            more["position_ids"] = (present.long().cumsum(1) - 1).clamp(min=0)
        expected = model(ids, output_hidden_states=True, **more)
        states = ours(ids, present, types)
        assert furthest(states[present], expected.hidden_states[-1][present]) <= 1e-5
        if "pooler_output" in expected and side != "left":
            assert furthest(ours.pool(states), expected.pooler_output) <= 1e-5
        logits = expected.get("logits", expected.get("prediction_logits"))
        assert (logits is None) == (ours.head is None)
        if logits is not None:
            assert furthest(ours.logits(states)[present], logits[present]) <= 1e-5
    save_encoder(ours, tmp_path / "ours")
    assert read_encoder(tmp_path / "ours").config == ours.config
    if architecture is hf.BertForPreTraining:
        return  # which goes on without its guess at the next sentence
    same_tensors(tmp_path / "ours", tmp_path / "theirs")
    again, info = architecture.from_pretrained(tmp_path / "ours", output_loading_info=True)
    check_loaded(model, again, info)
