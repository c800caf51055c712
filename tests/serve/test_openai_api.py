"""Answers of the server as the real `openai` client sees them, on a tiny random model."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from sishu.generate.engine import Engine, Sampling

CHAT = [{"role": "user", "content": "What is `json.dumps` for? 学而时习之"}]
GREEDY: dict[str, Any] = {"temperature": 0}


def chat_ids(engine: Engine) -> list[int]:
    return engine.tokenizer.encode_conversation(CHAT, generation_prompt=True).ids


def test_models_default_first(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny-base", "broken", "tiny-sft"]
    assert client.models.retrieve("tiny-sft").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


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
    asked: dict[str, Any] = {
        "model": "tiny-base",
        "max_tokens": 8,
        "seed": 11,
    }
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
        client.completions.create(model="tiny-base", prompt="The", max_tokens=24).choices[0].text
        for _ in range(3)
    }
    assert len(texts) > 1


def test_stop_strings(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-base",
        "prompt": "The",
        "max_tokens": 40,
        "seed": 2,
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


def test_top_k_and_repetition_penalty_reach_the_engine(client: openai.OpenAI, engine: Engine) -> None:
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("The")]
    for extra in ({"top_k": 3}, {"repetition_penalty": 1.5}):
        plain = Sampling(max_tokens=20, seed=1)
        expected = engine.complete([prompt], replace(plain, **extra))[0].text
        assert expected != engine.complete([prompt], plain)[0].text
        answer = client.completions.create(
            model="tiny-base", prompt="The", max_tokens=20, seed=1, extra_body=extra
        )
        assert answer.choices[0].text == expected


def test_the_default_limit_is_what_fits(client: openai.OpenAI, engine: Engine) -> None:
    room = 5
    prompt = [engine.tokenizer.encode("e")[0]] * (engine.context_length - room)
    answers = [client.completions.create(model="tiny-base", prompt=prompt, seed=seed) for seed in range(9)]
    full = [answer for answer in answers if answer.choices[0].finish_reason == "length"]
    assert full, "every seed ended by itself"
    for answer in full:
        assert answer.usage is not None and answer.usage.completion_tokens == room


def test_an_engine_loads_on_first_use_and_once(client: openai.OpenAI, address: str, loads: list[str]) -> None:
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
    with pytest.raises(openai.APIStatusError, match="train the model first") as caught:
        client.completions.create(model="broken", prompt="x")
    assert caught.value.status_code == 503
