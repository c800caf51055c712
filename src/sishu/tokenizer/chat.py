"""How a conversation is written down, for training and for serving alike.

The template is flat: every message is a role token, its text, and an end token.

    <|bos|><|user|>What is `json.dumps` for?<|end|><|assistant|>`json.dumps`: Serialize …<|end|>

Text always stands between two special tokens, so its ids do not depend on its neighbours, and text that
spells a special token stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sishu.console import UserError

SPECIAL_TOKENS = ("<|bos|>", "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The same layout for other software that reads the folder; a test holds the two equal."""


@dataclass(frozen=True, slots=True)
class ConversationPiece:
    """A special token or a stretch of text; `learnt` marks what the assistant says, its end included."""

    text: str
    special: bool
    learnt: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids and, for each, whether the loss counts it."""

    ids: list[int]
    mask: list[bool]


def render(
    messages: Sequence[Mapping[str, str]], generation_prompt: bool = False
) -> Iterator[ConversationPiece]:
    """The pieces of a conversation in order; with `generation_prompt` it ends where an answer begins.

    Raises UserError for a message without a known role or without text.
    """
    yield ConversationPiece("<|bos|>", special=True)
    for number, message in enumerate(messages, 1):
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        )
        if role not in ROLES or not isinstance(content, str):
            raise UserError(
                f"Message {number} needs a role ({', '.join(ROLES)}) and a text as content, "
                f"not role {role!r} with content of type {type(content).__name__}."
            )
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"Message {number} holds half of a surrogate pair at character {error.start}: it is not "
                "text; mend it where it was cut."
            ) from error
        learnt = role == "assistant"
        yield ConversationPiece(f"<|{role}|>", special=True)
        yield ConversationPiece(content, special=False, learnt=learnt)
        yield ConversationPiece("<|end|>", special=True, learnt=learnt)
    if generation_prompt:
        yield ConversationPiece("<|assistant|>", special=True)
