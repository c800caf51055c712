"""The user's material, whatever its kind and wherever it lies, as one stream of pages and documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from sishu.console import UserError
from sishu.corpus.document import Document, Page, document_id
from sishu.corpus.read import charset, path_lists
from sishu.corpus.read.path_lists import COMMON_CRAWL, paths_in
from sishu.corpus.read.pdf import read_pdf
from sishu.corpus.read.remote import fetched, list_remote
from sishu.corpus.read.rows import (
    BROKEN,
    read_arrow,
    read_bounded,
    read_json_lines,
    read_parquet,
    unpacked,
)
from sishu.corpus.read.warc import MAX_RECORD_BYTES, read_pages
from sishu.files import as_url

Report = Callable[[str], None]

MAX_TEXT_BYTES = 500_000_000
"""A larger text file is reported and skipped, for a text is held in memory as a whole."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file to be read: a description that is cheap to send to another process."""

    name: str
    """Its path relative to the given folder, its own name if it was given itself, or its line in a list of
    paths: the same wherever the folder lies."""
    location: str
    """A path or an address to open."""
    size: int
    """Bytes, 0 where unknown."""


def list_inputs(data: str | Path, report: Report | None = None, *, base: str = COMMON_CRAWL) -> list[Input]:
    """The files of `KINDS` in a folder, here or on another machine, sorted by name.

    Hidden files and folders are skipped, and so are files of other kinds. A list of paths (`.paths`,
    `.paths.gz`, as Common Crawl has them) stands for the files it names.

    Args:
        data: a file, or a folder of them, as a path or as an address that fsspec knows (`https://…`, `s3://…`,
            `hf://datasets/OWNER/NAME`).
        report: called with one line, `reason: place`, for each line of a list that is refused.
        base: where the paths in lists of paths begin.

    Raises:
        UserError: nothing there, nothing of these kinds, or no way to it.
    """
    data = Path(unquote(urlsplit(str(data)).path)) if str(data).startswith("file://") else data
    url = as_url(data)
    found = [Input(*one) for one in list_remote(url, _is_readable)] if url else _list_local(Path(data))
    inputs: dict[str, Input] = {}
    for one in found:
        for source in _listed(one, report or (lambda line: None), base) if _is_list(one.name) else [one]:
            inputs.setdefault(source.name, source)
    if not inputs:
        raise UserError(f"{url or data} holds nothing that can be read; files may be {KINDS}")
    return [inputs[name] for name in sorted(inputs)]


def read_input(source: Input, report: Report) -> Iterator[Page | Document]:
    """What is in one file, in bounded memory.

    Text files and rows give documents; HTML files and the records of web archives give pages. The URL of a
    file is its name, that of a row without a `url` field the name with the row's number after `#`.

    Args:
        source: one of `list_inputs`.
        report: called with one line, `reason: place`, for each record or file skipped as broken.

    Raises:
        UserError: a file from another machine finds no room on the disk. Nothing inside a file raises.
    """
    try:
        with _opened(source.location) as file:
            yield from _READERS[_kind(source.name)](file, source.name, report)
    except BROKEN as error:
        report(f"unreadable file: {source.name} ({error})")


def read_documents_or_pages(data: str | Path, report: Report) -> Iterator[Page | Document]:
    """Everything readable in a file or, recursively and sorted by path, in a folder: `list_inputs` and
    `read_input` in one.

    Raises:
        UserError: nothing there, nothing of these kinds, or nothing in them that can be read. The
            last is known, and raised, only at the end of the iteration.
    """
    return _read_all(data, list_inputs(data, report), report)


def _read_all(data: str | Path, inputs: list[Input], report: Report) -> Iterator[Page | Document]:
    found = False
    for source in inputs:
        for item in read_input(source, report):
            found = True
            yield item
    if not found:
        raise UserError(f"{data} holds no text that can be read; files may be {KINDS}")


def _list_local(path: Path) -> list[Input]:
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or a folder of {KINDS}")
    if path.is_file():
        files = [(path.name, path)]
    else:
        found = ((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
        files = [(n.as_posix(), f) for n, f in found if not any(part.startswith(".") for part in n.parts)]
    return [Input(name, str(file), file.stat().st_size) for name, file in files if _is_readable(name)]


def _listed(paths: Input, report: Report, base: str) -> Iterator[Input]:
    """The files that a list of paths names."""
    try:
        with _opened(paths.location) as file:
            for name, url in paths_in(file, paths.name, base, lambda name: bool(_kind(name)), report):
                yield Input(name, url, 0)
    except BROKEN as error:
        report(f"unreadable file: {paths.name} ({error})")


def _opened(location: str) -> AbstractContextManager[BinaryIO]:
    return fetched(location) if as_url(location) else Path(location).open("rb")


def _is_list(name: str) -> bool:
    return name.lower().endswith(path_lists.ENDINGS)


def _is_readable(name: str) -> bool:
    return _is_list(name) or bool(_kind(name))


def _kind(name: str) -> str:
    """The ending that decides the reader, empty for a file of another kind."""
    return next((ending for ending in _READERS if name.lower().endswith(ending)), "")


def _read_text(file: BinaryIO, name: str, report: Report) -> Iterator[Document]:
    data = read_bounded(unpacked(file) if name.lower().endswith(".gz") else file, MAX_TEXT_BYTES)
    if data is None:
        report(f"text file too large: {name}")
        return
    yield from _document(charset.decode(data, "text/plain")[0], name, "empty file", report)


def _read_html(file: BinaryIO, name: str, report: Report) -> Iterator[Page]:
    body = read_bounded(file, MAX_RECORD_BYTES)
    if body is None:
        report(f"oversized: {name}")
    else:
        yield Page(url=name, body=body, content_type="text/html")


def _read_pdf(file: BinaryIO, name: str, report: Report) -> Iterator[Document]:
    text, reason = read_pdf(file)
    if reason:
        report(f"{reason}: {name}")
    if text.strip():
        yield from _document(text, name, "", report)


def _document(text: str, name: str, if_empty: str, report: Report) -> Iterator[Document]:
    if text.strip():
        yield Document(id=document_id(name), url=name, date="", text=text)
    else:
        report(f"{if_empty}: {name}")


def _read_archive(file: BinaryIO, name: str, report: Report) -> Iterator[Page]:
    yield from read_pages(file, damaged=lambda reason: report(f"{reason}: {name}"))


_READERS: dict[str, Callable[[BinaryIO, str, Report], Iterator[Page | Document]]] = {
    **dict.fromkeys((".txt", ".txt.gz", ".md", ".markdown"), _read_text),
    **dict.fromkeys((".html", ".htm"), _read_html),
    ".pdf": _read_pdf,
    **dict.fromkeys((".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz"), read_json_lines),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    **dict.fromkeys((".warc", ".warc.gz", ".warc.zst", ".wet", ".wet.gz"), _read_archive),
    **dict.fromkeys((".arc", ".arc.gz"), _read_archive),
}

KINDS = " ".join((*_READERS, *path_lists.ENDINGS))
"""The file kinds that can be read, told apart by how the name ends."""
