"""`sishu chat`: a conversation in the terminal, one line a question.

Answers go to standard output as they are made; notices go to standard error, so that
`echo QUESTION | sishu chat RUN` prints the answer and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sishu.console import UserError, say, warn
from sishu.generate.engine import Engine, Sampling

Message = dict[str, str]

BASE = "base"
"""The stage that has read but not learnt to answer: what is typed is gone on with."""
HELP = """\
/reset        begin a new conversation
/stage NAME   talk with the model of another stage: {stages}
/help         this list
/quit         leave; so do Ctrl-D, and Ctrl-C while nothing is being answered
Ctrl-C stops an answer under way."""
SHARE_FOR_ANSWER = 4
"""A conversation must leave one part in this many of the context for the answer, or be shortened."""
HARMLESS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}
"""Control characters would let what a model says command the terminal."""


def checked_sampling(temperature: float, max_tokens: int, top_p: float, seed: int | None) -> Sampling:
    """The options of the command as `Sampling`; raises UserError for a value out of its range."""
    if not 0 <= temperature <= 2:
        raise UserError(f"--temperature is {temperature}; it must be from 0 to 2.")
    if max_tokens < 1:
        raise UserError(f"--max-tokens is {max_tokens}; it must be at least 1.")
    if not 0 < top_p <= 1:
        raise UserError(f"--top-p is {top_p}; it must be above 0 and at most 1.")
    if seed is not None and not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}; it must be from 0 to 2⁶³ - 1.")
    return Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)


def talk(models: Mapping[str, Path], stage: str | None, sampling: Sampling) -> int:
    """Answer lines from standard input until it ends; returns the exit code, 130 after Ctrl-C.

    `models` as `sishu.serve.models_of_run.models_of` gives them; `stage` is one of them, None the last.
    Raises UserError when the model to begin with is unknown or cannot be loaded.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives input() line editing and a history
    chat = Chat(models, sampling)
    chat.choose(stage or list(models)[-1])
    if interactive:
        say(f"{chat.describe()} /help lists the commands.")
    while True:
        try:
            line = input(f"{chat.stage}> " if interactive else "")
        except EOFError:
            if interactive:
                print()
            return 0
        except KeyboardInterrupt:
            print()
            return 130
        try:
            if not chat.take(line):
                return 0
        except UserError as error:
            warn(str(error))
        except KeyboardInterrupt:  # outside an answer, as while a model is loaded
            print()


class Chat:
    """A conversation with one of several models, each loaded when it is first chosen."""

    def __init__(self, models: Mapping[str, Path], sampling: Sampling) -> None:
        self._models = dict(models)
        self._sampling = sampling
        self._loaded: dict[Path, Engine] = {}
        self.messages: list[Message] = []
        self.stage = ""

    def choose(self, stage: str) -> None:
        """Talk with the model of `stage` from here on, in a new conversation; raises UserError, and changes
        nothing, when there is none or it cannot be loaded."""
        if stage not in self._models:
            raise UserError(f"There is no model {stage!r} here: choose one of {', '.join(self._models)}.")
        folder = self._models[stage]
        if folder not in self._loaded:
            self._loaded[folder] = Engine.load(folder)
        self.stage, self.messages = stage, []

    @property
    def engine(self) -> Engine:
        """The engine that answers now."""
        return self._loaded[self._models[self.stage]]

    def describe(self) -> str:
        """A sentence on the model and on how it is talked to."""
        size = sum(weight.numel() for weight in self.engine.model.parameters())
        manner = "goes on with what is typed" if self.stage == BASE else "answers"
        return (
            f"{self.stage} ({size:,} weights) {manner}; it reads up to {self.engine.context_length:,} tokens."
        )

    def take(self, line: str) -> bool:
        """Do what a line asks; False when it asks to leave. Raises UserError for what cannot be done."""
        if not line.strip():
            return True
        if line.startswith("/"):
            return self._command(line)
        if self.stage == BASE:
            tokenizer = self.engine.tokenizer
            ids = tokenizer.begin(tokenizer.encode(line))
            if len(ids) >= self.engine.context_length:
                raise too_long(len(ids), self.engine.context_length)
            self._say_answer(ids)
            return True
        asked = [*self.messages, {"role": "user", "content": line}]
        kept, ids = fitting(self.engine, asked, self._sampling.max_tokens)
        if len(kept) < len(asked):
            warn(
                f"(The conversation no longer fits {self.engine.context_length:,} tokens: its oldest "
                f"questions and answers are left out, {(len(asked) - len(kept)) // 2} of {len(asked) // 2}.)"
            )
        said = self._say_answer(ids)
        self.messages = kept[:-1] if said is None else [*kept, {"role": "assistant", "content": said}]
        return True

    def _say_answer(self, ids: list[int]) -> str | None:
        """Print the answer as it is made; returns it as far as it came, None when it was stopped before its
        first word."""
        said, finish = "", None
        try:
            for piece in self.engine.stream(ids, self._sampling):
                said, finish = said + piece.text, piece.finish
                print(piece.text.translate(HARMLESS), end="", flush=True)
            print(flush=True)
        except KeyboardInterrupt:
            print(flush=True)
            warn("(Stopped.)")
            return said or None
        if finish == "length":
            limit = self._sampling.max_tokens
            why = (
                f"after {limit:,} tokens; --max-tokens allows more"
                if len(ids) + limit <= self.engine.context_length
                else f"at the end of the {self.engine.context_length:,} tokens the model reads"
            )
            warn(f"(Cut {why}.)")
        return said

    def _command(self, line: str) -> bool:
        command, _, argument = line.strip().partition(" ")
        if command == "/quit":
            return False
        if command == "/help":
            warn(HELP.format(stages=", ".join(self._models)))
        elif command == "/reset":
            self.messages = []
            warn("(A new conversation.)")
        elif command == "/stage":
            self.choose(argument.strip())
            warn(f"({self.describe()} A new conversation.)")
        else:
            raise UserError(
                f"There is no command {command}: /help lists them; a question that begins with / needs a "
                "space before it."
            )
        return True


def fitting(engine: Engine, messages: Sequence[Message], wanted: int) -> tuple[list[Message], list[int]]:
    """The newest of `messages` that fit the context, and their prompt.

    `messages` are questions and answers in turn, the last a question. The oldest pairs go until there is
    room for an answer of `wanted` tokens, or for a quarter of the context where that is less; the last
    question stays. Raises UserError when it alone leaves no room for any answer.
    """
    room = min(wanted, engine.context_length // SHARE_FOR_ANSWER)
    kept = list(messages)
    while True:
        ids = engine.tokenizer.encode_conversation(kept, generation_prompt=True).ids
        if len(ids) + room <= engine.context_length:
            return kept, ids
        if len(kept) == 1:
            break
        kept = kept[2:]
    if len(ids) >= engine.context_length:
        raise too_long(len(ids), engine.context_length)
    return kept, ids


def too_long(tokens: int, context_length: int) -> UserError:
    """The refusal of a text that leaves no room for an answer."""
    return UserError(
        f"That is {tokens:,} tokens, and the model reads {context_length:,} with its answer: shorten it."
    )
