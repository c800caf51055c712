"""Folders are read by transformers with the same logits, and by us with every tensor accounted for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from sishu.console import UserError
from sishu.models.decoder import Decoder, Scorer
from sishu.models.folder import load_decoder, load_scorer, save_model
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe


def test_transformers_computes_our_logits(tiny_model_folder: Path, tiny_decoder: Decoder) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    ids = torch.randint(0, 320, (3, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (theirs(ids).logits - tiny_decoder(ids)).abs().max()
    assert difference < 1e-4


def test_transformers_computes_our_scores(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    scorer = Scorer(tiny_decoder.config)
    scorer.start_from(tiny_decoder, seed=3)
    save_model(scorer, tiny_tokenizer, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.randint(6, 320, (3, 20), generator=torch.Generator().manual_seed(1))
    ids[1, 12:] = tiny_tokenizer.pad
    with torch.no_grad():
        ours = scorer(ids)[torch.arange(3), torch.tensor([19, 11, 19])]
        assert (theirs(ids).logits.squeeze(-1) - ours).abs().max() < 1e-4
    again, _ = load_scorer(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(ids), scorer(ids))


def test_a_reward_model_may_have_a_head_that_it_does_not_need(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    """Reward models of untied decoders were once written with one."""
    scorer = Scorer(replace(tiny_decoder.config, tied=False))
    scorer.start_from(tiny_decoder, seed=3)
    save_model(scorer, tiny_tokenizer, tmp_path)
    path = tmp_path / "model.safetensors"
    assert "lm_head.weight" not in load_file(path)
    save_file(load_file(path) | {"lm_head.weight": torch.zeros(320, 32)}, path)
    again, _ = load_scorer(tmp_path)
    ids = torch.randint(6, 320, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(ids), scorer(ids))


def test_saved_and_loaded_is_bitwise_the_same(tiny_model_folder: Path, tiny_decoder: Decoder) -> None:
    loaded, _ = load_decoder(tiny_model_folder)
    for (name, a), (_, b) in zip(loaded.named_parameters(), tiny_decoder.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_tokenizer_ids_and_template_equal_transformers(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer
) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_model_folder)
    for text in (
        "What is json?",
        "私塾，学而时习之 🙂👩‍👩‍👧",
        "def f(x):\n\treturn x  + 1234567\n\n",
        " \n",
    ):
        assert theirs.encode(text) == tiny_tokenizer.encode(text)
        assert theirs.decode(theirs.encode(text)) == tiny_tokenizer.decode(theirs.encode(text)) == text
    messages = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": " 什么是 `json`？"},
        {"role": "assistant", "content": "A module 🙂"},
        {"role": "user", "content": "Thanks"},
    ]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == tiny_tokenizer.encode_conversation(messages, True).ids


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "cut", "config", "tokenizer"])
def test_a_broken_folder_is_named(tmp_path: Path, tiny_model_folder: Path, change: str) -> None:
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    norm = "model.norm.weight"
    expected = norm
    if change == "missing":
        del weights[norm]
    elif change == "unexpected":
        expected = "model.extra"
        weights["model.extra"] = torch.zeros(2)
    elif change == "shape":
        weights[norm] = torch.zeros(3)
    save_file(weights, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
        expected = "damaged or cut"
    elif change == "config":
        fields = json.loads((tmp_path / "config.json").read_text())
        del fields["head_dim"]
        (tmp_path / "config.json").write_text(json.dumps(fields))
        expected = "head_dim"
    elif change == "tokenizer":
        train_bpe(["abc abd abe abc abd " * 50 + "".join(map(chr, range(0x4E00, 0x4F00))) * 3], 400).save(
            tmp_path
        )
        expected = "not of one run"
    with pytest.raises(UserError, match=expected):
        load_decoder(tmp_path)
