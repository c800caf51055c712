"""`sishu generate` and `sishu bench generate` on a tiny real model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sishu.cli import app
from sishu.console import UserError
from sishu.generate.engine import Engine
from sishu.generate.sampling import Sampling


def run(*words: object, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, [*map(str, words)], input=stdin)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def expected(folder: Path, prompt: str, tokens: int) -> str:
    engine = Engine.load(folder)
    ids = engine.tokenizer.begin(engine.tokenizer.encode(prompt))
    return engine.complete([ids], Sampling(max_tokens=tokens, temperature=0.0))[0].text


def test_a_prompt_is_gone_on_with(tiny_model_folder: Path) -> None:
    words = ("generate", tiny_model_folder, "The school", "--temperature", 0, "--max-tokens", 12)
    told = run(*words, "--weights", "fp32")
    assert told == expected(tiny_model_folder, "The school", 12) + "\n"
    assert run(*words, "--weights", "fp32", "--speculate", 3) == told


def test_lines_are_answered_together_and_in_order(tiny_model_folder: Path) -> None:
    prompts = ["The school", "def f", "私塾", "What is"]
    told = run(
        *(
            "generate",
            tiny_model_folder,
            "--temperature",
            0,
            "--max-tokens",
            6,
            "--json",
            "--weights",
            "fp32",
        ),
        stdin="".join(f"{prompt}\n" for prompt in prompts),
    )
    answers = [json.loads(line) for line in told.splitlines()]
    assert [a["prompt"] for a in answers] == prompts
    assert [a["text"] for a in answers] == [expected(tiny_model_folder, p, 6) for p in prompts]
    assert all(len(a["ids"]) == len(a["log_probs"]) and max(a["log_probs"]) <= 0 for a in answers)


def test_a_form_is_kept(tiny_model_folder: Path, tmp_path: Path) -> None:
    told = run("generate", tiny_model_folder, "Is it?", "--regex", "(yes|no)!", "-n", 3, "--seed", 1)
    assert all(re.fullmatch("(yes|no)!", line) for line in told.splitlines()) and told.count("\n") == 3
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["one", "two words"]}')
    told = run("generate", tiny_model_folder, "Numbers.", "--chat", "--json-schema", schema, "--seed", 2)
    assert json.loads(told) in ("one", "two words")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("x", "--weights", "int3"), "must be one of fp32, bf16"),
        (("x", "--stage", "ppo"), "has no model 'ppo'"),
        (("x", "--top-p", 0), "top_p is 0"),
        (("x", "--regex", "("), "regular expression is not usable"),
        (("x", "--regex", "a", "--json-schema", "b"), "cannot both"),
        (("x", "--json-schema", "missing.json"), "not a readable JSON schema"),
        (("x " * 400,), "shorten it"),
    ],
)
def test_what_cannot_be_is_said(tiny_model_folder: Path, words: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        run("generate", tiny_model_folder, *words)


def test_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run's folder nor a model's"):
        run("generate", tmp_path, "x")


def test_speed_is_measured(tiny_model_folder: Path) -> None:
    told = run("bench", "generate", tiny_model_folder, "--json", "--prompt", 16, "--new", 8, "--texts", 2)
    speeds = [json.loads(line) for line in told.splitlines()]
    assert [s["weights"] for s in speeds] == ["fp32", "bf16", "int8", "int4"]
    for speed in speeds:
        rates = [speed[name] for name in ("prefill", "decode", "bound", "together", "seconds_to_load")]
        assert min(rates) > 0 and speed["decode"] < speed["bound"]
    assert speeds[0]["megabytes"] > 1.5 * speeds[1]["megabytes"] > 0
    table = run("bench", "generate", tiny_model_folder, "--weights", "fp32", "--prompt", 16, "--new", 4)
    assert "fp32" in table and "writing 8" in table.replace("\n", " ")
