"""How the corpus pipeline grows: 1,000 to 100,000 pages, one worker and two, and 5 GB in bounded memory.

Pages are made of the sentences of a web archive that is given: each a new page of its own, but for one in
twenty that is the copy of another and one in ten that is nearly one. Seconds by the clock from the command to
documents.parquet, and the memory of all processes together (proportional set size), looked at four times a
second.

    python benchmarks/corpus_scale.py PAGES.warc.gz [--pages 1000 10000 100000] [--gigabytes 5]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

FILES = 16
"""Archives that the pages are spread over."""


def sentences(path: Path) -> list[str]:
    """All sentences of an archive's English pages, longer than a heading."""
    from sishu.corpus.extract.html_to_text import html_to_text
    from sishu.corpus.extract.markup import TangledMarkup
    from sishu.corpus.judge.language import identify
    from sishu.corpus.read import charset
    from sishu.corpus.read.warc import read_pages

    found: set[str] = set()
    for page in read_pages(path):
        try:
            text = html_to_text(charset.decode(page.body, page.content_type)[0], "fast")
        except TangledMarkup:
            continue
        if identify(text)[0] == "en":
            found.update(
                s for line in text.split("\n") for s in re.findall(r"[A-Z][^.?!]{40,400}[.?!]", line)
            )
    return sorted(found)


def texts(known: list[str], count: int) -> Iterator[list[str]]:
    """Pages as lists of paragraphs."""
    rng = random.Random(count)
    before: list[list[str]] = []
    for _ in range(count):
        kind = rng.random()
        if before and kind < 0.05:
            page = rng.choice(before)
        elif before and kind < 0.15:
            page = list(rng.choice(before))
            page[rng.randrange(len(page))] = rng.choice(known)
        else:
            page = [" ".join(rng.sample(known, rng.randint(2, 6))) for _ in range(rng.randint(4, 24))]
        before.append(page)
        if len(before) > 2000:
            before[rng.randrange(1000)] = before.pop()
        yield page


def write_archives(known: list[str], count: int, folder: Path) -> None:
    """As many pages in `FILES` archives."""
    folder.mkdir()
    files = [(folder / f"{number:02}.warc.gz").open("wb") for number in range(FILES)]
    writers = [WARCWriter(file, gzip=True) for file in files]
    menu = "".join(f"<li><a href='/{n}'>Section {n}</a></li>" for n in range(20))
    for number, page in enumerate(texts(known, count)):
        body = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in page)
        html = f"<html><body><nav><ul>{menu}</ul></nav><main>{body}</main></body></html>"
        head = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
        url = f"https://site{number % 97}.example/{number}"
        writer = writers[number % FILES]
        payload = BytesIO(html.encode())
        writer.write_record(writer.create_warc_record(url, "response", payload=payload, http_headers=head))
    for file in files:
        file.close()


def write_rows(known: list[str], size: int, folder: Path) -> None:
    """Rows of text, so many bytes of them, in `FILES` files."""
    folder.mkdir()
    pages = texts(known, 10**9)
    for number in range(FILES):
        with (folder / f"{number:02}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < size // FILES:
                file.writelines(json.dumps({"text": "\n\n".join(next(pages))}) + "\n" for _ in range(500))


def measured(data: Path, out: Path, workers: int) -> tuple[float, float, dict[str, int]]:
    """Seconds and megabytes that a corpus takes, and its figures."""
    words = [f"data={data}", f"workers={workers}", "quality=fineweb", "languages=[en]", "extraction=fast"]
    command = [sys.executable, "-m", "sishu", "corpus", *words, "--run", str(out), "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(memory, family(process.pid))))
        time.sleep(0.25)
    if process.returncode:
        sys.exit(process.returncode)
    seconds = time.perf_counter() - started
    figures = json.loads((out / "corpus" / "manifest.json").read_text())["figures"]
    shutil.rmtree(out)
    return seconds, peak, figures


def family(pid: int) -> list[int]:
    """A process and those it has started."""
    found = [pid]
    for one in found:
        tasks = Path(f"/proc/{one}/task")
        try:
            found += [int(c) for t in tasks.iterdir() for c in (t / "children").read_text().split()]
        except OSError:
            continue
    return found


def memory(pid: int) -> float:
    """Megabytes of a process, what it shares with others counted in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("pages", type=Path)
    parser.add_argument("--pages", dest="counts", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    known = sentences(args.pages)
    print(f"{len(known):,} sentences", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in args.counts:
            write_archives(known, count, folder / "archives")
            size = sum(file.stat().st_size for file in (folder / "archives").iterdir()) / 1e6
            for workers in args.workers:
                seconds, peak, figures = measured(folder / "archives", folder / "run", workers)
                print(
                    f"{count:,} pages ({size:,.0f} MB), {workers} workers: {seconds:.1f} s, "
                    f"{1000 * seconds / count:.2f} ms a page, {peak:,.0f} MB, {figures['documents']:,} kept",
                    flush=True,
                )
            shutil.rmtree(folder / "archives")
        if args.gigabytes:
            write_rows(known, int(args.gigabytes * 1e9), folder / "rows")
            seconds, peak, figures = measured(folder / "rows", folder / "run", max(args.workers))
            print(
                f"{args.gigabytes:g} GB of rows, {max(args.workers)} workers: {seconds:.0f} s, "
                f"{peak:,.0f} MB, {figures['documents']:,} kept, {figures['characters']:,} characters",
                flush=True,
            )


if __name__ == "__main__":
    main()
