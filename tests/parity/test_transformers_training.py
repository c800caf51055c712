"""One training step's loss and gradients equal those of transformers on the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from sishu.batches.batch import IGNORED, Batch
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.families.decoders import DECODERS
from sishu.models.folder import read_decoder, save_model
from sishu.native import training
from sishu.native.build import library
from sishu.nn.rotary import RopeScaling
from sishu.objectives import cross_entropy
from sishu.objectives.language import next_token
from sishu.tokenizer.tokenizer import Tokenizer


def one_step(folder: Path, masked: bool) -> None:
    ours = read_decoder(folder)
    theirs = hf.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").train()
    ids = torch.randint(6, 320, (3, 41), generator=torch.Generator().manual_seed(2))
    labels = ids.clone()
    if masked:
        labels[:, :15] = IGNORED
        labels[1, 30:] = IGNORED
    loss = next_token(ours, Batch({"ids": ids[:, :-1], "targets": labels[:, 1:]}, 1.0)).total
    expected = theirs(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    loss.backward()
    expected.backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    found = {name: weight.grad for name, weight in ours.named_parameters()}
    for rule in DECODERS[ours.config.family].rules(ours.config):
        for name, gradient in rule.to_theirs(found).items():
            size = gradient.abs().max()
            assert size > 1e-6, f"{name} learns nothing: this would compare zeros"
            torch.testing.assert_close(
                gradient, gradients[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("masked", [False, True])
def test_tied(tiny_model_folder: Path, masked: bool) -> None:
    one_step(tiny_model_folder, masked)


def test_untied_with_another_base(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    torch.manual_seed(3)
    config = DecoderConfig(320, 24, 1, 3, 1, 8, 48, 64, rope_theta=500_000.0, norm_eps=1e-5, tied=False)
    save_model(Decoder(config), tiny_tokenizer, tmp_path)
    one_step(tmp_path, masked=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "llama", "qk_norm": False, "rope_scaling": RopeScaling("llama3", 4.0, 16)},
        {"family": "llama", "qk_norm": False, "rope_scaling": RopeScaling("yarn", 4.0, 16), "tied": False},
        {"family": "mistral", "qk_norm": False, "window": 7},
        {"family": "qwen2", "qk_norm": False, "attention_bias": True, "window": 9, "window_layers": (1,)},
        {
            "family": "gpt2",
            "qk_norm": False,
            "kv_heads": 4,
            "norm": "layer",
            "positions": "learned",
            "attention_bias": True,
            "output_bias": True,
            "gated": False,
            "activation": "gelu_tanh",
            "mlp_bias": True,
        },
    ],
    ids=lambda changes: changes["family"],
)
def test_other_families(
    tmp_path: Path, tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer, changes: dict[str, Any]
) -> None:
    torch.manual_seed(3)
    decoder = Decoder(replace(tiny_config, **changes))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    save_model(decoder, tiny_tokenizer, tmp_path)
    one_step(tmp_path, masked=True)


SIZES = {
    "vocab_size": 320,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GPT2 = {
    "vocab_size": 320,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.2,
}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
THEIRS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, SIZES),
    "qwen3": (hf.Qwen3Config, SIZES | {"head_dim": 16, "tie_word_embeddings": True}),
    "gpt2": (hf.GPT2Config, GPT2),
}


@pytest.mark.parametrize("pieces", [False, True], ids=["head at once", "head in pieces"])
@pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])
@pytest.mark.parametrize("family", THEIRS)
def test_models_of_theirs(
    tmp_path: Path, family: str, compiled: bool, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our compiled functions and by torch's, the logits formed at once and some tokens at a time."""
    if compiled and library() is None:
        pytest.skip("needs a C++ compiler")
    if not compiled:
        monkeypatch.setattr(training, "knows", lambda *_: False)
        monkeypatch.setattr(cross_entropy, "cross_entropy_", lambda *_: None)
    if pieces:  # of 16 tokens, of which the last has fewer
        monkeypatch.setattr(cross_entropy, "rows_at_once", lambda *_: 16)
    torch.manual_seed(4)
    config, fields = THEIRS[family]
    hf.AutoModelForCausalLM.from_config(config(**fields)).save_pretrained(tmp_path)
    one_step(tmp_path, masked=True)
