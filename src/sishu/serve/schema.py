"""What a client may ask: the request bodies of the OpenAI-compatible routes.

Field names and meanings follow https://platform.openai.com/docs/api-reference; `top_k` and
`repetition_penalty` are the additions vLLM made popular. A field that would change the answer and
that we cannot honour yet is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sishu.serve.errors import ApiError

MAX_CHOICES = 16
MAX_STOPS = 4
MAX_PROMPTS = 64

# Fields that never change an answer: accepted with any value.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)

# Fields we do not support yet, with the values that ask for nothing.
NOT_YET: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def plain_text(value: str, param: str) -> str:
    """`value` itself; refuses lone surrogates (JSON can spell them, no text contains them)."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ApiError(f"{param} holds a broken character (half a pair)", param=param) from error
    return value


def _content(value: Any) -> str:
    """Message content as one string: a string, or a list of text parts joined as they stand."""
    if isinstance(value, str):
        return plain_text(value, "messages")
    if isinstance(value, list):
        return "".join(_part(part) for part in value)
    raise ApiError("message content must be a string or a list of text parts", param="messages")


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise ApiError(
            f"a content part of type {kind!r} is not supported yet; send text parts",
            param="messages",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise ApiError("a text part must hold its text as a string", param="messages")
    return plain_text(text, "messages")


def _stops(value: Any) -> tuple[str, ...]:
    """`stop` as a tuple; one string or up to four, none of them empty."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ApiError("stop must be a non-empty string or a list of non-empty strings", param="stop")
    if len(stops) > MAX_STOPS:
        raise ApiError(f"stop takes at most {MAX_STOPS} strings, got {len(stops)}", param="stop")
    return tuple(plain_text(stop, "stop") for stop in stops)


def _prompts(value: Any) -> list[str | list[int]]:
    """`prompt` as a list: a text, texts, token ids, or lists of token ids."""
    single = isinstance(value, str) or (isinstance(value, list) and bool(value) and all(map(_is_id, value)))
    prompts = [value] if single else value
    if not isinstance(prompts, list) or not prompts or not all(map(_is_prompt, prompts)):
        raise ApiError(
            "prompt must be a string, a list of strings, or non-empty lists of token ids",
            param="prompt",
        )
    if len(prompts) > MAX_PROMPTS:
        raise ApiError(f"prompt takes at most {MAX_PROMPTS} entries, got {len(prompts)}", param="prompt")
    return [plain_text(p, "prompt") if isinstance(p, str) else p for p in prompts]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_id, value))
    return isinstance(value, str)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    subject: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _settle_other_fields(cls, body: Any) -> Any:
        """Drop nulls and requests for nothing; refuse by name whatever we cannot honour."""
        if not isinstance(body, dict):
            return body
        kept: dict[str, Any] = {}
        for name, value in body.items():
            if value is None and name not in ("role", "content"):
                continue
            if name in cls.model_fields:
                kept[name] = value
            elif name in WITHOUT_EFFECT or value in NOT_YET.get(name, ()):
                continue
            elif name in NOT_YET:
                raise ApiError(f"{name} is not supported yet", param=name)
            else:
                raise ApiError(f"{cls.subject} has no field named {name!r}", param=name)
        return kept


class Message(_Body):
    """One turn of a conversation; `developer` is OpenAI's newer word for `system`."""

    subject: ClassVar[str] = "a message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content)]

    def plain(self) -> dict[str, str]:
        """The message as the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class StreamOptions(_Body):
    """Options of a streamed answer; padding against traffic analysis is accepted, not added."""

    subject: ClassVar[str] = "stream_options"
    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(_Body):
    """The fields chat and plain completions share."""

    subject: ClassVar[str] = "this request"
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, ge=1, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[tuple[str, ...], BeforeValidator(_stops)] = ()
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ApiError(
                "stream_options is only allowed together with stream: true",
                param="stream_options",
            )
        return self

    @property
    def token_limit(self) -> int | None:
        """The number of tokens asked for, None where the client leaves it to the server."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens`, or its older name `max_tokens`; the smaller where both are."""
        given = [x for x in (self.max_completion_tokens, self.max_tokens) if x is not None]
        return min(given, default=None)


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
