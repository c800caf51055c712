"""A conversation by a foreign chat template: ids, and which of them the assistant says.

Text that spells a special token stays text. Before rendering, every such spelling in what the caller gave is
replaced by a private character, and so is what could become one beside other text ("<|im_" at an end); in
what the template wrote, special tokens are real. Where a text does spell one, the special tokens of a copy of
the tokenizer are renamed to names nobody can know, so that the spelling means nothing there.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors

from sishu.console import UserError
from sishu.tokenizer.chat import Conversation
from sishu.tokenizer.guard import guarded
from sishu.tokenizer.template import render_template, says_generation
from sishu.tokenizer.template_budget import plain

_WORD = re.compile(r"[A-Za-z0-9_ .:/-]{0,64}")
_ROLES = frozenset(("system", "user", "assistant", "tool", "developer", "function", "ipython", "observation"))
_PRIVATE = range(0xF0000, 0x10FFFE)
"""Characters without a meaning of their own, in which spellings are hidden while a template runs."""


@dataclass(frozen=True)
class _Hidden:
    """What the caller gave, with spellings hidden, and what each private character stands for."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    spelt: dict[str, str]


class ForeignChat:
    """Renders conversations of one tokenizer."""

    def __init__(
        self,
        fast: FastTokenizer,
        control: Mapping[str, int],
        stop_ids: frozenset[int],
        tokens: Mapping[str, str],
    ) -> None:
        self._fast_json = fast.to_str
        self._control = dict(control)
        self._stops = {token for token, index in control.items() if index in stop_ids}
        self._variables = {f"{role}_token": token for role, token in tokens.items()}
        longest_first = sorted(control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        starts = {token[:i] for token in control for i in range(1, len(token))}
        ends = {token[i:] for token in control for i in range(1, len(token))}
        self._starts = sorted(starts, key=len, reverse=True)
        self._ends = sorted(ends, key=len, reverse=True)
        nonce = secrets.token_hex(8)
        self._names = {token: f"\U0010fffd{nonce}{number}\U0010fffd" for number, token in enumerate(control)}

    def encode(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        generation_prompt: bool,
        tools: Sequence[Any] | None,
        mask: bool,
    ) -> Conversation:
        """Ids of a conversation, and, if `mask`, what the assistant says in it, its end tokens included.

        Raises UserError when the template refuses it, or when a mask is wanted and the template rewrites
        earlier turns in the light of later ones, so that no answer stands as it was generated.
        """
        try:
            hidden = self._hide(messages, tools)
        except RecursionError as error:
            raise UserError("This conversation is nested too deeply: send plainer messages.") from error

        def render(
            some: Sequence[Mapping[str, Any]], prompt: bool, marks: tuple[str, str] | None = None
        ) -> str:
            variables = {**self._variables, "tools": hidden.tools, "documents": None}
            return render_template(template, some, {**variables, "add_generation_prompt": prompt}, marks)

        if mask and says_generation(template):
            marks = (self._free(hidden, 0), self._free(hidden, 1))
            text, spans = _unmarked(render(hidden.messages, generation_prompt, marks), marks)
        else:
            text = render(hidden.messages, generation_prompt)
            spans = self._spans(text, hidden.messages, render) if mask else []
        return self._encode(text, hidden.spelt, spans)

    @staticmethod
    def _free(hidden: _Hidden, which: int) -> str:
        return chr(_PRIVATE[-2 - which])

    def _hide(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> _Hidden:
        spelt: dict[str, str] = {}
        by_text: dict[str, str] = {}
        everything = json.dumps([messages, tools], ensure_ascii=False, default=str)
        used = set(re.findall("[\U000f0000-\U0010ffff]", everything))
        free = (chr(code) for code in _PRIVATE[:-16] if chr(code) not in used)

        def private(text: str) -> str:
            if text not in by_text:
                by_text[text] = next(free)
                spelt[by_text[text]] = text
            return by_text[text]

        def hide(value: Any, name: str = "") -> Any:
            if isinstance(value, str):
                _check_text(value)
                if name in ("role", "type") and _WORD.fullmatch(value) and value not in self._control:
                    return value
                value = self._pattern.sub(lambda found: private(found[0]), value)
                for end in self._starts:
                    if value.endswith(end):
                        value = value[: len(value) - len(end)] + private(end)
                        break
                for start in self._ends:
                    if value.startswith(start):
                        value = private(start) + value[len(start) :]
                        break
                return value
            if isinstance(value, dict):
                return {
                    key if _WORD.fullmatch(key) else hide(key): hide(item, key)
                    for key, item in value.items()
                    if item is not None or name  # a message without a content is one that lacks the key
                }
            if isinstance(value, list):
                return [hide(item) for item in value]
            return value

        made = []
        for number, message in enumerate(messages, 1):
            role = message.get("role") if isinstance(message, Mapping) else None
            if not isinstance(role, str) or not _WORD.fullmatch(role):
                raise UserError(
                    f"Message {number} needs a role such as system, user or assistant, not {role!r}."
                )
            if role not in _ROLES and {f"<|{role}|>", f"<{role}>", f"[{role}]", role} & self._control.keys():
                raise UserError(f"Message {number} has the role {role!r}, which spells a special token.")
            content = message.get("content")
            if content is not None and not isinstance(content, (str, list)):
                raise UserError(f"Message {number} needs a text as content, not a {type(content).__name__}.")
            try:
                made.append(hide(plain(message)))
            except UserError as error:
                raise UserError(f"Message {number}: {error}") from error
        return _Hidden(made, None if tools is None else hide(plain(list(tools)), "tools"), spelt)

    def _spans(
        self,
        text: str,
        messages: Sequence[Mapping[str, Any]],
        render: Callable[..., str],
    ) -> list[tuple[int, int]]:
        """Where the assistant speaks, found by rendering the conversation up to each answer."""
        spans = []
        for turn, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            until = render(messages[: turn + 1], False)
            same = _common(text, until)
            for found in self._pattern.finditer(until):  # two tokens may begin alike
                if found.start() < same < found.end():
                    same = found.start()
            start = self._start(text, messages, turn, render)
            end = self._end(text, start, same)
            trailer = self._pattern.sub("", until[same:]).strip()
            if start < 0 or end <= start or trailer:
                raise UserError(
                    f"This chat template rewrites message {turn + 1} when more follows, so that it does not "
                    "stand as the model would have generated it and cannot be learnt: end the conversation "
                    "there, or use a template that leaves earlier turns as they are."
                )
            spans.append((start, end))
        return spans

    @staticmethod
    def _start(
        text: str, messages: Sequence[Mapping[str, Any]], turn: int, render: Callable[..., str]
    ) -> int:
        """Where an answer begins: after the prompt that asks for it, or else where its text begins."""
        if turn:
            prompt = render(messages[:turn], True)
            if text.startswith(prompt):
                return len(prompt)
        content = messages[turn].get("content")
        if not isinstance(content, str):
            return -1
        one, other = (
            render([*messages[:turn], {**messages[turn], "content": probe}], False) for probe in ("A", "B")
        )
        begin = _common(one, other)
        return begin if text[:begin] == one[:begin] else -1

    def _end(self, text: str, start: int, until: int) -> int:
        """Where an answer ends: with its first end token, else its last special token, else at `until`."""
        last = until
        for found in self._pattern.finditer(text, max(start, 0), until):
            last = found.end()
            if found[0] in self._stops:
                break
        return last

    @cached_property
    def parsing(self) -> FastTokenizer:
        """The tokenizer, reading special tokens in text, with the places of tokens exact."""
        fast = FastTokenizer.from_str(self._fast_json())
        fast.encode_special_tokens = False
        fast.post_processor = processors.TemplateProcessing(single="$A:0", pair=None, special_tokens=[])
        return fast

    @cached_property
    def _renamed(self) -> tuple[FastTokenizer, dict[int, int]]:
        """A copy whose special tokens have names nobody can know, and the true ids of those."""
        data = json.loads(self._fast_json())
        data["post_processor"] = None
        for token in data["added_tokens"]:
            if token["content"] in self._names:
                token["content"] = self._names[token["content"]]
                token["normalized"] = False
        kept = [t for t in data["added_tokens"] if t["content"] not in self._names.values()]
        renamed = [t for t in data["added_tokens"] if t["content"] in self._names.values()]
        if data["model"].get("type") in ("BPE", "WordPiece", "WordLevel"):
            # renamed in the vocabulary too, so that no text is merged into them and ids stay as they are
            vocabulary = data["model"]["vocab"]
            for token, name in self._names.items():
                if token in vocabulary and token != data["model"].get("unk_token"):
                    vocabulary[name] = vocabulary.pop(token)
            for token in kept:
                vocabulary.setdefault(token["content"], token["id"])
            for token in renamed:
                vocabulary.setdefault(token["content"], token["id"])
        data["added_tokens"] = sorted((*kept, *renamed), key=lambda t: t["id"])
        if data["model"].get("type") == "BPE":
            made = data["model"]["vocab"]
            data["model"]["merges"] = [
                m
                for m in data["model"]["merges"]
                if ("".join(m) if isinstance(m, list) else m.replace(" ", "", 1)) in made
                and all(part in made for part in (m if isinstance(m, list) else m.split(" ")))
            ]
        fast = FastTokenizer.from_str(json.dumps(data))
        true = {fast.token_to_id(name): self._control[token] for token, name in self._names.items()}
        return fast, {index: real for index, real in true.items() if index is not None}

    def _encode(self, text: str, spelt: Mapping[str, str], spans: Sequence[tuple[int, int]]) -> Conversation:
        written = re.findall("[\U000f0000-\U0010ffff]", text)
        escaped = {json.dumps(char)[1:-1]: char for char in spelt}
        if any(code in text for code in escaped):
            # a template that wrote JSON in ASCII escaped the private characters too
            for code, char in escaped.items():
                if code in text:
                    if spans:
                        raise UserError(
                            "This conversation spells special tokens where no mask can follow them."
                        )
                    text = text.replace(code, char)
            written = list(spelt)
        with guarded("This conversation cannot be encoded"):
            if any(char in spelt for char in written):
                return self._encode_spelt(text, spelt, spans)
            made = self.parsing.encode(text, add_special_tokens=False)
            return Conversation(made.ids, _mask(made.offsets, spans))

    def _encode_spelt(
        self, text: str, spelt: Mapping[str, str], spans: Sequence[tuple[int, int]]
    ) -> Conversation:
        fast, true = self._renamed
        hidden = re.compile(self._pattern.pattern + "|[" + "".join(spelt) + "]")
        parts: list[str] = []
        old, new = [0], [0]  # where each part begins, in the rendered text and in what is encoded
        at = 0
        for found in hidden.finditer(text):
            for part, length in (
                (text[at : found.start()], found.start() - at),
                (self._names.get(found[0]) or spelt[found[0]], found.end() - found.start()),
            ):
                parts.append(part)
                old.append(old[-1] + length)
                new.append(new[-1] + len(part))
            at = found.end()
        parts.append(text[at:])

        def moved(place: int) -> int:
            part = bisect_right(old, place) - 1
            return min(new[part] + place - old[part], new[part + 1] if part + 1 < len(new) else 1 << 62)

        made = fast.encode("".join(parts), add_special_tokens=False)
        ids = [true.get(index, index) for index in made.ids]
        return Conversation(ids, _mask(made.offsets, [(moved(a), moved(b)) for a, b in spans]))


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"it holds half of a surrogate pair at character {error.start}: it is not text; mend it where it "
            "was cut."
        ) from error


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    if one.startswith(other):
        return len(other)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _unmarked(text: str, marks: tuple[str, str]) -> tuple[str, list[tuple[int, int]]]:
    """A text without its marks, and the stretches between them."""
    spans, parts, length, start = [], [], 0, -1
    for piece in re.split(f"([{marks[0]}{marks[1]}])", text):
        if piece == marks[0]:
            start = length
        elif piece == marks[1]:
            spans.append((start, length))
        else:
            parts.append(piece)
            length += len(piece)
    return "".join(parts), spans


def _mask(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """For each token whether it lies in one of the spans, at least in part."""
    mask = [False] * len(offsets)
    todo = iter(spans)
    span = next(todo, None)
    for number, (start, end) in enumerate(offsets):
        while span is not None and start >= span[1]:
            span = next(todo, None)
        if span is None:
            break
        mask[number] = end > span[0] and (start < end or start > span[0])
    return mask
