"""Finding things in a finished corpus: documents by id or URL, kept or refused, and what it was made from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from sishu.console import UserError
from sishu.corpus.document import document_id
from sishu.corpus.duplicates.passages import site_of
from sishu.files import as_url
from sishu.run import MANIFEST, Run, external_input

DOCUMENTS, REFUSED = "documents.parquet", "refused.parquet"
MOST_COMPARED = 2000
"""URLs of one site that are compared letter by letter with one that is not there."""
_COLUMNS = {
    DOCUMENTS: ("id", "url", "source", "split", "text"),
    REFUSED: ("id", "url", "source", "step", "reason", "original"),
}
_ID = re.compile(r"[0-9a-fA-F]{16}")
_PLAIN = re.compile(r"^(?:[a-z][a-z0-9+.-]*://)?(?:www\.)?|[/#?]+$")


@dataclass(frozen=True, slots=True)
class Row:
    """What the corpus says about one document: that it was kept, or why it was not."""

    id: str
    url: str
    source: str
    """The input file it came from."""
    split: str = ""
    """`train` or `validation`, empty when it was refused."""
    text: str = ""
    """As it was kept."""
    step: str = ""
    reason: str = ""
    original: str = ""
    """The id of the document that it repeats."""


def run_with_corpus(run: Path | None) -> Path:
    """A run's folder with a finished corpus: the one given, or else the only one in `runs`.

    Raises:
        UserError: there is none, or more than one.
    """
    if run is not None:
        if Run(run).manifest("corpus") is None:
            raise UserError(f"{run} has no finished corpus: run `sishu corpus` first.")
        return run
    found = sorted(manifest.parents[1] for manifest in Path("runs").glob(f"*/corpus/{MANIFEST}"))
    if len(found) > 1:
        raise UserError(f"There are several runs, such as {found[0]} and {found[1]}: choose one with --run.")
    if not found:
        raise UserError("There is no run with a finished corpus in runs/: name its folder with --run.")
    return found[0]


def place_of_input(run: Path, path: str, digest: str) -> Path:
    """Where an input of the corpus stage lies now, by what the stage's manifest says of it.

    Raises:
        UserError: it is gone, or has changed since.
    """
    if as_url(Path(path)):
        return Path(path)
    stage = "".join(Path(path).parts[:1])
    if (run / path).exists() and Run(run).manifest(stage) is not None:
        inner = Path(path).relative_to(stage).as_posix()
        if Run(run).input_from(stage, inner).digest != digest:
            raise UserError(f"{run / path} has changed since the corpus was made: run `sishu corpus` again.")
        return run / path
    # a path as it was given is relative to where the command was, most often the folder around runs/
    places = [place for place in (Path(path), run.resolve().parent.parent / path) if place.exists()]
    if not places:
        raise UserError(f"The input {path} is gone: put it back, or be in the folder it was given from.")
    for place in places:
        if place.is_dir() or external_input(place).digest == digest:
            return place
    raise UserError(f"{places[0]} has changed since the corpus was made: run `sishu corpus` again.")


def find(folder: Path, name: str) -> list[Row]:
    """All that the corpus in `folder` says about the documents of one id or URL, the kept ones first.

    Raises:
        UserError: there is none, naming the URL it may have been meant for, or several; or no such corpus.
    """
    if rows := rows_of(folder, document_id(name)):
        return rows
    if _ID.fullmatch(name):
        if rows := rows_of(folder, name.lower()):
            return rows
        raise UserError(f"No document has the id {name}: take one from rejects.jsonl, or give a URL.")
    near = _near(folder, name)
    if len(near) > 1:
        some = " and ".join(near[:2])
        raise UserError(f"{name} is the URL of no document, but is in that of several, such as {some}.")
    hint = (
        f"did you mean {near[0]}?" if near else "give a URL as it is in the input, or an id of 16 hex digits."
    )
    raise UserError(f"No document has the URL or id {name}: {hint}")


def rows_of(folder: Path, identity: str) -> list[Row]:
    """All that the corpus says about the documents of one id; see `find`."""
    rows: list[Row] = []
    for name, columns in _COLUMNS.items():
        opened(folder / name, columns).close()
        chosen = pyarrow.parquet.read_table(
            folder / name, columns=list(columns), filters=[("id", "==", identity)]
        )
        rows += [Row(**row) for row in chosen.to_pylist()]
    return rows


def opened(path: Path, columns: tuple[str, ...]) -> pyarrow.parquet.ParquetFile:
    """A table of a corpus; raises UserError when it is missing, broken, or lacks one of the columns."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the corpus stage again.")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if missing := set(columns) - set(file.schema_arrow.names):
            file.close()
            raise pyarrow.ArrowInvalid(f"no column {min(missing)}")
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a table of this sishu ({error}): run the corpus again.") from error
    return file


def _near(folder: Path, name: str) -> list[str]:
    """URLs that may have been meant: the same but for scheme, `www.` and end; those that contain what was
    given; or the one of the same site that is nearest."""
    plain = _PLAIN.sub("", name.strip().lower())
    if not plain:
        return []
    site = site_of(name)
    same: set[str] = set()
    containing: set[str] = set()
    neighbours: set[str] = set()
    for urls in _urls(folder):
        lower = pyarrow.compute.utf8_lower(urls)
        for url in urls.filter(pyarrow.compute.match_substring(lower, plain)).to_pylist():
            if _PLAIN.sub("", url.lower()) == plain:
                same.add(url)
            elif len(containing) < MOST_COMPARED:
                containing.add(url)
        if len(neighbours) < MOST_COMPARED:
            on_site = (
                pyarrow.compute.starts_with(lower, site)
                if site
                else pyarrow.compute.invert(pyarrow.compute.match_substring(lower, "://"))
            )
            neighbours.update(urls.filter(on_site).to_pylist()[: MOST_COMPARED - len(neighbours)])
    if same or containing:
        return sorted(same or containing)
    short = [url for url in sorted(neighbours) if len(url) < 2 * len(name) + 20]
    return difflib.get_close_matches(name, short, n=1)


def _urls(folder: Path) -> Iterator[pyarrow.Array]:
    for name in _COLUMNS:
        with opened(folder / name, _COLUMNS[name]) as file:
            for batch in file.iter_batches(columns=["url"]):
                yield batch.column(0)
