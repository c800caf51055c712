"""One training step's loss and gradients equal those of transformers' Qwen3 on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu.batches.batch import IGNORED, Batch
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.families import qwen3
from sishu.models.folder import load_decoder, save_model
from sishu.objectives.language import next_token
from sishu.tokenizer.tokenizer import Tokenizer


def one_step(folder: Path, masked: bool) -> None:
    ours, _ = load_decoder(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").train()
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
    gradients = dict(theirs.named_parameters())
    names = qwen3.weight_names(ours.config)
    for name, weight in ours.named_parameters():
        assert weight.grad is not None and gradients[names[name]].grad is not None
        assert weight.grad.abs().max() > 1e-6, f"{name} learns nothing: this would compare zeros"
        torch.testing.assert_close(
            weight.grad, gradients[names[name]].grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("masked", [False, True])
def test_tied(tiny_model_folder: Path, masked: bool) -> None:
    one_step(tiny_model_folder, masked)


def test_untied_with_another_base(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    torch.manual_seed(3)
    config = DecoderConfig(320, 24, 1, 3, 1, 8, 48, 64, rope_theta=500_000.0, norm_eps=1e-5, tied=False)
    save_model(Decoder(config), tiny_tokenizer, tmp_path)
    one_step(tmp_path, masked=True)
