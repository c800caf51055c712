"""The OpenAI-compatible routes: models, chat completions and plain completions."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sishu.console import UserError
from sishu.generate.engine import Engine, Piece, Sampling
from sishu.serve.answers import DONE, Answer, ChatShape, Shape, TextShape, event
from sishu.serve.errors import BROKEN, ApiError
from sishu.serve.schema import ChatRequest, CompletionRequest, GenerationRequest
from sishu.serve.worker import Worker

log = logging.getLogger("sishu.serve")
router = APIRouter()

DEFAULT_MAX_TOKENS = 1024
"""Longest answer where the client names no limit and the context has room for more."""

CLIENT_GONE = 499
"""nginx's status for a client that left; nobody reads it, but the access log tells the truth."""


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the server is up."""
    return {"status": "ok"}


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The models on offer, the default first."""
    default: str = request.app.state.default_model
    names = sorted(_worker(request).names, key=lambda name: name != default)
    return {"object": "list", "data": [_model(name) for name in names]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model by its id."""
    return _model(_known(request, name))


@router.post("/v1/chat/completions")
async def chat(request: Request, asked: ChatRequest) -> Response:
    """The next message of a conversation."""
    name = _known(request, asked.model)
    engine = await _engine(request, name)
    messages = [message.plain() for message in asked.messages]

    def encode() -> list[list[int]]:
        return [engine.tokenizer.encode_conversation(messages, generation_prompt=True).ids]

    prompts = await _worker(request).call(encode)
    return await _answer(request, asked, name, engine, prompts, ChatShape())


@router.post("/v1/completions")
async def completions(request: Request, asked: CompletionRequest) -> Response:
    """What comes after a text, read as a document's beginning; token ids are taken as given."""
    name = _known(request, asked.model)
    engine = await _engine(request, name)

    def encode() -> list[list[int]]:
        return [_prompt_ids(engine, prompt) for prompt in asked.prompt]

    prompts = await _worker(request).call(encode)
    return await _answer(request, asked, name, engine, prompts, TextShape())


def _prompt_ids(engine: Engine, prompt: str | list[int]) -> list[int]:
    tokenizer = engine.tokenizer
    if isinstance(prompt, str):
        return tokenizer.begin(tokenizer.encode(prompt))
    wrong = next((i for i in prompt if not 0 <= i < tokenizer.vocabulary_size), None)
    if wrong is not None:
        raise ApiError(
            f"prompt holds the token id {wrong}; this model's ids go from 0 to "
            f"{tokenizer.vocabulary_size - 1}",
            param="prompt",
        )
    return prompt


def _worker(request: Request) -> Worker:
    worker: Worker = request.app.state.worker
    return worker


async def _engine(request: Request, name: str) -> Engine:
    try:
        return await _worker(request).engine(name)
    except UserError as error:
        log.error("the model %s cannot be loaded: %s", name, error)
        raise ApiError(
            f"the model {name} cannot be loaded: {error}", status=503, code="model_unavailable"
        ) from error


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sishu"}


def _known(request: Request, name: str | None) -> str:
    """`name`, or the default where none is given; refuses a name this server does not have."""
    if name is None:
        default: str = request.app.state.default_model
        return default
    names = _worker(request).names
    if name not in names:
        raise ApiError(
            f"there is no model named {name!r} here; this server has {', '.join(names)}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return name


@dataclass(frozen=True)
class _Job:
    """One choice to generate."""

    index: int
    prompt: list[int]
    sampling: Sampling


def _jobs(asked: GenerationRequest, prompts: list[list[int]], context: int) -> list[_Job]:
    """A job per prompt and choice; choice k of a prompt is drawn with seed + k."""
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    return [
        _Job(
            index=number * asked.n + choice,
            prompt=prompt,
            sampling=Sampling(
                max_tokens=_room(asked.token_limit, len(prompt), context),
                temperature=asked.temperature,
                top_k=asked.top_k,
                top_p=asked.top_p,
                repetition_penalty=asked.repetition_penalty,
                seed=(seed + choice + 2**63) % 2**64 - 2**63,
                stop=asked.stop,
            ),
        )
        for number, prompt in enumerate(prompts)
        for choice in range(asked.n)
    ]


def _room(limit: int | None, prompt: int, context: int) -> int:
    """How many tokens to generate at most; refuses what the context cannot hold, with numbers."""
    if prompt + (limit or 1) <= context:
        return limit or min(context - prompt, DEFAULT_MAX_TOKENS)
    asked_for = f"the prompt has {prompt} tokens"
    if limit is not None:
        asked_for += f" and {limit} more are asked for"
    raise ApiError(
        f"this model's context holds {context} tokens, but {asked_for}; shorten the "
        "conversation or lower max_tokens",
        param="messages",
        code="context_length_exceeded",
    )


async def _answer(
    request: Request,
    asked: GenerationRequest,
    name: str,
    engine: Engine,
    prompts: list[list[int]],
    shape: Shape,
) -> Response:
    jobs = _jobs(asked, prompts, engine.context_length)
    answer = Answer(shape, name, sum(map(len, prompts)))
    pieces = _pieces(_worker(request), engine, jobs)
    if asked.stream:
        return EventStream(_events(pieces, answer, asked.wants_usage))
    return await _unless_gone(request, _whole(pieces, answer))


async def _pieces(
    worker: Worker, engine: Engine, jobs: list[_Job]
) -> AsyncGenerator[tuple[int, Piece], None]:
    """(choice index, piece) of every job in turn."""
    for job in jobs:
        async with aclosing(worker.stream(engine, job.prompt, job.sampling)) as stream:
            async for piece in stream:
                yield job.index, piece


async def _whole(pieces: AsyncGenerator[tuple[int, Piece], None], answer: Answer) -> JSONResponse:
    texts: dict[int, str] = {}
    choices = []
    try:
        async with aclosing(pieces):
            async for index, piece in pieces:
                answer.completion_tokens += len(piece.ids)
                texts[index] = texts.get(index, "") + piece.text
                if piece.finish is not None:
                    choices.append(answer.shape.choice(index, texts[index], piece.finish))
    except Exception as error:
        log.exception("an answer failed")
        raise ApiError(BROKEN, status=500) from error
    return JSONResponse(answer.whole(choices))


async def _events(
    pieces: AsyncGenerator[tuple[int, Piece], None], answer: Answer, wants_usage: bool
) -> AsyncGenerator[str, None]:
    """The answer as server-sent events; a failure on the way is told in an event of its own."""
    opened: set[int] = set()
    try:
        async with aclosing(pieces):
            async for index, piece in pieces:
                answer.completion_tokens += len(piece.ids)
                opening = answer.shape.opening(index) if index not in opened else None
                opened.add(index)
                if opening is not None:
                    yield answer.event(opening, wants_usage=wants_usage)
                if piece.text:
                    delta = answer.shape.delta(index, piece.text, None)
                    yield answer.event(delta, wants_usage=wants_usage)
                if piece.finish is not None:
                    end = answer.shape.delta(index, "", piece.finish)
                    yield answer.event(end, wants_usage=wants_usage)
    except Exception:
        log.exception("a streamed answer failed")
        yield event(ApiError(BROKEN, status=500).body())
        return
    if wants_usage:
        yield answer.usage_event()
    yield DONE


class EventStream(StreamingResponse):
    """Server-sent events whose source is closed whatever ends them, so that work stops at once."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response `work` makes; when the client leaves first, the work is cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return Response(status_code=CLIENT_GONE)
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client closes its connection; the body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
