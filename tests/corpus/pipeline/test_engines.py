"""The same corpus whoever makes it, however often it is interrupted, whatever a page does to a worker."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest

from sishu.console import UserError
from sishu.corpus.pipeline import clean as cleaning
from sishu.corpus.pipeline import plan as planning
from sishu.corpus.pipeline.clean import clean, clean_inputs
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.engines import Engine, Here, Processes, Ray
from sishu.corpus.pipeline.parts import condemn
from sishu.corpus.pipeline.plan import Plan, make_plan
from sishu.corpus.pipeline.worker import Pulse
from sishu.corpus.read.sources import list_inputs, read_documents_or_pages, read_input

WORDS = [f"{a}{b}{c}" for a in "bdfgkmpt" for b in "aeiou" for c in "lmnrst"]
RESULTS = ("documents.parquet", "refused.parquet", "rejects.jsonl", "edits.jsonl", "samples.parquet")
SETTINGS = CleanSettings(quality="none", document_seconds=1, min_language_score=0)


def story(seed: int) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=12)).capitalize() + "." for _ in range(12))


def poem(seed: int) -> str:
    rng = random.Random(seed)
    return "\n".join("".join(chr(rng.randrange(0x4E00, 0x5000)) for _ in range(40)) + "。" for _ in range(8))


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A dozen files with duplicates of every kind within and between them."""
    folder = tmp_path / "material"
    folder.mkdir()
    for number in range(12):
        rows = [
            {"url": f"https://s{i % 3}.org/{number}/{i}", "text": story(number * 40 + i)} for i in range(30)
        ]
        rows += [{"text": poem(number * 9 + i)} for i in range(5)]
        rows.append({"url": f"https://copy.org/{number}", "text": story(number // 2)})
        rows.append({"url": f"https://near.org/{number}", "text": story(7) + f"\nNumber {number}."})
        rows.append({"url": f"https://mail.org/{number}", "text": story(7000 + number) + "\njo@corp.org"})
        lines = story(number + 3000) + "\n" + "\n".join(story(number // 3).split("\n")[3:8])
        rows.append({"url": f"https://passage.org/{number}", "text": lines})
        with (folder / f"{number:02}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "page.html").write_text(f"<html><body><p>{story(99)}</p><p>Shortly.</p></body></html>")
    (folder / "broken.jsonl").write_text('{"text": \n')
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts and buckets, though there is little to do."""
    monkeypatch.setattr(planning, "PART_FILES", 3)
    monkeypatch.setattr(planning, "BIN_BYTES", 40_000)
    monkeypatch.setattr(planning, "BUCKET_CHARACTERS", 20_000)


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def counts(folder: Path) -> list[dict[str, object]]:
    steps = json.loads((folder / "funnel.json").read_text())["steps"]
    return [{key: value for key, value in step.items() if key != "seconds"} for step in steps]


def test_all_engines_make_the_same_corpus(material: Path, tmp_path: Path) -> None:
    engines: dict[str, Engine] = {"here": Here(), "one": Processes(1), "three": Processes(3)}
    figures = {
        name: clean_inputs(list_inputs(material), tmp_path / name, SETTINGS, engine)
        for name, engine in engines.items()
    }
    assert make_plan(tmp_path, SETTINGS, list_inputs(material)).bins > 3
    assert figures["here"]["documents"] > 300
    reasons = figures["here"]["rejected"]
    assert {"exact duplicates: said before", "near duplicates: said before"} <= set(reasons)
    assert figures["here"]["damaged"] == {"broken JSON line": 1}
    for name in engines:
        assert figures[name] == figures["here"]
        assert results(tmp_path / name) == results(tmp_path / "here")
        assert counts(tmp_path / name) == counts(tmp_path / "here")
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            *RESULTS,
            "funnel.json",
            "funnel.parquet",
        }


def test_a_stream_in_one_piece_gives_the_same(material: Path, tmp_path: Path) -> None:
    damaged: list[str] = []
    items = read_documents_or_pages(material, damaged.append)
    streamed = clean(items, tmp_path / "stream", SETTINGS, damaged=damaged)
    figures = clean_inputs(list_inputs(material), tmp_path / "files", SETTINGS, Here())
    assert streamed == figures
    one, other = (pyarrow.parquet.read_table(tmp_path / n / "documents.parquet") for n in ("stream", "files"))
    assert one.drop_columns("source").equals(other.drop_columns("source"))


def test_ray_makes_the_same_corpus(material: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'sishu[ray]'")
    clean_inputs(list_inputs(material), tmp_path / "here", SETTINGS, Here())
    seen: list[int] = []
    clean_inputs(list_inputs(material), tmp_path / "ray", SETTINGS, Ray(), on_document=seen.append)
    assert results(tmp_path / "ray") == results(tmp_path / "here")
    assert counts(tmp_path / "ray") == counts(tmp_path / "here")
    assert max(seen) == sum(1 for _ in read_documents_or_pages(material, lambda line: None))


def test_every_document_is_accounted_for(material: Path, tmp_path: Path) -> None:
    clean_inputs(list_inputs(material), tmp_path / "out", SETTINGS, Here())
    kept = pyarrow.parquet.read_table(tmp_path / "out" / "documents.parquet")
    refused = pyarrow.parquet.read_table(tmp_path / "out" / "refused.parquet")
    read = [(i.url, one.name) for one in list_inputs(material) for i in read_input(one, lambda line: None)]
    found = list(zip(kept["url"].to_pylist() + refused["url"].to_pylist(),
                     kept["source"].to_pylist() + refused["source"].to_pylist(), strict=True))  # fmt: skip
    assert Counter(found) == Counter(read)
    assert kept["id"].to_pylist() == sorted(kept["id"].to_pylist())
    originals = {row["original"] for row in refused.to_pylist() if "duplicates" in row["step"]}
    assert originals and originals <= {*kept["id"].to_pylist(), *refused["id"].to_pylist()}


DRIVER = """
import sys
from pathlib import Path
from sishu.corpus.pipeline import plan
from sishu.corpus.pipeline.clean import clean_inputs
from sishu.corpus.pipeline.clean_settings import CleanSettings
from sishu.corpus.pipeline.engines import Processes
from sishu.corpus.read.sources import list_inputs
plan.PART_FILES, plan.BIN_BYTES, plan.BUCKET_CHARACTERS = 3, 40_000, 20_000
clean_inputs(list_inputs(Path(sys.argv[1])), Path(sys.argv[2]),
             CleanSettings(quality="none", document_seconds=1, min_language_score=0), Processes(2))
"""


def start(material: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(material), str(out)], start_new_session=True)


def test_killed_at_any_moment_and_gone_on_with_it_gives_the_same_bytes(
    material: Path, tmp_path: Path
) -> None:
    clean_inputs(list_inputs(material), tmp_path / "whole", SETTINGS, Here())
    out = tmp_path / "killed"
    work = out / cleaning.WORK
    stages = ["part/00000.json", "part/00003.json", "gather/00002.json", "exact/00000.npz",
              "passages/00001.json", "settle/00003.json"]  # fmt: skip
    for number, landmark in enumerate(stages):
        process = start(material, out)
        while process.poll() is None and not (work / landmark).exists():
            time.sleep(0.001)
        time.sleep(0.002 * number)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert (work / landmark).exists() or (out / "documents.parquet").exists()
    assert start(material, out).wait(timeout=120) == 0
    assert results(out) == results(tmp_path / "whole")
    assert not work.exists()


def test_work_begun_otherwise_is_not_gone_on_with(material: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out" / cleaning.WORK, SETTINGS, list_inputs(material))
    plan.save()
    condemn(plan, 0, 1, "left by other settings")
    other = SETTINGS.model_copy(update={"min_characters": 50})
    figures = clean_inputs(list_inputs(material), tmp_path / "out", other, Here())
    assert not any("left by" in reason for reason in figures["rejected"])


HOSTILE = """
import os, re
from sishu.corpus.pipeline import document_steps
scrub = document_steps.scrub

def hostile(text):
    if "LOOP" in text:
        re.match("(a+)+b", "a" * 60)  # inside a library, where no Python signal handler is called
    if "CRASH" in text:
        os.kill(os.getpid(), 11)
    if "MEMORY" in text:
        bytearray(10**11)
    return scrub(text)

document_steps.scrub = hostile
"""


def test_what_loops_crashes_or_eats_memory_is_left_out(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    for name in ("LOOP", "CRASH", "MEMORY"):
        (material / f"{name}.txt").write_text(story(5000) + name)
    figures = clean_inputs(list_inputs(material), tmp_path / "out", SETTINGS, Processes(2))
    refused = {key: n for key, n in figures["rejected"].items() if key.startswith(("decode", "scrub"))}
    assert refused == {
        "decode: took too long": 1,
        "decode: ended the process": 1,
        "scrub: failed: MemoryError": 1,
    }
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "refused.parquet").to_pylist()
    assert {row["url"] for row in rows if row["reason"] == "took too long"} == {"LOOP.txt"}
    assert {row["url"] for row in rows if row["reason"] == "ended the process"} == {"CRASH.txt"}


def test_a_worker_that_cannot_even_start_is_given_up(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"ended 3 times \(exit code 9\) while reading 00.jsonl and 2 more"):
        clean_inputs(list_inputs(material), tmp_path / "out", SETTINGS, Processes(1))


def test_what_the_user_must_mend_is_told(material: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out" / cleaning.WORK, SETTINGS, list_inputs(material))
    plan.save()
    (plan.folder / "shelves").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="shelves"):
        clean_inputs(list_inputs(material), tmp_path / "out", SETTINGS, Processes(1))


def test_a_plan_does_not_depend_on_where_it_lies(material: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "a", SETTINGS, list_inputs(material))
    plan.save()
    assert Plan.load(tmp_path / "a") == plan
    assert plan.as_json() == make_plan(tmp_path / "b", SETTINGS, list_inputs(material)).as_json()
    plan.set_buckets([19_000 + 21_000 * (number % 2) for number in range(plan.bins)])
    assert plan.buckets == plan.bins + plan.bins // 2
    ids = sorted(f"{random.Random(i).getrandbits(64):016x}" for i in range(3000))
    ids += ["0" * 16, "f" * 16, *(f"{max(0, low + d):016x}" for low in plan.lowest_ids for d in (-1, 0, 1))]
    ids = [one for one in ids if len(one) == 16]
    buckets = [plan.bucket_of(one) for one in sorted(ids)]
    assert buckets == sorted(buckets) and set(buckets) == set(range(plan.buckets))
    lowest_bin = [plan.bin_of(f"{low:016x}") for low in plan.lowest_ids]
    assert all(lowest_bin[plan.bucket_of(one)] == plan.bin_of(one) for one in ids)


TURNS = """
import sys, time
from pathlib import Path
from sishu.corpus.pipeline.worker import Guard, Pulse
guard = Guard(Pulse(Path(sys.argv[1])), 0.5)
def work(item, seconds):
    guard(item)
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
for turn in sys.argv[2].split():
    work(int(turn), 0.3) if turn != "-1" else guard(-1)
"""


@pytest.mark.parametrize(
    ("turns", "pulse"),
    [("1 2 3 -1 -1 -1", (0, 3)), ("1 -1 1 -1", (0, 2)), ("1 2 3 2 4", (2, 0)), ("5 -1 5 5", (5, 1))],
)
def test_an_item_has_so_much_time_in_all_its_turns(
    tmp_path: Path, turns: str, pulse: tuple[int, int]
) -> None:
    done = subprocess.run([sys.executable, "-c", TURNS, str(tmp_path / "pulse"), turns], check=False)
    assert done.returncode == (-signal.SIGPROF if pulse[0] else 0)
    assert Pulse(tmp_path / "pulse").read() == pulse
