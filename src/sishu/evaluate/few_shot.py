"""Prompting a base model: a task is shown by examples, and the model goes on with the next answer (Brown et
al. 2020, arXiv:2005.14165)."""

from __future__ import annotations

import csv
import io
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sishu.console import UserError
from sishu.evaluate.continuations import continued, log_probs_of
from sishu.generate.batching import BatchingEngine
from sishu.generate.sampling import Sampling

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Inputs that say nothing: what a model answers to them is its bias (Zhao et al. 2021, arXiv:2102.09690)."""


@dataclass(frozen=True)
class Example:
    """A question of a task and its answer."""

    input: str
    output: str


@dataclass(frozen=True)
class Examples:
    """A task as examples show it."""

    items: tuple[Example, ...]
    instruction: str = ""
    """Stands before the first example."""
    input_name: str = "Input"
    output_name: str = "Output"
    """What questions and answers are called in the prompt."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The different answers, in their first order."""
        return tuple(dict.fromkeys(item.output for item in self.items))

    @property
    def stop(self) -> str:
        """What ends an answer: the end of its line, or, where some have several lines, the next question."""
        lines = any("\n" in item.output for item in self.items)
        return f"\n\n{self.input_name}:" if lines else "\n"


def read_examples(path: Path) -> Examples:
    """Examples from a file.

    JSONL: one object with `input` and `output` a line; an object with `instruction`, `input_name` or
    `output_name` instead says these. CSV: two columns, whose names in the first row are those in the prompt.
    Raises UserError for what is neither, naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as examples: {error}.") from error
    found = _from_csv(text, path) if path.suffix.lower() == ".csv" else _from_jsonl(text, path)
    if not found.items:
        raise UserError(f'{path} holds no examples: give lines such as {{"input": "1 + 1", "output": "2"}}.')
    return found


def _from_jsonl(text: str, path: Path) -> Examples:
    items, said = list[Example](), dict[str, str]()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields: Any = json.loads(line)
        except ValueError as error:
            raise UserError(f"Line {number} of {path} is not JSON: {error}.") from error
        if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
            raise UserError(f"Line {number} of {path} is not an object of texts.")
        if {"input", "output"} <= set(fields):
            items.append(Example(fields["input"], fields["output"]))
        elif fields and set(fields) <= {"instruction", "input_name", "output_name"}:
            said |= fields
        else:
            raise UserError(f"Line {number} of {path} lacks input or output.")
    return replace(Examples(tuple(items)), **said)  # type: ignore[arg-type]  # its keys were looked at


def _from_csv(text: str, path: Path) -> Examples:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise UserError(f"{path} is not a table in CSV: {error}.") from error
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UserError(
                f"Row {number} of {path} has {len(row)} columns: it must have an input and an output."
            )
    if not rows:
        return Examples(())
    names = [name.capitalize() if name in ("input", "output") else name for name in rows[0]]
    return Examples(tuple(Example(*row) for row in rows[1:]), "", *names)


def few_shot_prompt(examples: Examples, question: str) -> str:
    """The instruction, the examples, and the question, up to where its answer begins."""
    parts = [examples.instruction] if examples.instruction else []
    for item in examples.items:
        parts.append(f"{examples.input_name}: {item.input}\n{examples.output_name}: {item.output}")
    return "\n\n".join([*parts, f"{examples.input_name}: {question}\n{examples.output_name}:"])


@dataclass(frozen=True)
class Answering:
    """How answers are found."""

    labels: tuple[str, ...] = ()
    """Answers to choose from; none: the model writes."""
    normalised: bool = False
    """Whether labels are compared by their probability per token, so that long ones are not at a loss."""
    calibrated: bool = False
    """Whether the bias towards some labels, told by `CONTENT_FREE` inputs, is taken out."""
    max_tokens: int = 64


def answers(
    engine: BatchingEngine, examples: Examples, questions: Sequence[str], how: Answering | None = None
) -> list[str]:
    """An answer to each question behind the same examples, which are read once. Raises UserError where they
    do not fit into the model's context."""
    how = how or Answering()
    if how.labels:
        scores = label_scores(engine, examples, questions, how)
        return [how.labels[max(range(len(row)), key=row.__getitem__)] for row in scores]
    tokenizer = engine.tokenizer
    prompts = [tokenizer.begin(tokenizer.encode(few_shot_prompt(examples, q))) for q in questions]
    longest = max(map(len, prompts), default=0)
    _check_room(engine, examples, longest + 1)
    room = min(how.max_tokens, engine.context_length - longest)
    sampling = Sampling(max_tokens=room, temperature=0, stop=(examples.stop,))
    return [said.text.strip() for said in engine.complete(prompts, sampling)]


def label_scores(
    engine: BatchingEngine, examples: Examples, questions: Sequence[str], how: Answering
) -> list[list[float]]:
    """The logarithm of how likely each label is as the answer to each question; comparable within a question.

    Calibrated as in Zhao et al. 2021 (section 5, with a diagonal W): what the labels get is divided by the
    mean of what they get for the content-free inputs.
    """
    asked = [*questions, *(CONTENT_FREE if how.calibrated else ())]
    prompts = [few_shot_prompt(examples, question) for question in asked]
    texts = [continued(engine.tokenizer, prompt, f" {label}") for prompt in prompts for label in how.labels]
    _check_room(engine, examples, max((len(text.ids) for text in texts), default=0))
    told = log_probs_of(engine.model, texts)
    sums = [sum(row) / (len(row) if how.normalised and row else 1) for row in told]
    scores = torch.tensor(sums, dtype=torch.float64).view(len(asked), len(how.labels))
    if how.calibrated:
        shares = scores.log_softmax(1)
        bias = shares[len(questions) :].exp().mean(0).log()
        scores = shares[: len(questions)] - bias
    rows: list[list[float]] = scores.tolist()
    return rows


def _check_room(engine: BatchingEngine, examples: Examples, tokens: int) -> None:
    if tokens > engine.context_length:
        raise UserError(
            f"{len(examples.items)} examples and a question are {tokens:,} tokens and the model reads "
            f"{engine.context_length:,}: use fewer or shorter examples."
        )


def right(answer: str, expected: str) -> bool:
    """Whether an answer is the expected one, spaces and capitals aside."""
    return answer.casefold().split() == expected.casefold().split()


@dataclass(frozen=True)
class Point:
    """How many answers were right behind so many examples, for several choices of them."""

    shots: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the choices."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over the choices."""
        return statistics.pstdev(self.accuracies)


def learning_curve(
    engine: BatchingEngine,
    examples: Examples,
    questions: Sequence[Example],
    shots: Sequence[int] = (0, 1, 2, 4, 8, 16),
    *,
    seed: int = 0,
    repeats: int = 3,
    how: Answering | None = None,
) -> list[Point]:
    """Share of right answers against the number of examples, which are chosen and ordered `repeats` times at
    random; a choice of more begins with that of fewer. Without examples there is one choice.

    Raises UserError where there are fewer examples than shots, or no questions.
    """
    if not questions:
        raise UserError("There are no questions to ask: leave some of the examples for them.")
    if max(shots) > len(examples.items):
        raise UserError(
            f"There are {len(examples.items)} examples and {max(shots)} were asked for: give more."
        )
    points = []
    for count in sorted(set(shots)):
        shares = []
        for repeat in range(repeats if count else 1):
            order = random.Random(f"{seed}/{repeat}").sample(examples.items, len(examples.items))
            shown = replace(examples, items=tuple(order[:count]))
            said = answers(engine, shown, [question.input for question in questions], how)
            hits = [right(a, question.output) for a, question in zip(said, questions, strict=True)]
            shares.append(sum(hits) / len(hits))
        points.append(Point(count, tuple(shares)))
    return points
