"""Turns the sections into one HTML page: no network, no script, safe against any content."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from sishu.report import alignment, answers, ledger, sections
from sishu.report.documents import documents
from sishu.report.figures import RunFigures, number, words
from sishu.report.wording import clipped, date_words, number_words, shown


def render(run: RunFigures) -> str:
    """The HTML page of a run; the same bytes for the same figures.

    Foreign text only ever enters as a template variable: it is made visible (`wording.shown`) and
    escaped by the template engine, never read as a template or as markup.
    """
    assets = files("sishu.report") / "assets"
    environment = ImmutableSandboxedEnvironment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    numbers = {name: stage.number for name, stage in run.stages.items()}

    def cite(*stages: str) -> Markup:
        marks = [
            Markup('<a href="#stage-{}" title="source: {}">{}</a>').format(
                numbers[stage], shown(stage), numbers[stage]
            )
            for stage in stages
            if stage in numbers
        ]
        if not marks:
            return Markup("")
        return Markup('<sup class="cite">{}</sup>').format(Markup(",\u2009").join(marks))

    found = answers.samples(run)
    template = environment.from_string((assets / "report.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        style=Markup((assets / "report.css").read_text(encoding="utf-8")),  # our own file
        cite=cite,
        numbers=numbers,
        name=clipped(run.name, 120),
        finished=date_words(max(words(s.manifest, "finished") for s in run.stages.values())),
        stages=[stage.name for stage in run.stages.values()],
        headline=answers.headline(run),
        showpiece=answers.showpiece(found),
        funnel=sections.funnel(run),
        rejects=_rejects(run),
        documents=documents(run),
        tokens=sections.tokens(run),
        pretraining=sections.pretraining(run),
        instruction=sections.instruction(run),
        reward=sections.reward_model(run),
        alignment=alignment.alignment(run),
        samples=found,
        time=ledger.time_and_cost(run),
        lineage=ledger.lineage(run),
    )
    return page if page.endswith("\n") else page + "\n"


def _finalize(value: object) -> object:
    """Makes invisible characters visible in every plain string the template puts out."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return shown(value)
    return value


def _rejects(run: RunFigures) -> list[dict[str, str]]:
    """The sampled rejects as words: where each came from, why it was refused, how it begins."""
    rows = []
    for record in run.rejects:
        score = number(record, "score")
        why = [words(record, "step"), words(record, "reason")]
        why += [number_words(score)] if score is not None else []
        begins = words(record, "text") or words(record, "excerpt")
        rows.append(
            {
                "url": clipped(words(record, "url") or words(record, "id"), 200),
                "why": clipped(" · ".join(part for part in why if part), 160),
                "text": clipped(" ".join(begins.split()), 280),
            }
        )
    return rows
