"""`sishu few-shot` and `sishu long-context` on a real small model, and what they refuse."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from sishu import cli
from sishu.console import UserError
from sishu.evaluate.few_shot import answers
from sishu.evaluate_commands import examples_at, numbers, prompt_names
from sishu.generate.batching import BatchingEngine
from sishu.models.decoder import Decoder
from sishu.models.folder import save_model
from sishu.models.longer import longer
from sishu.serve.models_of_run import model_at
from sishu.stages.lengthen import stretched
from sishu.tokenizer.tokenizer import Tokenizer

DATA = [{"input": f"thing {n}", "output": ("blue", "green")[n % 2]} for n in range(20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(stretched(tiny_decoder, longer(tiny_decoder.config, 8)), tiny_tokenizer, folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, DATA)))
    return path


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sishu", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def self_contained(page: str) -> None:
    assert page.startswith("<!doctype html>") and "<script" not in page
    assert not re.search(r"(?:src|href)\s*=|url\(\s*['\"]?http|@import", page)


def test_few_shot_prints_a_curve_and_writes_a_page(
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "page.html"
    words = ["few-shot", model, data, "--labels", "--calibrate", "--shots", "0,2", "--questions", 8]
    assert command(monkeypatch, *words, "--repeats", 2, "--out", out) == 0
    said = capsys.readouterr().out
    assert "8 questions of" in said and "wanted: " in said and str(out.resolve()) in said
    page = out.read_text(encoding="utf-8")
    self_contained(page)
    assert page.count("<svg") == 2 and "Right answers by examples" in page
    means = re.findall(r"<tr><th>(\d+)</th><td>([\d.]+)%</td>", page)
    assert [shots for shots, _ in means] == ["0", "2"]
    assert all(f"│ {shots}" in said and f"{mean}%" in said for shots, mean in means)


def test_one_question_is_answered_behind_all_examples(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        command(monkeypatch, "few-shot", model, data, "--ask", "thing", "--ask", "x", "--max-tokens", 9) == 0
    )
    engine, examples = BatchingEngine.load(model_at(model)), examples_at(str(data))
    expected = [line for answer in answers(engine, examples, ["thing", "x"]) for line in answer.split("\n")]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(expected) and all(e.startswith(s) for e, s in zip(expected, said, strict=True))


def test_long_context_prints_tables_and_writes_a_page(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("a.txt", "b.md"):
        (texts / name).write_text(f"<b>{name}</b> What is a list? 学而时习之. " * 60)
    out = tmp_path / "page.html"
    words = ["long-context", model, "--text", texts, "--lengths", "500,300", "--trials", 1]
    assert command(monkeypatch, *words, "--windows", 2, "--out", out) == 0
    said = capsys.readouterr().out
    assert "Perplexity by position, 2 texts" in said and "Hidden numbers, 1 a cell" in said
    page = out.read_text(encoding="utf-8")
    self_contained(page)
    assert page.count("<svg") == 4 and page.count('class="heat"') == 2 * 2 * 5
    assert f"<h1>{model.name}</h1>" in page and str(model) not in page
    assert "0 to 30" in page and "468 to 499" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["few-shot", "{model}", "sentimnt"], "no file sentimnt.*such as sentiment.csv"),
        (["few-shot", "{model}", "{data}", "--shots", "1,x"], "--shots is '1,x'"),
        (["few-shot", "{model}", "{data}", "--shots", "-1"], "--shots is '-1'"),
        (["few-shot", "{model}", "{data}", "--calibrate"], "give --labels too"),
        (["few-shot", "{model}", "{data}", "--questions", "15"], "15 questions leave 5 to show"),
        (["few-shot", "{data}", "{data}"], "GGUF"),
        (["long-context", "{model}", "--text", "{none}"], "no text in"),
        (["long-context", "{model}", "--text", "{data}", "--lengths", "1025"], "from 2 to 1,024"),
        (["long-context", "{model}", "--text", "{short}"], "has [0-9,]+ tokens and a length of 1,024"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str],
    message: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "short.txt").write_text("What is a list?")
    places = {"model": model, "data": data, "none": tmp_path / "none", "short": tmp_path / "short.txt"}
    assert command(monkeypatch, *(word.format(**places) for word in words)) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1


def test_numbers() -> None:
    assert numbers("4, 0,2", "--shots") == [0, 2, 4]
    with pytest.raises(UserError):
        numbers("", "--shots")


def test_the_examples_that_come_with_sishu_can_be_read() -> None:
    assert prompt_names() == ["assistant.jsonl", "sentiment.csv", "translate-en-zh.jsonl"]
    sentiment = examples_at("sentiment")
    assert sentiment.labels == ("positive", "negative") and len(sentiment.items) == 32
    assert examples_at("translate-en-zh").output_name == "Chinese"
    assert examples_at("assistant.jsonl").stop == "\n\nQuestion:"
