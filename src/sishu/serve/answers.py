"""The JSON shapes of answers, whole and streamed, for chat and for plain completions."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, Protocol

Json = dict[str, Any]


class Shape(Protocol):
    """How one kind of answer looks on the wire; `index` counts the choices from 0."""

    prefix: str
    whole: str
    chunk: str

    def choice(self, index: int, text: str, finish: str) -> Json:
        """A finished choice of a whole answer."""
        ...

    def opening(self, index: int) -> Json | None:
        """The chunk that opens a streamed choice, where this kind has one."""
        ...

    def delta(self, index: int, text: str, finish: str | None) -> Json:
        """A piece of a streamed choice; `finish` is set on the last."""
        ...


class ChatShape:
    """`chat.completion` and `chat.completion.chunk`."""

    prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def choice(self, index: int, text: str, finish: str) -> Json:
        """A finished message."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def opening(self, index: int) -> Json | None:
        """The chunk that names the role."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def delta(self, index: int, text: str, finish: str | None) -> Json:
        """A piece of the message; an end without text has an empty delta."""
        return self._chunk(index, {"content": text} if text else {}, finish)

    def _chunk(self, index: int, delta: Json, finish: str | None) -> Json:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


class TextShape:
    """`text_completion`, the same object whole and streamed."""

    prefix = "cmpl-"
    whole = "text_completion"
    chunk = "text_completion"

    def choice(self, index: int, text: str, finish: str | None) -> Json:
        """A finished text."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    def opening(self, index: int) -> Json | None:
        """Plain completions open with their first text."""
        return None

    def delta(self, index: int, text: str, finish: str | None) -> Json:
        """A piece of the text."""
        return self.choice(index, text, finish)


class Answer:
    """One answer under way: its id, time, model and token counts."""

    def __init__(self, shape: Shape, model: str, prompt_tokens: int) -> None:
        self.shape = shape
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self._head: Json = {
            "id": shape.prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
        }

    def usage(self) -> Json:
        """Token counts; a prompt counts once however many choices were drawn from it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def whole(self, choices: list[Json]) -> Json:
        """The complete response body."""
        return {
            **self._head,
            "object": self.shape.whole,
            "choices": choices,
            "usage": self.usage(),
        }

    def event(self, choice: Json, *, wants_usage: bool) -> str:
        """One server-sent event; `usage` is null until the last where usage is asked for."""
        body = {**self._head, "object": self.shape.chunk, "choices": [choice]}
        return event({**body, "usage": None} if wants_usage else body)

    def usage_event(self) -> str:
        """The last event of a stream that asked for usage: no choices, only counts."""
        return event({**self._head, "object": self.shape.chunk, "choices": [], "usage": self.usage()})


def event(body: Json) -> str:
    """`body` as one server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
