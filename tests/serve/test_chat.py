"""The conversation in the terminal: what the model is given, what is shown, and the keys that stop it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.generate.engine import Engine, Sampling
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import save_model
from sishu.serve.chat import HARMLESS, Chat, checked_sampling, fitting
from sishu.tokenizer.tokenizer import Tokenizer

COMMAND = [sys.executable, "-m", "sishu", "chat"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    "PYTHONIOENCODING": "utf-8",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TERM": "dumb",
}
GREEDY = Sampling(max_tokens=12, temperature=0)
IN_A_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command with the terminal on its standard input as its own, so that Ctrl-C reaches it."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def alternating(texts: list[str]) -> list[dict[str, str]]:
    return [assistant(text) if i % 2 else user(text) for i, text in enumerate(texts)]


def never_ending(folder: Path, config: DecoderConfig, tokenizer: Tokenizer, context_length: int) -> Path:
    """A model that, taking the likeliest word, never stops: its special tokens have a logit of 0."""
    torch.manual_seed(1)
    decoder = Decoder(replace(config, context_length=context_length))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
        decoder.embedding.weight[list(tokenizer.special.values())] = 0
    save_model(decoder, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def talker(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer
) -> Path:
    """The folder of a model that always fills its answer."""
    return never_ending(tmp_path_factory.mktemp("talker"), tiny_config, tiny_tokenizer, 512)


@pytest.fixture
def chat(talker: Path) -> Chat:
    chat = Chat({"base": talker, "sft": talker}, GREEDY)
    chat.choose("sft")
    return chat


@given(
    st.lists(st.text(max_size=60), min_size=1, max_size=15).filter(lambda texts: len(texts) % 2 == 1),
    st.integers(1, 400),
)
@settings(max_examples=60, deadline=None)
def test_only_the_oldest_turns_go_and_no_more_than_must(
    engine: Engine, texts: list[str], wanted: int
) -> None:
    messages = alternating(texts)
    kept, ids = fitting(engine, messages, wanted)
    room = min(wanted, engine.context_length // 4)

    def needs(some: list[dict[str, str]]) -> int:
        return len(engine.tokenizer.encode_conversation(some, generation_prompt=True).ids) + room

    assert kept == messages[-len(kept) :] and kept[0]["role"] == "user"
    assert ids == engine.tokenizer.encode_conversation(kept, generation_prompt=True).ids
    assert needs(kept) <= engine.context_length or len(kept) == 1
    if len(kept) < len(messages):
        assert needs(messages[-len(kept) - 2 :]) > engine.context_length


def test_forgetting_is_announced(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.messages = alternating(["x" * 200, "one", "y" * 200, "two"])
    assert chat.take("z" * 200)
    assert [m["content"][:3] for m in chat.messages[:3]] == ["yyy", "two", "zzz"]
    told = capsys.readouterr().err
    assert "no longer fits 512 tokens" in told and "left out, 1 of 2." in told


def test_a_question_longer_than_the_context_is_refused_and_changes_nothing(chat: Chat) -> None:
    chat.take("What is it for?")
    before = list(chat.messages)
    with pytest.raises(UserError, match=r"tokens, and the model reads 512 .*shorten"):
        chat.take("不" * 600)
    assert chat.messages == before and len(before) == 2
    chat.choose("base")
    with pytest.raises(UserError, match="shorten"):
        chat.take("不" * 600)


def test_an_answer_cut_short_says_why(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.take("What is it for?")
    assert "Cut after 12 tokens; --max-tokens allows more" in capsys.readouterr().err
    chat = Chat({"sft": chat._models["sft"]}, Sampling(max_tokens=10_000, temperature=0))
    chat.choose("sft")
    chat.take("the school " * 40)
    assert "at the end of the 512 tokens the model reads" in capsys.readouterr().err


def test_changing_the_stage_begins_anew_and_a_wrong_one_changes_nothing(chat: Chat) -> None:
    chat.take("What is it for?")
    with pytest.raises(UserError, match="'ppo' here: choose one of base, sft"):
        chat.take("/stage ppo")
    assert chat.stage == "sft" and len(chat.messages) == 2
    chat.take("/stage base")
    assert chat.stage == "base" and chat.messages == []


def test_commands_leave_the_model_alone(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat.take("") and chat.take("  \t") and chat.take("/help") and chat.take("/reset")
    captured = capsys.readouterr()
    assert captured.out == "" and "/stage" in captured.err
    with pytest.raises(UserError, match=r"no command /nope: /help"):
        chat.take("/nope now")
    assert chat.messages == [] and not chat.take("/quit")


def test_a_model_cannot_command_the_terminal(
    lively_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat({"sft": lively_model_folder}, Sampling(max_tokens=300, temperature=2, seed=1))
    chat.choose("sft")
    said = ""
    while not any(ord(c) < 9 or 10 < ord(c) < 32 or 127 <= ord(c) < 160 for c in said):
        chat.take("Say anything.")
        said += chat.messages[-1]["content"]
        chat._sampling = replace(chat._sampling, seed=(chat._sampling.seed or 0) + 1)
    shown = capsys.readouterr().out
    assert shown and all(c in "\n\t" or ord(c) >= 160 or 32 <= ord(c) < 127 for c in shown)


@pytest.mark.parametrize(
    ("temperature", "max_tokens", "top_p", "seed", "named"),
    [
        (float("nan"), 9, 1.0, None, "--temperature"),
        (-0.1, 9, 1.0, None, "--temperature"),
        (0.3, 0, 1.0, None, "--max-tokens"),
        (0.3, 9, 0.0, None, "--top-p"),
        (0.3, 9, 1.0, -1, "--seed"),
    ],
)
def test_options_out_of_range_are_named(
    temperature: float, max_tokens: int, top_p: float, seed: int | None, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        checked_sampling(temperature, max_tokens, top_p, seed)


def test_piped_questions_get_the_answers_the_engine_gives(talker: Path) -> None:
    engine = Engine.load(talker)
    questions = ["What is `json.dumps` for?", "学而时习之 🙂"]
    options = ["--temperature", "0", "--max-tokens", "12"]
    sent = "\n".join([*questions, "/reset", questions[1], "/nope", "\udcff"]) + "\n"
    done = subprocess.run(
        [*COMMAND, str(talker), *options],
        input=sent.encode("utf-8", "surrogateescape"),
        capture_output=True,
        env=ENVIRONMENT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr and b"no command /nope" in done.stderr

    def answered(*messages: dict[str, str]) -> str:
        ids = engine.tokenizer.encode_conversation(messages, generation_prompt=True).ids
        return engine.complete([ids], GREEDY)[0].text

    first = answered(user(questions[0]))
    second = answered(user(questions[0]), assistant(first), user(questions[1]))
    fresh = answered(user(questions[1]))
    broken = answered(user(questions[1]), assistant(fresh), user("\ufffd"))
    expected = "".join(text + "\n" for text in (first, second, fresh, broken))
    assert done.stdout.decode() == expected.translate(HARMLESS)
    assert second != fresh


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix terminal")
def test_control_c_stops_an_answer_and_then_leaves(
    tmp_path: Path, tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer
) -> None:
    import pty

    folder = never_ending(tmp_path, tiny_config, tiny_tokenizer, 16_384)
    ours, theirs = pty.openpty()
    program = [*COMMAND, str(folder), "--temperature", "0", "--max-tokens", "16000"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *program],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        seen = read_until(ours, lambda text: text.endswith("chat> "))
        assert "/help" in seen
        os.write(ours, b"Go on.\n")
        read_until(ours, lambda text: len(text) > len("Go on.\r\n") + 20)
        os.write(ours, b"\x03")
        seen = read_until(ours, lambda text: text.endswith("chat> "))
        assert "(Stopped.)" in seen and "Traceback" not in seen and "Cut" not in seen
        os.write(ours, b"/help\n")
        assert "/reset" in read_until(ours, lambda text: text.endswith("chat> "))
        for _ in range(20):  # readline may miss a key pressed in the instant in which it shows its prompt
            os.write(ours, b"\x03")
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
                break
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, done: Callable[[str], bool]) -> str:
    """What the terminal shows, until `done` says that it is enough."""
    data, deadline = b"", time.monotonic() + 60
    while not done(data.decode("utf-8", "replace")):
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], data
        data += os.read(terminal, 65536)
    return data.decode("utf-8", "replace")
