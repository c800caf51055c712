"""Archives for tests: packed record by record, and read with the reasons counted."""

import gzip
from collections import Counter
from pathlib import Path

from sishu.corpus.document import Page
from sishu.corpus.read.warc import read_pages


def zipped(records: list[bytes]) -> bytes:
    """A gzip member a record, without the time, so that the bytes are always the same."""
    return b"".join(gzip.compress(one, mtime=0) for one in records)


def read(path: Path, data: bytes, **options: int) -> tuple[list[Page], dict[str, int]]:
    """The pages of an archive that is written to `path` first, and how often which reason was given."""
    path.write_bytes(data)
    reasons: Counter[str] = Counter()
    pages = list(read_pages(path, lambda reason: reasons.update([reason]), **options))
    return pages, dict(reasons)
