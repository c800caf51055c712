"""The section on what the corpus is made of: lengths, languages, domains, what each step left, duplicates."""

from __future__ import annotations

from sishu.corpus.look.statistics import MOST_DOMAINS, Amount, Statistics
from sishu.report.charts import Bar, bar_chart, both_widths
from sishu.report.corpus_tables import cluster_names, inner, length_names
from sishu.report.figures import RunFigures, number, words
from sishu.report.shapes import Section, Table
from sishu.report.wording import bytes_words, clipped, large_words, number_words, percent_words

MOST_LANGUAGES = 12
"""Languages with a bar of their own."""
_LABEL = 34


def documents(run: RunFigures) -> Section:
    """What is in documents.parquet, and how many bytes each step left."""
    section = Section()
    found = run.documents
    if found is not None and found.all.documents:
        _facts(section, found)
        names = length_names()
        lengths = [
            Bar(names[at], found.lengths[at], number_words(found.lengths[at])) for at in inner(found.lengths)
        ]
        _draw(section, "lengths", "Documents by length", lengths, "Documents by their length in characters.")
        languages = _bars(found.languages, found.all, MOST_LANGUAGES)
        left = len(found.languages) - len(languages)
        caption = "Characters in each language" + (f"; {left} smaller ones are left out." if left else ".")
        _draw(section, "languages", "Characters by language", languages, caption)
        domains = _bars(found.domains, found.all, len(found.domains))
        _draw(section, "domains", "Characters by domain", domains, "Characters from the largest domains.")
    bars = []
    for step in run.funnel:
        out, into = number(step, "bytes_out"), number(step, "bytes_in")
        if out is not None:
            label = clipped(words(step, "name"), _LABEL)
            bars.append(Bar(label, out, bytes_words(out), into))
    caption = "Bytes left by each step of the funnel; the outline is what came in."
    _draw(section, "funnel-bytes", "Bytes left by each step", bars, caption)
    if found is not None and found.duplicates:
        rows = [
            [step, name, number_words(clusters)]
            for step, those in found.duplicates.items()
            for name, clusters in zip(cluster_names(those.sizes), those.sizes.values(), strict=True)
        ]
        table = Table(["Step", "Documents in a cluster", "Clusters"], rows)
        section.tables.append(("Documents that say the same, of which one was kept", table, "corpus"))
    return section


def _facts(section: Section, found: Statistics) -> None:
    section.state(found.all.characters, large_words, "characters", "", "corpus")
    median = found.quantiles.get("50%")
    section.state(median, number_words, "characters in the median document", "", "corpus")
    section.state(len(found.languages), number_words, "languages", "", "corpus")
    if found.domains_in_all:
        share = sum(one.characters for one in found.domains.values()) / max(1, found.all.characters)
        note = f"the {len(found.domains)} largest: {percent_words(share)}"
        at_least = "at least " if found.domains_in_all >= MOST_DOMAINS else ""
        section.state(found.domains_in_all, number_words, f"{at_least}domains".strip(), note, "corpus")


def _bars(amounts: dict[str, Amount], total: Amount, most: int) -> list[Bar]:
    bars = []
    for name, amount in list(amounts.items())[:most]:
        share = percent_words(amount.characters / max(1, total.characters))
        label = clipped(name, _LABEL) or "not known"
        bars.append(Bar(label, amount.characters, f"{large_words(amount.characters)} · {share}"))
    return bars


def _draw(section: Section, ident: str, title: str, bars: list[Bar], caption: str) -> None:
    section.draw(
        both_widths(lambda name, width: bar_chart(name, title, bars, width=width), ident), caption, "corpus"
    )
