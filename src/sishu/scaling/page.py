"""What `sishu scaling` has found, as tables and as a page with plots."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from sishu.console import counted
from sishu.report.charts import Level, Line, both_widths, line_chart
from sishu.report.findings import Finding, findings_page
from sishu.report.shapes import Table
from sishu.report.wording import NOTHING, fixed_words
from sishu.scaling.ladder import Prediction, Scaling
from sishu.stages.units import si

ALONG = "log₁₀ weights"
CURVE = 40
"""Points of a drawn law."""
FLOOR = 0.01
"""The share of the lowest loss below which E is none."""


def scaling_page(name: str, found: Scaling) -> str:
    """One self-contained page."""
    return findings_page("scaling laws", name, [_sizes(found), _test(found), _allocation(found)])


def rung_table(found: Scaling) -> Table:
    """Every model with its loss and what the law says."""
    rows = []
    for rung in found.rungs:
        law = found.law.loss(rung.weights, rung.tokens)
        rows.append(
            (
                str(rung.width),
                f"{rung.weights:,}",
                f"{rung.tokens:,}",
                f"{rung.tokens / found.corpus_tokens:.1f}",
                f"{rung.loss:.4f}",
                f"{law:.4f}",
                _percent(rung.loss / law - 1),
            )
        )
    return Table(["width", "weights", "tokens", "passes", "bits per byte", "the law", "off by"], rows)


def verdict_table(found: Scaling) -> Table:
    """The predictions beside what was measured: of the ladder's widest model by a law of the others, and of
    the larger one."""
    predictions = [("in the ladder", found.backtest), ("beyond it", found.test)]
    rows = [_prediction_row(name, one) for name, one in predictions if one is not None]
    return Table(["model", "weights", "predicted", "95 %", "measured", "off by"], rows)


def allocation_table(found: Scaling) -> Table:
    """How the law would spend numbers of operations."""
    rows = [
        (
            si(one.flops),
            str(one.width),
            si(one.weights),
            si(one.tokens),
            f"{one.tokens / one.weights:.1f}",
            f"{one.tokens / found.corpus_tokens:.1f}",
            f"{one.predicted:.4f}",
        )
        for one in found.allocations
    ]
    return Table(["operations", "width", "weights", "tokens", "a weight", "passes", "bits per byte"], rows)


def law_words(found: Scaling) -> str:
    """The law as a sentence, and a warning where it has no floor."""
    law = found.law
    a, b = law.growth()
    words = (
        f"L = {law.E:.4f} + {law.A:.4g} / N^{law.alpha:.4f} + {law.B:.4g} / D^{law.beta:.4f} bits per byte, "
        f"N the weights outside the embedding and D the tokens; spent best, N would grow with C^{a:.2f} and "
        f"D with C^{b:.2f} were C = 6·N·D."
    )
    if law.E / min(rung.loss for rung in found.rungs) < FLOOR:
        words += (
            " E is next to nothing: these losses do not show where they would level off, so the exponents, "
            "and what is said of operations far beyond the ladder, are worth little; wider models and more "
            "tokens would tell."
        )
    return words


def beside_words(found: Scaling) -> str:
    """How far off it would have been to expect no gain, which is what a prediction must beat."""
    widest = next(r.loss for r in reversed(found.rungs) if r.tokens == found.test.tokens)
    assert found.test.measured is not None
    return (
        f"To expect of it the loss of the ladder's widest model after as many tokens, {widest:.4f}, would "
        f"have been off by {_percent(found.test.measured / widest - 1)}."
    )


def _prediction_row(name: str, one: Prediction) -> Sequence[str]:
    error = NOTHING if one.error is None else _percent(one.error)
    between = f"{one.low:.4f}–{one.high:.4f}"
    return (name, f"{one.weights:,}", f"{one.predicted:.4f}", between, fixed_words(one.measured, 4), error)


def _sizes(found: Scaling) -> Finding:
    def draw(ident: str, width: int) -> Markup:
        lines = [
            Line(
                f"{si(tokens)} tokens",
                [(math.log10(r.weights), r.loss) for r in found.rungs if r.tokens == tokens],
                _bits,
            )
            for tokens in sorted({r.tokens for r in found.rungs})
        ]
        return line_chart(ident, "Loss by size", lines, width=width, unit="bits per byte", along=ALONG)

    prose = (
        "The loss on held-out text of every model of the ladder, a line for each number of tokens. "
        + law_words(found)
    )
    return Finding("Loss by size and tokens", prose, both_widths(draw, "sizes"), rung_table(found))


def _test(found: Scaling) -> Finding:
    test, law = found.test, found.law
    measured = [(math.log10(r.weights), r.loss) for r in found.rungs if r.tokens == test.tokens]
    if test.measured is not None:
        measured.append((math.log10(test.weights), test.measured))
    first, last = measured[0][0], math.log10(test.weights)
    places = [first + (last - first) * i / (CURVE - 1) for i in range(CURVE)]

    def draw(ident: str, width: int) -> Markup:
        lines = [
            Line("the law", [(x, law.loss(10**x, test.tokens)) for x in places], _bits),
            Line("measured", measured, _bits),
        ]
        levels = [Level("never below", law.E + law.B / test.tokens**law.beta, _bits)]
        return line_chart(
            ident,
            "The law and what was measured",
            lines,
            width=width,
            unit="bits per byte",
            levels=levels,
            along=ALONG,
        )

    prose = (
        f"The law was fitted to the ladder alone and its prediction written down before the model of width "
        f"{test.width} was trained, the last point of the measured line. Before it in the table stands the "
        "widest model of the ladder, as a law of the narrower ones predicts it. The level is what the law "
        f"leaves to a model of any size after {test.tokens:,} tokens. " + beside_words(found)
    )
    return Finding(
        "A larger model, predicted and trained", prose, both_widths(draw, "test"), verdict_table(found)
    )


def _allocation(found: Scaling) -> Finding:
    def draw(ident: str, width: int) -> Markup:
        points = [(math.log10(one.flops), one.predicted) for one in found.allocations]
        line = Line("best", points, _bits)
        return line_chart(
            ident,
            "Loss by operations",
            [line],
            width=width,
            unit="bits per byte",
            along="log₁₀ operations",
        )

    prose = (
        f"The width, at {counted(found.depth, 'block')}, and the tokens that the law promises the lowest "
        "loss of, for as many operations of training as the model above took and for more. The law was "
        "fitted to less than the first row: the further down, the less it is worth, and more than about four "
        "passes over the corpus teach less than it says (Muennighoff et al. 2023, arXiv:2305.16264)."
    )
    return Finding("Operations spent best", prose, both_widths(draw, "allocation"), allocation_table(found))


def _bits(loss: float) -> str:
    return f"{loss:.3f}"


def _percent(share: float) -> str:
    return f"{share:+.2%}".replace("-", "−")
