"""The statistics of a corpus as tables in the terminal (`sishu corpus stats`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from sishu.console import UserError, counted, show_table
from sishu.corpus.look.statistics import (
    CLUSTERS,
    LENGTHS,
    MOST_DOMAINS,
    SCORES,
    TOP,
    Amount,
    Statistics,
    Tokens,
    count_tokens,
    measure,
)
from sishu.files import dump_json, write_atomic
from sishu.report.wording import bytes_words, clipped, large_words, number_words, percent_words, shown
from sishu.run import MANIFEST, Run
from sishu.tokenizer.tokenizer import Tokenizer

_BAR = 24


def show(run: Path, tokenizer: Path | None = None, json: Path | None = None) -> None:
    """Prints the statistics of a run's corpus.

    Args:
        run: a run's folder with a finished corpus.
        tokenizer: the folder of one whose tokens to count; by default the run's own, if it has one.
        json: a file to write the numbers to.

    Raises:
        UserError: no such tokenizer, or `json` is in the folder of a finished stage.
    """
    if json is not None and any((above / MANIFEST).is_file() for above in json.resolve().parents):
        raise UserError(f"{json} is in the folder of a finished stage, which must stay as it is.")
    if tokenizer is None and Run(run).manifest("tokenizer") is not None:
        tokenizer = run / "tokenizer"
    cutter = Tokenizer.load(tokenizer) if tokenizer else None
    found = measure(run / "corpus")
    tokens = None
    if cutter:
        tokens = count_tokens(run / "corpus", found, lambda texts: map(len, cutter.encode_batch(texts)))
    tell(found, tokens)
    if json is not None:
        write_atomic(json, dump_json(asdict(found) | ({"tokens": asdict(tokens)} if tokens else {})))


def tell(found: Statistics, tokens: Tokens | None) -> None:
    """Prints everything."""
    _overview(found)
    _languages(found, tokens)
    _domains(found)
    _lengths(found)
    rows = [
        (f"{step}: {size}", number_words(clusters))
        for step, those in found.duplicates.items()
        for size, clusters in zip(cluster_names(those.sizes), those.sizes.values(), strict=True)
    ]
    if rows:
        show_table("Clusters of duplicates, by documents in them", ["step", "clusters"], rows)
    for step, those in found.duplicates.items():
        for identity, url, size in those.largest[:3]:
            print(f"  {step}: {size:,} documents like {shown(clipped(url, 200))} (id {identity})")
    gone = sum(found.refused.values())
    reasons = [
        (reason, number_words(number), percent_words(number / gone))
        for reason, number in list(found.refused.items())[:TOP]
    ]
    if reasons:
        show_table(f"{counted(gone, 'document')} refused", ["reason", "documents", "share"], reasons)


def cluster_names(lows: Iterable[int]) -> list[str]:
    """Names for classes of clusters: 2, 3, 4, 5–9, 10–99."""
    following = dict(pairwise(CLUSTERS))
    names = []
    for low in lows:
        high = following.get(low)
        names.append(
            f"{low:,} or more" if high is None else f"{low}" if high == low + 1 else f"{low}–{high - 1}"
        )
    return names


def length_names() -> list[str]:
    """Names for the bars of the histogram of lengths: 0–99, 100–199, 1,000,000 or more."""
    names = [f"{low:,}–{high - 1:,}" for low, high in pairwise(LENGTHS)]
    return [*names, f"{LENGTHS[-1]:,} or more"]


def inner(counts: list[int]) -> range:
    """The bars of a histogram without the empty ones at its ends."""
    filled = [index for index, count in enumerate(counts) if count]
    return range(filled[0], filled[-1] + 1) if filled else range(0)


def _overview(found: Statistics) -> None:
    total = found.all
    documents = max(1, total.documents)
    rows = [
        ("documents", number_words(total.documents)),
        *(
            (f"  {split}", f"{number_words(one.documents)}, {large_words(one.characters)} characters")
            for split, one in sorted(found.splits.items())
        ),
        ("characters", large_words(total.characters)),
        ("bytes in UTF-8", bytes_words(total.bytes)),
        ("bytes per document", bytes_words(total.bytes / documents)),
        ("on the disk", bytes_words(found.stored_bytes)),
        ("compression", f"{total.bytes / max(1, found.stored_bytes):.2f} : 1"),
    ]
    show_table("The corpus", ["", ""], rows)


def _languages(found: Statistics, tokens: Tokens | None) -> None:
    head = ["language", "documents", "characters", "share"]
    head += ["tokens", "characters per token", "bytes per token"] if tokens else []
    rows = []
    for code, amount in found.languages.items():
        row = [code or "not known", *_amount(amount, found.all)]
        if tokens and (cut := tokens.languages.get(code)):
            row += [large_words(cut.tokens), f"{cut.characters_per_token:.2f}", f"{cut.bytes_per_token:.2f}"]
        rows.append(row + [""] * (len(head) - len(row)))
    if tokens:
        per = [f"{size / max(1, tokens.tokens):.2f}" for size in (found.all.characters, found.all.bytes)]
        rows.append(["together", *_amount(found.all, found.all), large_words(tokens.tokens), *per])
    show_table("Languages", head, rows)
    if tokens and tokens.sampled:
        print(
            f"  Tokens are an estimate by language, from {counted(tokens.documents, 'document')} of "
            f"{found.all.documents:,}, chosen by the hashes that are their ids."
        )
    for title, counts in (("Language scores", found.scores), ("Quality scores", found.quality_scores)):
        bars = [(f"{at / SCORES:.2f}", counts[at]) for at in inner(counts)]
        _histogram(title, "score from", bars)


def _domains(found: Statistics) -> None:
    rows = [
        (shown(clipped(name, 60)).replace("\\", "⟨U+005C⟩"), *_amount(amount, found.all))
        for name, amount in found.domains.items()
    ]
    if found.without_domain.documents:
        rows.append(("files without a domain", *_amount(found.without_domain, found.all)))
    head = ["domain", "documents", "characters", "share"]
    at_least = "at least " if found.domains_in_all >= MOST_DOMAINS else ""
    share = sum(one.characters for one in found.domains.values()) / max(1, found.all.characters)
    title = f"Domains: {at_least}{number_words(found.domains_in_all)}"
    if found.domains:
        title += f"; the {len(found.domains)} largest hold {percent_words(share)} of the characters"
    show_table(title, head, rows)


def _lengths(found: Statistics) -> None:
    names = length_names()
    _histogram(
        "Lengths in characters", "length", [(names[at], found.lengths[at]) for at in inner(found.lengths)]
    )
    rows = [(name, number_words(length)) for name, length in found.quantiles.items()]
    show_table("Of the documents, so many are at most so long", ["share", "characters"], rows)


def _histogram(title: str, name: str, bars: list[tuple[str, int]]) -> None:
    if not bars:
        return
    most = max(count for _, count in bars)
    rows = [
        (label, number_words(count), ("█" * round(_BAR * count / most)).ljust(_BAR, "·"))
        for label, count in bars
    ]
    show_table(title, [name, "documents", ""], rows)


def _amount(amount: Amount, total: Amount) -> tuple[str, str, str]:
    share = amount.characters / max(1, total.characters)
    return number_words(amount.documents), large_words(amount.characters), percent_words(share)
