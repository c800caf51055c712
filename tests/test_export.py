"""`sishu export`: from a run, a folder or a GGUF file to the form that is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sishu.console import UserError
from sishu.export import export
from sishu.models.decoder import Decoder
from sishu.models.gguf.header import GGUF
from sishu.models.open import open_decoder

IDS = torch.arange(40)[None]


def logits(path: Path) -> torch.Tensor:
    decoder, _ = open_decoder(path)
    with torch.no_grad():
        return decoder.eval()(IDS)


def test_a_folder_becomes_a_file_and_a_folder_again(
    tmp_path: Path, tiny_model_folder: Path, tiny_decoder: Decoder
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_model_folder, folder)
    file = export(folder, "gguf", "f32")
    assert file == tmp_path / "tiny-F32.gguf"
    back = export(file, "hf")
    assert back == tmp_path / "tiny-F32-hf"
    with torch.no_grad():
        assert torch.equal(logits(back), tiny_decoder(IDS))
        theirs = AutoModelForCausalLM.from_pretrained(back).eval()(IDS).logits
        assert (theirs - tiny_decoder(IDS)).abs().max() < 1e-4
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(file, tmp_path / "alone")
    assert export(tmp_path / "alone", "hf") == tmp_path / "alone-hf"
    with pytest.raises(UserError, match="because it is no run"):
        export(Path(alone), "hf", stage="base")
    assert AutoTokenizer.from_pretrained(back).decode([5]) is not None


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_types_are_as_asked_for(tmp_path: Path, tiny_model_folder: Path, kind: str) -> None:
    file = export(tiny_model_folder, "gguf", kind, out=tmp_path / "deep" / "model.gguf")
    assert GGUF(file).tensors["blk.0.attn_q.weight"].kind.name == kind
    assert logits(file).isfinite().all()


def test_precision_is_as_asked_for_or_as_it_was(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = export(tiny_model_folder, "hf", dtype="bfloat16", out=tmp_path / "small")
    stored = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    file = export(folder, "gguf", "F16", out=tmp_path / "model.gguf")
    again = export(file, "hf", out=tmp_path / "again")
    stored = load_file(again / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}


@pytest.fixture
def run(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A run that has finished two stages."""
    folder = tmp_path / "school"
    for stage in ("pretrain", "sft"):
        shutil.copytree(tiny_model_folder, folder / stage / "model")
        (folder / stage / "manifest.json").write_text(json.dumps({"stage": stage}))
    (folder / "recipe.yaml").write_text("name: school\n")
    return folder


def test_a_run_gives_its_furthest_model_or_the_one_asked_for(run: Path) -> None:
    assert export(run, "gguf") == run / "export" / "school-sft-F16.gguf"
    assert export(run, "hf", stage="base") == run / "export" / "school-base-hf"
    with pytest.raises(UserError, match=r"'ppo'; finished are base, sft"):
        export(run, "gguf", stage="ppo")


def sishu(*words: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": source, "COLUMNS": "200"}
    command = [sys.executable, "-m", "sishu", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command(tmp_path: Path, tiny_model_folder: Path) -> None:
    done = sishu("export", str(tiny_model_folder), "--to", "gguf", "--out", str(tmp_path / "tiny.gguf"), "-q")
    assert (done.returncode, done.stdout) == (0, f"{(tmp_path / 'tiny.gguf').resolve()}\n"), done.stderr
    for words in (
        ("export", str(tmp_path), "--to", "onnx"),
        ("pull", "nonsense"),
        ("pull", "a/b", "--to", "x"),
    ):
        done = sishu(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_what_cannot_be_is_told(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = tiny_model_folder
    with pytest.raises(UserError, match="hf or gguf"):
        export(folder, "onnx")
    with pytest.raises(UserError, match=r"--type must be one of F32.*'Q4_K'"):
        export(folder, "gguf", "q4_k")
    with pytest.raises(UserError, match=r"--dtype must be one of.*'int8'"):
        export(folder, "hf", dtype="int8")
    with pytest.raises(UserError, match="takes --type"):
        export(folder, "gguf", dtype="float16")
    with pytest.raises(UserError, match="because it is no run"):
        export(folder, "gguf", stage="sft")
    with pytest.raises(UserError, match="the model itself"):
        export(folder, "hf", out=folder)
    with pytest.raises(UserError, match="neither a run's folder nor a model's"):
        export(tmp_path / "nothing", "gguf")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="other things"):
        export(folder, "hf", out=tmp_path)
    with pytest.raises(UserError, match="is a file"):
        export(folder, "hf", out=tmp_path / "note.txt")
    with pytest.raises(UserError, match="is a folder"):
        export(folder, "gguf", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
