"""`sishu serve` on a run that the real stages made, asked by the real `openai` client."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

COMMAND = [sys.executable, "-m", "sishu"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "SISHU_API_KEY"} | {
    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    "PYTHONIOENCODING": "utf-8",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
RECIPE = """
name: tiny
stages: [corpus, tokenizer, pretrain, sft]
corpus: {data: text.txt, min_characters: 1, near_duplicates: false, repeated_passages: false}
tokenizer: {vocabulary: 300}
pretrain:
  model: {depth: 1, width: 32, context_length: 64}
  train: {steps: 2, batch: 2, micro_batch: 2}
sft:
  data: conversations.jsonl
  train: {steps: 2, batch: 2, micro_batch: 2}
"""
LICENSE = Path(__file__).parents[2] / "LICENSE"
"""Real prose that every checkout has."""
Served = tuple[subprocess.Popen[str], str]


def run_to_end(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "text.txt").write_bytes(LICENSE.read_bytes())
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"The {n}."},
            ]
        }
        for n in range(12)
    ]
    (folder / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_to_end(folder, "run", "recipe.yaml", "--run", "made", "--quiet")
    assert done.returncode == 0, done.stderr
    return folder / "made"


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Served]]:
    """`start(path, *words, **environment)`: the command at work, and its address as it prints it."""
    running: list[subprocess.Popen[str]] = []

    def begin(path: Path, *words: str, **environment: str) -> Served:
        process = subprocess.Popen(
            [*COMMAND, "serve", str(path), "--port", str(free_port()), *words],
            env=ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        running.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+) ", said)
        assert found, said
        return process, found[1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(run: Path, start: Callable[..., Served]) -> str:
    return start(run)[1]


def client(address: str, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=30)


def test_finished_stages_are_offered_and_the_furthest_answers(address: str) -> None:
    asked = client(address)
    assert [m.id for m in asked.models.list().data] == ["tiny-sft", "tiny-base"]
    text = asked.completions.create(model="tiny-base", prompt="Lesson", max_tokens=5, temperature=0)
    assert text.model == "tiny-base" and text.usage is not None and text.usage.completion_tokens <= 5


def test_a_streamed_answer_is_the_whole_answer(address: str) -> None:
    def ask(stream: bool) -> object:
        return client(address).chat.completions.create(
            model="tiny-sft",
            messages=[{"role": "user", "content": "What is 7? 七"}],
            max_tokens=20,
            temperature=1,
            seed=3,
            stream=stream,
        )

    whole = ask(stream=False)
    assert isinstance(whole, openai.types.chat.ChatCompletion)
    text = whole.choices[0].message.content
    chunks = list(ask(stream=True))  # type: ignore[call-overload]
    assert text and len(chunks) > 3
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_taken_port_is_one_sentence(address: str, run: Path) -> None:
    port = address.rpartition(":")[2]
    done = run_to_end(run.parent, "serve", "made", "--port", port)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"Port {port} .* already in use: .*\n", done.stderr), done.stderr


def test_a_run_without_a_model_is_one_sentence(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
    done = run_to_end(tmp_path, "serve", "new")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"new has no finished model yet: .*\n", done.stderr), done.stderr


def test_the_key_comes_from_the_environment_and_control_c_ends_cleanly(
    run: Path, start: Callable[..., Served]
) -> None:
    process, address = start(run / "pretrain" / "model", SISHU_API_KEY="secret")
    with pytest.raises(openai.AuthenticationError):
        client(address, key="guess").models.list()
    assert [m.id for m in client(address, key="secret").models.list().data] == ["model"]
    process.send_signal(signal.SIGINT)
    rest, complaints = process.communicate(timeout=20)
    assert (process.returncode, rest, complaints) == (0, "", "")
