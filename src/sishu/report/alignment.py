"""The PPO section: is the reward rising for good reasons?"""

from __future__ import annotations

from sishu.report.charts import Bar, Level, bar_chart, both_widths
from sishu.report.figures import RunFigures, Stage, dictionary, number, words
from sishu.report.shapes import Section, Table, in_order, name_of, small_chart
from sishu.report.wording import clipped, fixed_words, number_words, percent_words

_MOST_ALARMS = 40


def alignment(run: RunFigures) -> Section:
    """Small multiples of the PPO run, rewards before and after, alarms, and the ptx term."""
    section = Section()
    stage = run.stages.get("ppo")
    if stage is None:
        return section
    rewards = dictionary(run.evaluation, "rewards")
    target = number(run.evaluation, "kl", "target")
    if target is None:
        target = number(stage.manifest, "figures", "kl_target")
    before = number(rewards, "sft", "mean")
    charts: list[tuple[str, str, list[Level]]] = [
        ("reward", "Reward", [Level("SFT", before)] if before is not None else []),
        (
            "kl",
            "KL to the SFT model, nats",
            [Level("target", target)] if target else [],
        ),
        ("kl_coefficient", "KL coefficient", []),
        ("length", "Length of answers, tokens", []),
        ("entropy", "Entropy of the policy, nats per token", []),
        ("repetition", "Repetition in answers", []),
        ("distinct", "Different phrases among answers", []),
    ]
    for metric, title, levels in charts:
        stages = ("ppo", "eval") if levels else ("ppo",)
        section.draw(small_chart(stage, metric, title, levels), title, *stages, small=True)
    rows = [
        [
            name_of(name),
            fixed_words(number(rewards, name, "mean"), 2),
            fixed_words(number(rewards, name, "std"), 2),
            percent_words(number(rewards, name, "likeness")),
            percent_words(number(rewards, name, "repetition")),
            percent_words(number(rewards, name, "distinct")),
            fixed_words(number(rewards, name, "length"), 1),
        ]
        for name in in_order(list(rewards))
        if dictionary(rewards, name)
    ]
    if rows:
        head = [
            "Model",
            "Reward, mean",
            "Reward, spread",
            "Likeness to the documented",
            "Repetition",
            "Different phrases",
            "Length, tokens",
        ]
        section.tables.append(("Answers to held-out questions", Table(head, rows), "eval"))
    kl = number(run.evaluation, "kl", "mean")
    aim = f"target {number_words(target)}" if target is not None else "held-out"
    section.state(kl, number_words, "KL to the SFT model, nats", aim, "eval")
    _ptx(run, section)
    section.notes = _alarms(stage)
    return section


def _ptx(run: RunFigures, section: Section) -> None:
    scores = dictionary(run.evaluation, "bits_per_byte")
    without = number(scores, "ppo_without_ptx")
    if without is None:
        return
    bars = [
        Bar(label, value, number_words(value), strong=name == "ppo")
        for name, label in (
            ("sft", "before PPO"),
            ("ppo", "PPO with ptx"),
            ("ppo_without_ptx", "PPO without ptx"),
        )
        if (value := number(scores, name)) is not None
    ]
    section.draw(
        both_widths(
            lambda ident, width: bar_chart(
                ident, "Held-out bits per byte with and without ptx", bars, width=width
            ),
            "ptx",
        ),
        "Held-out bits per byte with and without the pretraining term (ptx): "
        "how much language was forgotten for the reward.",
        "eval",
    )


def _alarms(stage: Stage) -> list[str]:
    """Alarms from the manifest (a list of sentences or records, or counts) and from the metrics."""
    told: list[str] = []
    alarms = dictionary(stage.manifest, "figures").get("alarms")
    if isinstance(alarms, dict):
        told += [f"{name}: {words(alarms, name)}" for name in sorted(alarms)]
    elif isinstance(alarms, list):
        told += [_alarm_words(alarm) for alarm in alarms]
    told += [
        f"step {words(line, 'step')}: {words(line, 'alarm')}"
        for line in stage.metrics
        if words(line, "alarm")
    ]
    told = [clipped(alarm, 300) for alarm in told if alarm]
    if len(told) > _MOST_ALARMS:
        told = [*told[:_MOST_ALARMS], f"and {len(told) - _MOST_ALARMS} more"]
    return told


def _alarm_words(alarm: object) -> str:
    if isinstance(alarm, str):
        return alarm
    if not isinstance(alarm, dict):
        return ""
    said = [words(alarm, name) for name in sorted(alarm) if name != "step"]
    step = words(alarm, "step")
    return (f"step {step}: " if step else "") + ", ".join(part for part in said if part)
