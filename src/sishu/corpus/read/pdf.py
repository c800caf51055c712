"""The text layer of a PDF, read by PDFium (https://pdfium.googlesource.com/pdfium/) in a process of its own.

A PDF is a program in disguise: a few hundred bytes can ask for gigabytes or for hours, and its readers are
written in C++. So each file is read by a child process with limits on memory and time, whose death costs
nothing but that file. Run as a script, this module is the child: the PDF is its standard input, the text its
standard output, the verdict its exit code.

Lines are put together to paragraphs, for a model that learned from lines broken at the margin would break
its own. What PDFium joined at a hyphen loses the hyphen.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from typing import BinaryIO

MAX_PAGES = 5_000
"""Pages read of one PDF."""
MAX_TEXT_BYTES = 50_000_000
"""Bytes of text taken from one PDF, in UTF-8."""
MAX_MEMORY_BYTES = 2 << 30
"""Address space of the child."""
MAX_SECONDS = 120
"""Processor time of the child."""

_ENCRYPTED, _DAMAGED, _LONG, _DAMAGED_PAGES, _NO_LIBRARY = 3, 4, 5, 6, 7
_VERDICTS = {
    0: "",
    _ENCRYPTED: "encrypted PDF",
    _DAMAGED: "damaged PDF",
    _LONG: "PDF cut because it is too long",
    _DAMAGED_PAGES: "PDF with damaged pages",
    _NO_LIBRARY: "PDF that cannot be read without the package pypdfium2",
}
_TOO_COSTLY = "PDF that takes too much time or memory"

_PAGE_NUMBER = re.compile(r"[-–—•| ]*(?:\d{1,4}|[ivxl]{1,7})[-–—•| ]*")
_FULL_LINE, _FULL_SENTENCE = 0.8, 0.95
_NARROWEST = 40
"""Columns below which the widest lines show no margin: verses, labels, cells of tables."""
_SENTENCE_ENDS = tuple(".!?:;。！？：；…”’\"'）」』】")


def read_pdf(file: BinaryIO) -> tuple[str, str]:
    """The text of a PDF and what is wrong with it.

    Args:
        file: a file on disk.

    Returns:
        The text, one line per paragraph, empty where there is none that can be read; and a reason, empty if
        all is well. Both where only part of the text could be read. What an image shows is no text.

    Raises:
        OSError: no process can be started.
    """
    limits = (MAX_PAGES, MAX_TEXT_BYTES, MAX_MEMORY_BYTES, MAX_SECONDS)
    # -P: nothing is imported from the folder in which the command runs, nor from that of this file
    command = [sys.executable, "-P", __file__, *map(str, limits)]
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    child = subprocess.run(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    reason = _VERDICTS.get(child.returncode, _TOO_COSTLY)
    # How far a child came that was killed depends on the machine: that part is not the same everywhere
    text = "" if reason == _TOO_COSTLY else child.stdout.decode("utf-8", "replace")
    return text, reason or ("" if text else "PDF without text")


def paragraphs(page: str) -> str:
    """The text of a page with its lines put together, one line per paragraph.

    A line is taken to go on in the next if it reaches the margin, which is where the widest lines end; if it
    ends like a sentence, it must be as wide as those. A page number in the first or last line is left out.
    """
    lines = [line.strip() for line in page.replace("\ufffe", "").splitlines()]
    lines = [line for line in lines if line]
    for end in (0, -1):
        if lines and _PAGE_NUMBER.fullmatch(lines[end]):
            del lines[end]
    if not lines:
        return ""
    widths = [_columns(line) for line in lines]
    margin = sorted(widths)[len(widths) * 9 // 10]
    out = []
    for line, following, width in zip(lines, [*lines[1:], ""], widths, strict=True):
        out.append(line)
        full = _FULL_SENTENCE if line.endswith(_SENTENCE_ENDS) else _FULL_LINE
        if margin < _NARROWEST or width < full * margin:
            out.append("\n")
        elif not (_wide(line[-1]) or _wide(following[:1] or " ")):
            out.append(" ")
    return "".join(out).strip()


def _columns(line: str) -> int:
    return len(line) + sum(map(_wide, line))


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _child(pages: int, text_bytes: int, memory_bytes: int, seconds: int) -> int:
    """Writes the text of the PDF in standard input; returns the exit code."""
    try:
        import resource
    except ImportError:  # there are no such limits on Windows
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        if sys.platform == "linux":  # elsewhere it is refused
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        import pypdfium2
    except ImportError:
        return _NO_LIBRARY
    try:
        document = pypdfium2.PdfDocument(sys.stdin.buffer)
    except pypdfium2.PdfiumError as error:
        return _ENCRYPTED if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD else _DAMAGED
    count = len(document)
    verdict = _LONG if count > pages else 0
    for number in range(min(count, pages)):
        try:
            page = document[number]
            layer = page.get_textpage()
            text = layer.get_text_range()
        except pypdfium2.PdfiumError:
            verdict = verdict or _DAMAGED_PAGES
            continue
        layer.close()
        page.close()
        data = (paragraphs(text) + "\n").encode("utf-8", "replace")
        text_bytes -= len(data)
        if text_bytes < 0:
            verdict = _LONG
            break
        if data.strip():
            sys.stdout.buffer.write(data)
    return verdict if count else _DAMAGED


if __name__ == "__main__":
    sys.exit(_child(*map(int, sys.argv[1:])))
