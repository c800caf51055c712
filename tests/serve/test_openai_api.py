"""The server as the real `openai` client sees it, on a tiny random model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from sishu.console import UserError
from sishu.generate.engine import Engine, Piece, Sampling
from sishu.serve.app import create_app

CHAT = [{"role": "user", "content": "What is `json.dumps` for? 学而时习之"}]
GREEDY: dict[str, Any] = {"temperature": 0}
# The random model is sure of itself; heat makes its answers vary.
HOT: dict[str, Any] = {"temperature": 2}


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Engine:
    return Engine.load(tiny_model_folder)


@pytest.fixture(scope="module")
def loads() -> list[str]:
    return []


@pytest.fixture(scope="module")
def address(
    engine: Engine,
    tiny_model_folder: Path,
    loads: list[str],
    start_server: Callable[..., str],
) -> str:
    def load() -> Engine:
        loads.append("tiny-sft")
        return Engine.load(tiny_model_folder)

    def broken() -> Engine:
        raise UserError("there is nothing in this folder: train the model first")

    return start_server(
        create_app({"broken": broken, "tiny-sft": load, "tiny-base": engine}, "tiny-base")
    )


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0, timeout=30)


def chat_ids(engine: Engine) -> list[int]:
    return engine.tokenizer.encode_conversation(CHAT, generation_prompt=True).ids


def refusal(call: Callable[[], Any]) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value


def test_models_default_first(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny-base", "broken", "tiny-sft"]
    assert client.models.retrieve("tiny-sft").object == "model"
    assert refusal(lambda: client.models.retrieve("nobody")).status_code == 404


def test_health_needs_nothing(address: str) -> None:
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.1, "top_p": 0.9}])
def test_whole_chat_is_the_engines_answer(
    client: openai.OpenAI, engine: Engine, sampling: dict[str, float]
) -> None:
    prompt = chat_ids(engine)
    expected = engine.complete([prompt], Sampling(max_tokens=20, seed=7, **sampling))[0]
    answer = client.chat.completions.create(
        model="tiny-base", messages=CHAT, max_tokens=20, seed=7, **sampling
    )
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish
    assert answer.model == "tiny-base"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(expected.ids)
    assert answer.usage.total_tokens == len(prompt) + len(expected.ids)


def test_streamed_chat_says_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-base",
        "messages": CHAT,
        "max_tokens": 30,
        "seed": 3,
        **HOT,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    *body, last = chunks
    assert last.choices == [] and last.usage == whole.usage
    assert all(chunk.usage is None for chunk in body)
    assert body[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in body)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in body if c.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_begin_a_document(client: openai.OpenAI, engine: Engine) -> None:
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("The school")]
    expected = engine.complete([prompt], Sampling(max_tokens=16, temperature=0))[0]
    asked: dict[str, Any] = {"model": "tiny-base", "max_tokens": 16, **GREEDY}
    by_text = client.completions.create(prompt="The school", **asked)
    by_ids = client.completions.create(prompt=prompt, **asked)
    assert by_text.choices[0].text == by_ids.choices[0].text == expected.text
    assert by_text.usage == by_ids.usage
    streamed = client.completions.create(prompt="The school", stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected.text


def test_several_prompts_and_choices_are_numbered_by_prompt(
    client: openai.OpenAI,
) -> None:
    asked: dict[str, Any] = {"model": "tiny-base", "max_tokens": 8, "seed": 11, **HOT}
    both = client.completions.create(prompt=["The", "def f"], n=2, **asked)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in both.choices}) == 4
    alone = client.completions.create(prompt="def f", n=2, **asked)
    assert [c.text for c in both.choices[2:]] == [c.text for c in alone.choices]


def test_n_choices_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-base",
        "messages": CHAT,
        "n": 2,
        "max_tokens": 24,
        **HOT,
    }

    def texts(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(seed=seed, **asked)
        return [choice.message.content for choice in answer.choices]

    first = texts(5)
    assert first[0] != first[1]
    assert texts(5) == first
    assert texts(6) != first
    chunks = list(client.chat.completions.create(seed=5, stream=True, **asked))
    for index, text in enumerate(first):
        own = [c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == index]
        assert "".join(own) == text


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_extreme_seeds(client: openai.OpenAI, seed: int) -> None:
    client.completions.create(model="tiny-base", prompt="x", seed=seed, n=2, max_tokens=1)


def test_without_a_seed_answers_vary(client: openai.OpenAI) -> None:
    texts = {
        client.completions.create(model="tiny-base", prompt="The", max_tokens=24, **HOT)
        .choices[0]
        .text
        for _ in range(3)
    }
    assert len(texts) > 1


def test_stop_strings(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-base",
        "prompt": "The",
        "max_tokens": 40,
        "seed": 2,
        **HOT,
    }
    text = client.completions.create(**asked).choices[0].text
    stop = text[10:13]
    assert len(text) > 13 and text.index(stop) > 0, "choose a seed with a more varied answer"
    for given in (stop, ["never in the text", stop]):
        stopped = client.completions.create(stop=given, **asked).choices[0]
        assert stopped.text == text[: text.index(stop)]
        assert stopped.finish_reason == "stop"
        chunks = client.completions.create(stop=given, stream=True, **asked)
        assert "".join(c.choices[0].text for c in chunks) == stopped.text


def test_top_k_and_repetition_penalty_reach_the_engine(
    client: openai.OpenAI, engine: Engine
) -> None:
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("The")]
    for extra in ({"top_k": 3}, {"repetition_penalty": 1.5}):
        plain = Sampling(max_tokens=20, seed=1, temperature=2)
        expected = engine.complete([prompt], replace(plain, **extra))[0].text
        assert expected != engine.complete([prompt], plain)[0].text
        answer = client.completions.create(
            model="tiny-base", prompt="The", max_tokens=20, seed=1, extra_body=extra, **HOT
        )
        assert answer.choices[0].text == expected


def test_the_default_limit_is_what_fits(client: openai.OpenAI, engine: Engine) -> None:
    # Excluding every stop token is not on offer, so look for a seed that runs to the end.
    for seed in range(30):
        answer = client.chat.completions.create(model="tiny-base", messages=CHAT, seed=seed)
        if answer.choices[0].finish_reason == "length":
            assert answer.usage is not None
            assert answer.usage.total_tokens == engine.context_length
            return
    pytest.fail("no seed ran to the end of the context")


def test_an_engine_loads_on_first_use_and_once(
    client: openai.OpenAI, address: str, loads: list[str]
) -> None:
    assert loads == []
    asked = {"model": "tiny-sft", "prompt": "x", "max_tokens": 1}

    def ask() -> None:
        assert httpx.post(f"{address}/v1/completions", json=asked).status_code == 200

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["tiny-sft"]


def test_a_model_that_cannot_load_says_why(client: openai.OpenAI) -> None:
    error = refusal(lambda: client.completions.create(model="broken", prompt="x"))
    assert error.status_code == 503
    assert "train the model first" in str(error)


# ---- refusals


def test_unknown_model(client: openai.OpenAI) -> None:
    error = refusal(lambda: client.chat.completions.create(model="gpt-9", messages=CHAT))
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found" and error.param == "model"
    assert "gpt-9" in str(error) and "tiny-base" in str(error)


def test_overflow_gives_the_numbers(client: openai.OpenAI, engine: Engine) -> None:
    prompt = len(chat_ids(engine))
    error = refusal(
        lambda: client.chat.completions.create(
            model="tiny-base", messages=CHAT, max_completion_tokens=1000, stream=True
        )
    )
    assert isinstance(error, openai.BadRequestError)
    assert error.code == "context_length_exceeded"
    assert all(str(n) in str(error) for n in (prompt, 1000, engine.context_length))
    long = [{"role": "user", "content": "学" * 500}]
    error = refusal(lambda: client.chat.completions.create(model="tiny-base", messages=long))
    assert error.code == "context_length_exceeded"


USER = {"role": "user", "content": "hello"}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least 1"),
    ({}, "messages", "required"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "system"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
    ({"messages": [{"role": "user", "content": None}]}, "messages", "string"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages",
        "not supported yet",
    ),
    ({"messages": [{**USER, "colour": 1}]}, "colour", "no field"),
    (
        {"messages": [{"role": "user", "content": "\ud800"}]},
        "messages",
        "broken character",
    ),
    (
        {"messages": [USER], "tools": [{"type": "function"}]},
        "tools",
        "not supported yet",
    ),
    ({"messages": [USER], "logprobs": True}, "logprobs", "not supported yet"),
    (
        {"messages": [USER], "response_format": {"type": "json_object"}},
        "response_format",
        "not supported yet",
    ),
    (
        {"messages": [USER], "frequency_penalty": 0.5},
        "frequency_penalty",
        "not supported yet",
    ),
    ({"messages": [USER], "temprature": 0.5}, "temprature", "no field"),
    ({"messages": [USER], "temperature": 2.5}, "temperature", "2"),
    ({"messages": [USER], "temperature": "hot"}, "temperature", "number"),
    ({"messages": [USER], "top_p": 0}, "top_p", "greater"),
    ({"messages": [USER], "max_tokens": 0}, "max_tokens", "greater"),
    ({"messages": [USER], "n": 1000}, "n", "less"),
    ({"messages": [USER], "seed": 2**63}, "seed", "less"),
    ({"messages": [USER], "stop": ""}, "stop", "non-empty"),
    ({"messages": [USER], "stop": list("abcde")}, "stop", "at most 4"),
    (
        {"messages": [USER], "stream_options": {"include_usage": True}},
        "stream_options",
        "stream",
    ),
]


@pytest.mark.parametrize(("body", "param", "hint"), REFUSED)
def test_bad_chat_requests(address: str, body: dict[str, Any], param: str, hint: str) -> None:
    answer = httpx.post(
        f"{address}/v1/chat/completions",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert hint in error["message"]


@pytest.mark.parametrize("prompt", [[], [[]], [True], ["a", 1], [["a"]], 5, [320], [-1], None])
def test_bad_prompts(address: str, prompt: Any) -> None:
    answer = httpx.post(f"{address}/v1/completions", json={"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b'{"messages": NaN}', b"\xff"])
def test_bodies_that_are_no_request(address: str, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{address}/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_requests_for_nothing_are_accepted(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="tiny-base",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hel"}]},
        ],
        max_tokens=2,
        tools=[],
        tool_choice="none",
        logprobs=False,
        frequency_penalty=0,
        presence_penalty=None,
        response_format={"type": "text"},
        user="someone",
        stop=None,
        seed=None,
    )


def test_text_parts_are_joined(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny-base", "max_tokens": 12, **GREEDY}
    parts = [{"type": "text", "text": "学而"}, {"type": "text", "text": "时习之"}]
    answers = [
        client.chat.completions.create(messages=[{"role": "user", "content": content}], **asked)
        for content in (parts, "学而时习之")
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].usage == answers[1].usage


def test_unknown_paths_and_methods(address: str) -> None:
    for answer, status in (
        (httpx.get(f"{address}/v1/nothing"), 404),
        (httpx.get(f"{address}/v1/chat/completions"), 405),
        (httpx.get(f"{address}/page/..%2fapp.py"), 404),
        (httpx.get(f"{address}/page/page.py"), 404),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_create_app_checks_its_arguments(engine: Engine) -> None:
    with pytest.raises(UserError, match="no model named 'b'"):
        create_app({"a": engine}, "b")
    with pytest.raises(UserError, match="API key"):
        create_app({"a": engine}, "a", api_key=" ")


# ---- leaving, waiting, failing


class SlowEngine(Engine):
    """The real engine with a pause after each piece, and a count of what was begun and closed."""

    pause = 0.02
    steps = 0
    open = 0
    most_open = 0

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            for piece in super().stream(prompt, sampling):
                self.steps += 1
                time.sleep(self.pause)
                yield piece
        finally:
            self.open -= 1


class FailingEngine(Engine):
    """The real engine, broken after its third piece."""

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        for count, piece in enumerate(super().stream(prompt, sampling)):
            if count == 3:
                raise RuntimeError("out of memory at /secret/path")
            yield piece


@pytest.fixture
def slow(tiny_model_folder: Path) -> SlowEngine:
    engine = SlowEngine.load(tiny_model_folder)
    assert isinstance(engine, SlowEngine)
    return engine


LONG: dict[str, Any] = {"prompt": "The", "max_tokens": 100, "seed": 4}


def settles(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def longest_answer(engine: Engine) -> int:
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("The")]
    return len(engine.complete([prompt], Sampling(max_tokens=100, seed=4))[0].ids)


def test_leaving_a_stream_stops_the_work(
    slow: SlowEngine, start_server: Callable[[FastAPI], str]
) -> None:
    assert longest_answer(slow) > 50, "choose a seed whose answer is long"
    address = start_server(create_app({"slow": slow}, "slow"))
    with httpx.stream("POST", f"{address}/v1/completions", json={**LONG, "stream": True}) as s:
        next(s.iter_lines())
    assert settles(lambda: slow.open == 0)
    assert slow.steps < 40
    # The turn was given back: the next request is answered.
    answer = httpx.post(f"{address}/v1/completions", json={"prompt": "x", "max_tokens": 1})
    assert answer.status_code == 200


def test_leaving_a_whole_answer_stops_the_work(
    slow: SlowEngine, start_server: Callable[[FastAPI], str]
) -> None:
    address = start_server(create_app({"slow": slow}, "slow"))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/completions", json=LONG, timeout=0.3)
    assert settles(lambda: slow.open == 0)
    assert 0 < slow.steps < 50


def test_one_generation_at_a_time_while_the_server_stays_awake(
    slow: SlowEngine, start_server: Callable[[FastAPI], str]
) -> None:
    address = start_server(create_app({"slow": slow}, "slow"))
    answers: list[httpx.Response] = []

    def ask() -> None:
        asked = {**LONG, "max_tokens": 20}
        answers.append(httpx.post(f"{address}/v1/completions", json=asked, timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert settles(lambda: slow.open == 1)
    assert httpx.get(f"{address}/health").status_code == 200
    assert len(answers) < 3, "the generations ended before the health check was asked"
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    assert slow.most_open == 1


def test_a_failure_is_told_without_its_insides(
    tiny_model_folder: Path, start_server: Callable[[FastAPI], str]
) -> None:
    engine = FailingEngine.load(tiny_model_folder)
    address = start_server(create_app({"failing": engine}, "failing"))
    whole = httpx.post(f"{address}/v1/completions", json=LONG)
    assert whole.status_code == 500
    assert whole.json()["error"]["type"] == "server_error"
    assert "secret" not in whole.text
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)
    stream = client.completions.create(model="failing", stream=True, **LONG)
    with pytest.raises(openai.APIError, match="the model failed"):
        list(stream)
