"""Clients that leave or wait, and models that fail: what happens to the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from sishu.generate.engine import Engine, Piece, Sampling
from sishu.serve.app import create_app


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


def test_leaving_a_stream_stops_the_work(slow: SlowEngine, start_server: Callable[[FastAPI], str]) -> None:
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
