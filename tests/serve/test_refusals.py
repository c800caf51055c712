"""What the server does not accept, and how it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from sishu.console import UserError
from sishu.generate.engine import Engine
from sishu.serve.app import create_app

CHAT = [{"role": "user", "content": "What is `json.dumps` for? 学而时习之"}]
GREEDY: dict[str, Any] = {"temperature": 0}


def refusal(call: Callable[[], Any]) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value


def test_unknown_model(client: openai.OpenAI) -> None:
    error = refusal(lambda: client.chat.completions.create(model="gpt-9", messages=CHAT))
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found" and error.param == "model"
    assert "gpt-9" in str(error) and "tiny-base" in str(error)


def test_overflow_gives_the_numbers(client: openai.OpenAI, engine: Engine) -> None:
    prompt = len(engine.tokenizer.encode_conversation(CHAT, generation_prompt=True).ids)
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
