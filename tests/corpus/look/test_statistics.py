"""The statistics of a corpus, beside plain counting of the same documents."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.document import Document, document_id
from sishu.corpus.look import statistics
from sishu.corpus.look.statistics import CLUSTERS, LENGTHS, Amount, Clusters, count_tokens, measure
from sishu.corpus.table import write_documents

REFUSED = ("id", "url", "source", "step", "reason", "original")
Refusal = tuple[str, str, str, str]  # url, step, reason, original's URL


def write(folder: Path, splits: dict[str, Sequence[Document]], refused: Iterable[Refusal] = ()) -> Path:
    """A corpus's tables as the stage leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_documents(folder / "documents.parquet", splits)
    rows = sorted(
        (document_id(url), url, "a.jsonl", step, reason, document_id(original) if original else "")
        for url, step, reason, original in refused
    )
    columns = [pyarrow.array([row[at] for row in rows], pyarrow.string()) for at in range(len(REFUSED))]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=list(REFUSED)), folder / "refused.parquet")
    return folder


def document(url: str, text: str, language: str = "en", score: float = 0.9) -> Document:
    return Document(
        document_id(url), url, "", text, language=language, language_score=score, source="a.jsonl"
    )


HOSTS = st.sampled_from(["a.org", "www.a.org", "A.ORG", "b.example.com:8080", "me@c.net", "例子.中国"])
URLS = st.one_of(
    st.builds(lambda host, n: f"https://{host}/{n}", HOSTS, st.integers(0, 999)),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).map(lambda text: text * 17)
DOCUMENTS = st.lists(
    st.builds(document, URLS, TEXTS, st.sampled_from(["en", "zh-Hans", ""]), st.floats(0, 1, width=32)),
    min_size=1,
    max_size=30,
)


def expected_domain(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return host.removeprefix("www.")


@settings(max_examples=60, deadline=None)
@given(train=DOCUMENTS, held_out=DOCUMENTS)
def test_counts_are_those_of_plain_counting(train: list[Document], held_out: list[Document]) -> None:
    everything = [*train, *held_out]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(write(Path(folder), {"train": train, "validation": held_out}))
    lengths = [len(d.text) for d in everything]
    sizes = [len(d.text.encode()) for d in everything]
    assert found.all == Amount(len(everything), sum(lengths), sum(sizes))
    assert found.splits["train"].characters == sum(len(d.text) for d in train)
    assert {code: one.documents for code, one in found.languages.items()} == Counter(
        d.language for d in everything
    )
    most = [one.characters for one in found.languages.values()]
    assert most == sorted(most, reverse=True)
    hists = numpy.histogram(lengths, [*LENGTHS, math.inf])[0].tolist()
    assert found.lengths == hists and sum(hists) == len(everything)
    assert found.scores == numpy.histogram([d.language_score for d in everything], 20, (0, 1))[0].tolist()
    for name, at in (("1%", 0.01), ("25%", 0.25), ("50%", 0.5), ("99%", 0.99)):
        assert found.quantiles[name] == numpy.quantile(lengths, at, method="inverted_cdf"), name
    assert (found.quantiles["min"], found.quantiles["max"]) == (min(lengths), max(lengths))
    domains: Counter[str] = Counter()
    for one in everything:
        if one.url.startswith("https://"):
            domains[expected_domain(one.url)] += 1
    assert {name: one.documents for name, one in found.domains.items()} == domains
    assert found.domains_in_all == len(domains)
    assert found.without_domain.documents == len(everything) - domains.total()


def test_quality_scores_are_counted_where_there_are_any(tmp_path: Path) -> None:
    scored = [document("a", "text"), document("b", "other"), document("c", "third")]
    scored[0].quality_score, scored[1].quality_score = 0.5, 1.0
    assert measure(write(tmp_path, {"train": scored})).quality_scores == [*[0] * 10, 1, *[0] * 8, 1]
    found = measure(write(tmp_path, {"train": scored[2:]}))
    assert sum(found.quality_scores) == 0 and sum(found.scores) == 1


def test_only_the_largest_domains_are_named_and_all_are_counted(tmp_path: Path) -> None:
    documents = [document(f"https://d{i}.org/{n}", "word " * (i + 1)) for i in range(30) for n in range(2)]
    found = measure(write(tmp_path, {"train": documents}))
    assert list(found.domains) == [f"d{i}.org" for i in range(29, 9, -1)]
    assert found.domains_in_all == 30
    assert found.domains["d29.org"] == Amount(2, 300, 300)


def test_domains_beyond_the_most_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_DOMAINS", 3)
    documents = [document(f"https://d{i}.org/", "word") for i in range(9)]
    found = measure(write(tmp_path, {"train": documents}))
    assert found.domains_in_all == 3 and found.all.documents == 9


def test_a_text_of_more_than_a_million_characters_counts(tmp_path: Path) -> None:
    documents = [document("a", "长" * 1_500_000), document("b", "短")]
    found = measure(write(tmp_path, {"train": documents}))
    assert found.lengths[-1] == 1 and found.lengths[0] == 1
    assert found.quantiles["99%"] == found.quantiles["max"] == 1_500_000
    assert found.all.bytes == 3 * 1_500_001
    assert 0 < found.stored_bytes < found.all.bytes / 100


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://[2001:db8::1]:80/a", "[2001:db8::1]"),
        ("http://user:word@Host.Example/", "host.example"),
        ("ftp://www.files.net", "files.net"),
        ("https://a\\[/b]\x1b[31m/", "a\\["),
        (f"https://{'x' * 500}/", "x" * 253),
        ("notes.txt", ""),
        ("rows.jsonl#3", ""),
        ("https:///nothing", ""),
    ],
)
def test_domains_of_odd_addresses(tmp_path: Path, url: str, domain: str) -> None:
    found = measure(write(tmp_path, {"train": [document(url, "text")]}))
    assert list(found.domains) == ([domain] if domain else [])
    assert found.without_domain.documents == (0 if domain else 1)


def test_clusters_count_the_one_that_was_left(tmp_path: Path) -> None:
    refused = [
        *((f"copy{i}", "exact duplicates", "said before", "https://one.org/") for i in range(11)),
        ("twin", "exact duplicates", "said before", "two"),
        ("near", "near duplicates", "said before", "two"),
        ("short", "quality", "too short", ""),
        ("again", "quality", "too short", ""),
    ]
    kept = [document("https://one.org/", "text"), document("two", "other")]
    found = measure(write(tmp_path, {"train": kept}, refused))
    exact = found.duplicates["exact duplicates"]
    assert (exact.refused, exact.clusters) == (12, 2)
    assert exact.sizes == {2: 1, 10: 1} and set(exact.sizes) <= set(CLUSTERS)
    assert exact.largest[0] == (document_id("https://one.org/"), "https://one.org/", 12)
    near = Clusters(1, 1, {2: 1}, [(document_id("two"), "two", 2)])
    assert found.duplicates["near duplicates"] == near
    assert list(found.refused.items()) == [
        ("exact duplicates: said before", 12),
        ("quality: too short", 2),
        ("near duplicates: said before", 1),
    ]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def test_tokens_of_all_documents_by_language(tmp_path: Path) -> None:
    documents = [document("a", "abcd" * 10), document("b", "数据" * 10, "zh-Hans"), document("c", "é")]
    folder = write(tmp_path, {"train": documents})
    found = measure(folder)
    tokens = count_tokens(folder, found, lambda texts: [2 * n for n in characters(list(texts))])
    assert not tokens.sampled and tokens.documents == 3 and tokens.tokens == 2 * 61
    assert tokens.languages["zh-Hans"].tokens == 40
    assert tokens.languages["zh-Hans"].bytes_per_token == 1.5
    assert tokens.languages["en"].characters_per_token == 0.5


def test_a_sample_is_chosen_by_id_and_scaled_by_bytes(tmp_path: Path) -> None:
    documents = [document(str(i), "word " * 20) for i in range(1500)]
    documents += [document(f"文{i}", "字" * 40, "zh-Hans") for i in range(1500)]
    folder = write(tmp_path, {"train": documents})
    found = measure(folder)
    seen: list[str] = []

    def count(texts: Sequence[str]) -> list[int]:
        seen.extend(texts)
        return characters(list(texts))

    tokens = count_tokens(folder, found, count, most=600)
    assert tokens.sampled and 450 < tokens.documents < 750 and len(seen) == tokens.documents
    assert tokens.tokens == found.all.characters  # each language's documents are alike
    assert tokens.languages["zh-Hans"].tokens == 1500 * 40
    ids = sorted(d.id for d in documents)
    assert seen[0] == next(d.text for d in documents if d.id == ids[0])


def test_a_long_text_is_cut_for_the_tokenizer(tmp_path: Path) -> None:
    folder = write(tmp_path, {"train": [document("a", "x" * 2_500_000)]})
    longest: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        longest.extend(map(len, texts))
        return characters(list(texts))

    assert count_tokens(folder, measure(folder), count).tokens == 2_500_000
    assert max(longest) == 1_000_000


@pytest.mark.parametrize("spoilt", ["documents.parquet", "refused.parquet"])
def test_a_missing_or_broken_table_is_one_sentence(tmp_path: Path, spoilt: str) -> None:
    folder = write(tmp_path, {"train": [document("a", "text")]})
    (folder / spoilt).write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=f"{spoilt} is not a table of this sishu"):
        measure(folder)
    pyarrow.parquet.write_table(pyarrow.table({"url": ["a"]}), folder / spoilt)
    with pytest.raises(UserError, match="no column"):
        measure(folder)
    (folder / spoilt).unlink()
    with pytest.raises(UserError, match=f"{spoilt} does not exist"):
        measure(folder)
