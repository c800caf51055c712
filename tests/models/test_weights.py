"""Weights on disk: files of others in all their spellings, and what does not fit, by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from sishu.console import UserError
from sishu.models import weights
from sishu.models.decoder import Decoder, DecoderConfig, Experts
from sishu.models.encoder import Encoder, EncoderConfig
from sishu.models.encoder_folder import read_encoder, save_encoder
from sishu.models.folder import read_decoder, write_model

FILE = "model.safetensors"
SIZES = {"vocabulary": 60, "width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_width": 8, "hidden": 24}
LLAMA = DecoderConfig(**SIZES, context_length=32, family="llama", qk_norm=False)
GPT2 = DecoderConfig(
    **SIZES,
    context_length=32,
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
MIXTRAL = DecoderConfig(
    **SIZES, context_length=32, family="mixtral", qk_norm=False, tied=False, experts=Experts(3, 2, 24)
)
BERT = EncoderConfig(60, 16, 2, 2, 24, 32, masked_head=True)


def written(config: DecoderConfig | EncoderConfig, folder: Path) -> Any:
    torch.manual_seed(0)
    if isinstance(config, EncoderConfig):
        encoder = Encoder(config)
        save_encoder(encoder, folder)
        return encoder
    decoder = Decoder(config)
    write_model(decoder, folder)
    return decoder


def change(folder: Path, edit: Any) -> None:
    save_file(edit(load_file(folder / FILE)), folder / FILE)


def read(folder: Path) -> torch.nn.Module:
    fields = json.loads((folder / "config.json").read_text())
    return (read_encoder if fields["model_type"] == "bert" else read_decoder)(folder)


def same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("config", [LLAMA, GPT2, MIXTRAL, BERT], ids=lambda c: c.family)
def test_several_files_are_read_as_one(config: DecoderConfig, tmp_path: Path) -> None:
    model = written(config, tmp_path / "one")
    architecture = hf.AutoModelForMaskedLM if config is BERT else hf.AutoModelForCausalLM
    theirs = architecture.from_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="5KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    if config is BERT:  # theirs goes on without the layer over the first token
        model.pooler, model.config = None, read(tmp_path / "many").config
    same(read(tmp_path / "many"), model)


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL], ids=lambda c: c.family)
def test_several_files_are_written_as_transformers_reads_them(
    config: DecoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(config, tmp_path)
    monkeypatch.setattr(weights.save_weights, "__defaults__", (4000,))
    written(config, tmp_path)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    count = len(files)
    assert count > 3 and files == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    assert all((tmp_path / file).stat().st_size < 8000 for file in files)
    same(read(tmp_path), whole)
    theirs, info = hf.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert (theirs.eval()(ids).logits - whole.eval()(ids)).abs().max() < 1e-5
    monkeypatch.undo()
    written(config, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == [FILE], "files of the earlier model stayed"
    same(read(tmp_path), whole)


@pytest.mark.parametrize("config", [LLAMA, GPT2, MIXTRAL, BERT], ids=lambda c: c.family)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_is_kept(config: DecoderConfig, dtype: torch.dtype, tmp_path: Path) -> None:
    written(config, tmp_path / "full")
    model = read(tmp_path / "full").to(dtype)
    save = save_encoder if config is BERT else write_model
    save(model, tmp_path / "half")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / FILE).values()} == {dtype}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == str(dtype)[6:]
    kept = (read_encoder if config is BERT else read_decoder)(tmp_path / "half", dtype=None)
    assert {weight.dtype for weight in kept.parameters()} == {dtype}
    same(kept, model)
    assert {weight.dtype for weight in read(tmp_path / "half").parameters()} == {torch.float32}
    save(kept, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "half" / FILE).read_bytes()


def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    model = written(LLAMA, tmp_path)
    found = read(tmp_path)
    size = (tmp_path / FILE).stat().st_size
    (tmp_path / FILE).write_bytes(b"\xff" * size)  # in place: a mapping of the file would show it
    same(found, model)
    assert all(weight.requires_grad for weight in found.parameters())
    assert all(weight.data_ptr() % 16 == 0 for weight in found.parameters())


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda c: c.family)
def test_a_tied_head_may_be_stored_if_it_is_the_same(config: DecoderConfig, tmp_path: Path) -> None:
    model = written(config, tmp_path)
    table = "model.embed_tokens.weight" if config is LLAMA else "transformer.wte.weight"
    change(tmp_path, lambda tensors: tensors | {"lm_head.weight": tensors[table].clone()})
    same(read(tmp_path), model)
    change(tmp_path, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1e-3})
    with pytest.raises(UserError, match=r"'lm_head.weight'.*differs.*tie_word_embeddings"):
        read(tmp_path)


def test_gpt2_without_its_prefix(tmp_path: Path) -> None:
    """As OpenAI's own files are published, with the masks of old."""
    model = written(GPT2, tmp_path)
    mask = torch.ones(1, 1, 32, 32)
    change(
        tmp_path,
        lambda tensors: (
            {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
            | {f"h.{i}.attn.bias": mask.clone() for i in range(2)}
        ),
    )
    same(read(tmp_path), model)


def test_bert_in_the_names_of_old(tmp_path: Path) -> None:
    """gamma and beta, the head's bias twice, its table, and the head that nobody needs."""
    model = written(BERT, tmp_path)

    def older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
            for name, t in tensors.items()
        }
        assert renamed.keys() != tensors.keys()
        return renamed | {
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
            "cls.seq_relationship.weight": torch.zeros(2, 16),
            "cls.seq_relationship.bias": torch.zeros(2),
            "bert.embeddings.position_ids": torch.arange(32)[None],
        }

    change(tmp_path, older)
    same(read(tmp_path), model)
    bias = "cls.predictions.decoder.bias"
    change(tmp_path, lambda tensors: tensors | {bias: tensors[bias] + 1})
    with pytest.raises(UserError, match=r"'cls.predictions.decoder.bias'.*differs"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA, "model.layers.1.mlp.up_proj.weight"),
        (GPT2, "transformer.h.1.attn.c_attn.bias"),
        (GPT2, "transformer.h.0.attn.c_attn.weight"),
        (MIXTRAL, "model.layers.1.block_sparse_moe.experts.2.w3.weight"),
        (MIXTRAL, "lm_head.weight"),
        (BERT, "bert.encoder.layer.1.output.LayerNorm.bias"),
        (BERT, "cls.predictions.transform.dense.weight"),
    ],
    ids=str,
)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "kind"])
def test_a_tensor_that_does_not_fit_is_named(
    config: DecoderConfig, name: str, fault: str, tmp_path: Path
) -> None:
    written(config, tmp_path)

    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if fault == "missing":
            del tensors[name]
        elif fault == "unexpected":
            tensors[name + "_more"] = torch.zeros(2)
        elif fault == "shape":
            tensors[name] = tensors[name].flatten()[:-1].clone()
        else:
            tensors[name] = tensors[name].to(torch.int8)
        return tensors

    change(tmp_path, spoil)
    told = {
        "missing": f"lacks the tensor {name!r}",
        "unexpected": f"unknown tensor, '{name}_more'",
        "shape": f"{name!r} in .* has shape",
        "kind": f"{name!r} in .* I8.*quantised",
    }
    with pytest.raises(UserError, match=told[fault]):
        read(tmp_path)


class Loud:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('pickled code was run')",)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_unread(tmp_path: Path, file: str) -> None:
    written(LLAMA, tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / file).write_bytes(pickle.dumps(Loud()))
    with pytest.raises(UserError, match="pickled weights alone"):
        read(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=r"model.safetensors is missing"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("{", "not a usable index"),
        ("[]", "not a usable index"),
        ('{"weight_map": {}}', "not a usable index"),
        ('{"weight_map": {"a": "../outside.safetensors"}}', "not a usable index"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "not a usable index"),
        ('{"weight_map": {"a": ".hidden.safetensors"}}', "not a usable index"),
        ('{"weight_map": {"a": "sub/model.safetensors"}}', "not a usable index"),
        ('{"weight_map": {"a": "model.bin"}}', "not a usable index"),
        ('{"weight_map": {"a": 3}}', "not a usable index"),
        ('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}', "lacks 'model-2"),
        ('{"weight_map": {"a": "model-1.safetensors", "b": "copy.safetensors"}}', "is in both"),
    ],
)
def test_an_index_names_files_of_its_folder(tmp_path: Path, index: str, told: str) -> None:
    written(LLAMA, tmp_path / "in")
    file = tmp_path / "in" / FILE
    for copy in (tmp_path / "outside.safetensors", tmp_path / "in" / "copy.safetensors"):
        copy.write_bytes(file.read_bytes())
    file.rename(file.with_name("model-1.safetensors"))
    (tmp_path / "in" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=told):
        read(tmp_path / "in")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (DecoderConfig(**SIZES, context_length=32, family="gpt2"), "norm = 'rms'"),
        (DecoderConfig(**SIZES, context_length=32, family="llama"), "qk_norm = True"),
        (DecoderConfig(**SIZES, context_length=32, family="mixtral"), "has experts"),
        (DecoderConfig(**SIZES, context_length=32, positions="alibi"), "positions = 'alibi'"),
        (DecoderConfig(**SIZES, context_length=32, experts=Experts(2, 1, 8)), "experts"),
    ],
    ids=["gpt2", "llama", "mixtral", "alibi", "experts"],
)
def test_a_shape_that_its_family_has_no_words_for_is_not_written(
    config: DecoderConfig, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"cannot be written|{told}") as error:
        written(config, tmp_path)
    assert told in str(error.value)
    assert not (tmp_path / FILE).exists() and not (tmp_path / "config.json").exists()
