"""Answers that must have a form: at every step, which tokens can still lead to it (by llguidance).

The engine keeps a `Guides` for its tokenizer and a `GuideState` for every answer that has a guide. After a
token: `state.accept(token)`, then `guides.masks_soon(states)` works in a thread of its own while the model
reads the token, and its result goes to `sishu.generate.sampler.sample`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance import TokenizerWrapper as LLTokens
from llguidance.numpy import fill_next_token_bitmask_par
from torch import Tensor

from sishu.console import UserError
from sishu.generate.guide import Guide
from sishu.tokenizer.tokenizer import Tokenizer

__all__ = ["Guide", "GuideState", "Guides"]

REMEMBERED = 64
"""Guides that are kept compiled."""
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""What may stand between the parts of JSON. It has an end, because a small model that has begun a run of
spaces tends not to leave it."""


class _Vocabulary:
    """What llguidance asks of a tokenizer: every token's bytes, and ids for a text."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.eos_token_id = tokenizer.end
        self.bos_token_id = None
        named = {index: name for name, index in tokenizer.special.items()}
        # the names are how a Lark grammar speaks of special tokens; llguidance marks them as no text
        self.tokens = [
            named[index].encode() if index in named else tokenizer.bytes_of(index) for index in range(size)
        ]
        self.special_token_ids = sorted(named)
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


class GuideState:
    """How far one answer has come in its form."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def matcher(self) -> LLMatcher:
        """llguidance's own state."""
        return self._matcher

    def accept(self, token: int) -> None:
        """Go on by a token. Raises ValueError where the form does not allow it, and UserError where the form
        takes more work than llguidance's limits allow."""
        if self._matcher.consume_token(token):
            return
        reason = self._matcher.stop_reason()
        if reason in ("LexerTooComplex", "MaxTokensTotal", "MaxTokensParser"):
            raise UserError(f"The answer's form is too complex to follow ({reason}): ask for a simpler one.")
        raise ValueError(
            f"the form does not allow token {token} here: {_first_line(self._matcher.get_error())}"
        )

    def allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, the form allows one after the other; the state stays
        where it is (speculative decoding)."""
        return self._matcher.validate_tokens(list(tokens))

    def forced(self) -> list[int]:
        """The tokens that must come now, as the tokenizer itself would cut their text; perhaps none."""
        return self._matcher.compute_ff_tokens()

    def back(self, tokens: int) -> None:
        """Take back the last tokens."""
        if not self._matcher.rollback(tokens):
            raise ValueError(f"the last {tokens} tokens cannot be taken back")

    @property
    def complete(self) -> bool:
        """Whether the answer has the form as it stands."""
        return self._matcher.is_accepting()

    @property
    def stopped(self) -> bool:
        """Whether nothing but an end token may come."""
        return self._matcher.is_stopped()


class Guides:
    """Forms for the answers of one model: compiled ones, and the masks of a batch. Safe to use from several
    threads; a `GuideState` is not."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end_ids: Iterable[int] = ()) -> None:
        """`vocabulary` is the model's number of logits, which may be above the tokenizer's; `end_ids` may
        follow a complete answer, beside the tokenizer's own end."""
        ends = list(dict.fromkeys((tokenizer.end, *end_ids)))
        size = max(vocabulary, tokenizer.vocabulary_size)
        self._tokenizer = LLTokenizer(LLTokens(_Vocabulary(tokenizer, size)), eos_token=ends)
        self.words = (size + 31) // 32
        """int32 in a row of a mask."""
        self._compiled: OrderedDict[Guide, LLMatcher] = OrderedDict()
        self._lock = Lock()
        self._executor = LLExecutor()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guides")

    def start(self, guide: Guide) -> GuideState:
        """A state at the beginning of an answer. Raises UserError where the schema, expression or grammar is
        wrong or uses what llguidance does not know, saying what. Lexer and grammar are bounded by
        llguidance's own limits, the text by `sishu.generate.guide.LONGEST`."""
        with self._lock:
            found = self._compiled.get(guide)
            if found is not None:
                self._compiled.move_to_end(guide)
                return GuideState(found.deep_copy())
        matcher = self._compile(guide)
        with self._lock:
            self._compiled[guide] = matcher
            while len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
            return GuideState(matcher.deep_copy())

    def _compile(self, guide: Guide) -> LLMatcher:
        limits = LLParserLimits(verbose_errors=False)
        try:
            matcher = LLMatcher(self._tokenizer, _grammar(guide), log_level=0, limits=limits)
        except ValueError as error:
            raise UserError(f"{_NAMES[guide.kind]} is not usable: {_first_line(str(error))}.") from error
        if matcher.is_error():
            raise UserError(f"{_NAMES[guide.kind]} is not usable: {_first_line(matcher.get_error())}.")
        return matcher

    def masks(self, states: Sequence[GuideState | None]) -> Tensor:
        """What may come next, (B, `words`), int32 on the CPU: bit i of word w is token 32 w + i. A row that
        has no state allows everything. No state may be in two rows."""
        rows = np.full((len(states), self.words), -1, np.int32)
        todo = [(state.matcher, row) for row, state in enumerate(states) if state is not None]
        if todo:
            fill_next_token_bitmask_par(self._executor, todo, rows)
        return torch.from_numpy(rows)

    def masks_soon(self, states: Sequence[GuideState | None]) -> Future[Tensor]:
        """`masks`, worked out in a thread beside the caller, who leaves the states alone until it is done."""
        return self._thread.submit(self.masks, list(states))

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown()


_NAMES = {
    "json_schema": "The JSON schema",
    "json_object": "The JSON object",
    "regex": "The regular expression",
    "lark": "The grammar",
    "choice": "The list of choices",
}


def _grammar(guide: Guide) -> str:
    """The guide in llguidance's own form; raises ValueError."""
    if guide.kind == "regex":
        return LLMatcher.grammar_from_regex(guide.text)
    if guide.kind == "lark":
        return LLMatcher.grammar_from_lark(guide.text)
    if guide.kind == "choice":
        choices = Guide.of_choices(json.loads(guide.text)).choices  # which looks at what the text holds
        quoted = (json.dumps(choice, ensure_ascii=False) for choice in choices)
        return LLMatcher.grammar_from_lark("start: " + " | ".join(quoted))
    schema = {"type": "object"} if guide.kind == "json_object" else json.loads(guide.text)
    if not isinstance(schema, (dict, bool)):
        raise ValueError("it must be an object")
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema), overrides={"whitespace_pattern": WHITESPACE}
    )


def _first_line(message: str) -> str:
    """What went wrong, from an error of several lines: a regular expression's error says it in the last."""
    lines = [line.strip() for line in message.strip().splitlines()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (said or lines or ["no reason given"])[0].rstrip(".")
