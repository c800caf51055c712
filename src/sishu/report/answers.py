"""The headline and the samples: what the run comes to, in five numbers and in its own words."""

from __future__ import annotations

from dataclasses import dataclass

from sishu.report.figures import RunFigures, dictionaries, dictionary, number, words
from sishu.report.shapes import Section, in_order, name_of
from sishu.report.wording import (
    clipped,
    duration_words,
    fixed_words,
    large_words,
    number_words,
    percent_words,
)

_MOST_SAMPLES = 24
_MOST_CHARACTERS = 3000


@dataclass(frozen=True, slots=True)
class Sample:
    """A held-out question with its reference and the models' answers as (model, text)."""

    question: str
    name: str
    reference: str
    answers: list[tuple[str, str]]


def headline(run: RunFigures) -> Section:
    """Five numbers in the order of the road; a shorter road is filled up from its own stages."""
    section = Section()
    scores = dictionary(run.evaluation, "bits_per_byte")
    if run.funnel:
        into = number(run.funnel[0], "documents_in")
        note = f"of {number_words(into)} pages read" if into is not None else ""
        kept = number(run.funnel[-1], "documents_out")
        section.state(kept, number_words, "documents kept", note, "corpus")
    gram = number(scores, "kneser_ney_5")
    note = f"5-gram model: {number_words(gram)}" if gram is not None else "held-out text"
    base = number(scores, "base")
    section.state(base, number_words, "bits per byte, base", note, "eval")
    before = number(run.evaluation, "answers", "base", "ended")
    note = f"base model: {percent_words(before)}" if before is not None else "held-out questions"
    ended = number(run.evaluation, "answers", "sft", "ended")
    section.state(ended, percent_words, "of SFT answers end", note, "eval")
    accuracy = number(run.evaluation, "reward", "accuracy")
    section.state(accuracy, percent_words, "reward model right", "a coin: 50%", "eval")
    after = number(run.evaluation, "rewards", "ppo", "mean")
    start = number(run.evaluation, "rewards", "sft", "mean")
    if after is not None and start is not None:
        change = after - start
        words_of_change = ("+" if change > 0 else "") + fixed_words(change, 2)
        section.state(
            change,
            lambda _: words_of_change,
            "reward, PPO against SFT",
            f"{fixed_words(start, 2)} → {fixed_words(after, 2)}",
            "eval",
        )
    _fill(run, section)
    section.facts = section.facts[:5]
    return section


def _fill(run: RunFigures, section: Section) -> None:
    """Numbers of the earlier stages, for a run that did not walk the whole road."""

    def figure(stage: str, name: str) -> float | None:
        found = run.stages.get(stage)
        return number(found.manifest, "figures", name) if found else None

    if (pretrain := run.stages.get("pretrain")) and not number(run.evaluation, "bits_per_byte", "base"):
        held_out = pretrain.curve("validation_bits_per_byte")
        last = figure("pretrain", "validation_bits_per_byte")
        if last is None and held_out:
            last = held_out[-1][1]
        section.state(last, number_words, "bits per byte", "held-out text", "pretrain")
    parameters = figure("pretrain", "parameters")
    section.state(parameters, large_words, "parameters", "", "pretrain")
    vocabulary = figure("tokenizer", "vocabulary")
    section.state(vocabulary, number_words, "tokens in the vocabulary", "", "tokenizer")
    per_token = figure("tokenizer", "bytes_per_token")
    section.state(per_token, number_words, "bytes per token", "", "tokenizer")
    times = [number(stage.manifest, "seconds") for stage in run.stages.values()]
    known = [seconds for seconds in times if seconds is not None]
    if known:
        section.state(sum(known), duration_words, "working time", "all stages together", "")


def samples(run: RunFigures) -> list[Sample]:
    """The held-out questions with every model's answer, at most two dozen, long ones clipped."""
    found = []
    for record in dictionaries(run.evaluation, "samples")[:_MOST_SAMPLES]:
        given = dictionary(record, "answers")
        found.append(
            Sample(
                question=clipped(words(record, "question"), _MOST_CHARACTERS),
                name=clipped(words(record, "name"), 80),
                reference=clipped(words(record, "reference"), _MOST_CHARACTERS),
                answers=[
                    (
                        clipped(name_of(model), 40),
                        clipped(words(given, model), _MOST_CHARACTERS),
                    )
                    for model in in_order(list(given))
                    if isinstance(given[model], str)
                ],
            )
        )
    return found


def showpiece(found: list[Sample]) -> Sample | None:
    """The first sample answered by all of base, SFT and PPO (or the most of them), unpicked."""
    wanted = [name_of(model) for model in ("base", "sft", "ppo")]
    best: Sample | None = None
    for sample in found:
        answers = [(model, text) for model, text in sample.answers if model in wanted]
        if answers and (best is None or len(answers) > len(best.answers)):
            best = Sample(sample.question, sample.name, sample.reference, answers)
    return best
