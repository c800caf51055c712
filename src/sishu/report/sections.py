"""The sections of the road from pages to the reward model: what each shows of a run."""

from __future__ import annotations

from sishu.report.charts import Bar, Level, Line, bar_chart, both_widths, line_chart
from sishu.report.figures import RunFigures, dictionary, number, words
from sishu.report.shapes import Section, Table, clock, curve_of, in_order, name_of
from sishu.report.wording import (
    NOTHING,
    clipped,
    duration_words,
    fixed_words,
    large_words,
    number_words,
    percent_words,
)

_LABEL = 34
_BASELINES = {"kneser_ney_5": "5-gram", "xz": "xz"}


def funnel(run: RunFigures) -> Section:
    """Pages and characters in and out of each corpus step, with the reasons for what was lost."""
    section = Section()
    raw = any(words(step, "name") == "decode" for step in run.funnel)
    for noun, title in (
        ("documents", "Documents kept"),
        ("characters", "Characters kept"),
    ):
        bars = []
        for step in run.funnel:
            out, into = number(step, f"{noun}_out"), number(step, f"{noun}_in")
            if out is not None:
                share = f" · {percent_words(out / into)}" if into else ""
                label = clipped(words(step, "name"), _LABEL)
                bars.append(Bar(label, out, large_words(out) + share, into))
        section.draw(
            bar_chart(f"funnel-{noun}", title, bars, width=350),
            f"{title} by each step; the outline is what came in"
            + (" (for decode, bytes)." if noun == "characters" and raw else "."),
            "corpus",
            small=True,
        )
    rows = []
    for step in run.funnel:
        into, out = number(step, "documents_in"), number(step, "documents_out")
        rows.append(
            [
                clipped(words(step, "name"), 60),
                number_words(into),
                number_words(out),
                number_words(into - out if into is not None and out is not None else None),
                large_words(number(step, "characters_out")),
                duration_words(number(step, "seconds")),
                _counted(dictionary(step, "reasons")) or NOTHING,
            ]
        )
    if rows:
        head = ["Step", "In", "Out", "Lost", "Characters out", "Time", "Reasons"]
        section.tables.append(("Every step of the funnel", Table(head, rows), "corpus"))
    if damaged := _counted(run.damaged):
        section.notes.append(f"Records that were never read as pages: {damaged}.")
    return section


def tokens(run: RunFigures) -> Section:
    """Vocabulary and bytes per token, beside the simplest ways to cut the same text."""
    section = Section()
    if "tokenizer" not in run.stages:
        return section
    manifest = run.stages["tokenizer"].manifest
    figures = dictionary(manifest, "figures")
    vocabulary = number(figures, "vocabulary")
    section.state(vocabulary, number_words, "entries in the vocabulary", "", "tokenizer")
    on_train = number(figures, "bytes_per_token")
    section.state(on_train, number_words, "bytes per token", "on the training text", "tokenizer")
    held_out = number(figures, "bytes_per_token_validation")
    section.state(held_out, number_words, "bytes per token", "on held-out text", "tokenizer")
    ours = held_out if held_out is not None else on_train
    baselines = dictionary(figures, "baselines")
    bars = [
        Bar(clipped(f"{name}", _LABEL), value, fixed_words(value, 2))
        for name in sorted(baselines)
        if (value := number(baselines, name)) is not None
    ]
    if ours is not None:
        bars.append(Bar("this tokenizer", ours, fixed_words(ours, 2), strong=True))
    bars.sort(key=lambda bar: (bar.value, bar.label))
    section.draw(
        both_widths(
            lambda ident, width: bar_chart(ident, "Bytes per token", bars, width=width),
            "tokens",
        ),
        "Bytes of text in one token, ours beside other ways to cut the same text.",
        "tokenizer",
    )
    return section


def pretraining(run: RunFigures) -> Section:
    """The loss curves of the base model, and held-out bits per byte against the baselines."""
    section = Section()
    stage = run.stages.get("pretrain")
    scores = dictionary(run.evaluation, "bits_per_byte")
    if stage is None:
        return section
    figures = dictionary(stage.manifest, "figures")
    section.state(number(figures, "parameters"), large_words, "parameters", "", "pretrain")
    corpus = number(figures, "train_tokens")
    note = f"of a corpus of {large_words(corpus)}" if corpus is not None else ""
    section.state(number(figures, "tokens_seen"), large_words, "tokens read", note, "pretrain")
    section.draw(
        both_widths(
            lambda ident, width: line_chart(
                ident,
                "Pretraining loss",
                [
                    curve_of(stage, "loss", "training"),
                    curve_of(stage, "validation_loss", "held-out"),
                ],
                width=width,
                unit="loss per token, nats",
                seconds=clock(stage),
                settling=True,
            ),
            "pretrain-loss",
        ),
        "Loss on the training text and on held-out text.",
        "pretrain",
    )
    levels = [
        Level(label, value)
        for name, label in _BASELINES.items()
        if (value := number(scores, name)) is not None
    ]
    section.draw(
        both_widths(
            lambda ident, width: line_chart(
                ident,
                "Held-out bits per byte during pretraining",
                [curve_of(stage, "validation_bits_per_byte", "model")],
                width=width,
                unit="bits per byte",
                levels=levels,
                seconds=clock(stage),
                settling=True,
            ),
            "pretrain-bits",
        ),
        "Held-out bits per byte while the model learns"
        + ("; the dotted lines are what it has to beat." if levels else "."),
        "pretrain",
        *(["eval"] if levels else []),
    )
    bars = [
        Bar(
            clipped(name_of(name), _LABEL),
            value,
            number_words(value),
            strong=name == "base",
        )
        for name in in_order(list(scores))
        if (value := number(scores, name)) is not None and name != "ppo_without_ptx"
    ]
    bars.sort(key=lambda bar: -bar.value)
    section.draw(
        both_widths(
            lambda ident, width: bar_chart(ident, "Held-out bits per byte", bars, width=width),
            "bits",
        ),
        "The same held-out text scored by every model and baseline; shorter is better.",
        "eval",
    )
    return section


def instruction(run: RunFigures) -> Section:
    """SFT: the loss curves, and what became of the held-out answers."""
    section = Section()
    stage = run.stages.get("sft")
    if stage is not None:
        section.draw(
            both_widths(
                lambda ident, width: line_chart(
                    ident,
                    "SFT loss",
                    [
                        curve_of(stage, "loss", "training"),
                        curve_of(stage, "validation_loss", "held-out"),
                    ],
                    width=width,
                    unit="loss per answer token, nats",
                    seconds=clock(stage),
                    settling=True,
                ),
                "sft-loss",
            ),
            "Loss on the answers of the conversations.",
            "sft",
        )
    answers = dictionary(run.evaluation, "answers")
    rows = [
        [
            name_of(name),
            number_words(number(answers, name, "loss")),
            percent_words(number(answers, name, "ended")),
            percent_words(number(answers, name, "in_form")),
            percent_words(number(answers, name, "named")),
        ]
        for name in in_order(list(answers))
        if dictionary(answers, name)
    ]
    if rows and stage is not None:
        head = [
            "Model",
            "Loss on reference answers",
            "Ends by itself",
            "In the form asked for",
            "Under the name asked about",
        ]
        section.tables.append(("Held-out questions", Table(head, rows), "eval"))
    return section


def reward_model(run: RunFigures) -> Section:
    """Accuracy of the reward model while it learns, and by kind of pair."""
    section = Section()
    stage = run.stages.get("reward")
    if stage is None:
        return section
    judged = dictionary(run.evaluation, "reward")
    prompts = number(judged, "prompts")
    accuracy = number(judged, "accuracy")
    note = f"on {number_words(prompts)} held-out prompts" if prompts is not None else "held-out"
    section.state(accuracy, percent_words, "of pairs ranked rightly", note, "eval")
    curves = [
        Line(label, [(x, y * 100) for x, y in stage.curve(metric)], _percent)
        for label, metric in (
            ("training", "accuracy"),
            ("held-out", "validation_accuracy"),
        )
    ]
    section.draw(
        both_widths(
            lambda ident, width: line_chart(
                ident,
                "Accuracy of the reward model",
                curves,
                width=width,
                unit="pairs ranked rightly, %",
                levels=[Level("chance", 50, _percent)],
                seconds=clock(stage),
            ),
            "reward-accuracy",
        ),
        "Accuracy while the reward model learns; a coin would get 50%.",
        "reward",
    )
    by_pair = dictionary(judged, "by_pair")
    bars = [
        Bar(clipped(f"{kind}", _LABEL), value, percent_words(value), 1.0)
        for kind in by_pair
        if (value := number(by_pair, kind)) is not None
    ]
    bars.sort(key=lambda bar: (-bar.value, bar.label))
    section.draw(
        both_widths(
            lambda ident, width: bar_chart(
                ident,
                "Accuracy by kind of pair",
                bars,
                width=width,
                mark=Level("chance", 0.5, percent_words),
            ),
            "reward-pairs",
        ),
        "Held-out accuracy by kind of pair: better answer > worse answer.",
        "eval",
    )
    return section


def _counted(reasons: dict[str, object]) -> str:
    """Reasons with their counts, the commonest first, at most eight."""
    counted = sorted(
        ((number(reasons, key) or 0.0, key) for key in reasons),
        key=lambda pair: (-pair[0], pair[1]),
    )
    named = ", ".join(f"{clipped(key, 60)} {number_words(count)}" for count, key in counted[:8])
    return named + (f", and {len(counted) - 8} more" if len(counted) > 8 else "")


def _percent(hundredths: float) -> str:
    return percent_words(hundredths / 100)
