"""What goes wrong at a user's desk: one sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from html import escape
from io import BytesIO
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sishu.tokenizer.train import train_bpe

TINY = ["model={depth: 1, width: 32, context_length: 32}", "train.steps=4", "train.batch=4"]
ENDLESS = [*TINY[:1], "train.batch=4", "train.steps=10_000_000", "train.checkpoint_seconds=0"]
PROSE = [text for _, text in sorted(topics.items()) if 1500 < len(text) < 6000]
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {i} + 1?"},
            {"role": "assistant", "content": str(i + 1)},
        ]
    }
    for i in range(12)
]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file that is not a lock, with its content."""
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in folder.rglob("*")
        if f.is_file() and f.name != ".lock"
    }


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(PROSE[:4]), encoding="utf-8")
    return path


@pytest.fixture
def made(sishu: Any, text: Path) -> Path:
    """A finished run at `run`."""
    sishu.good("pretrain", f"data={text}", *TINY, "--run", "run")
    return Path(sishu.folder) / "run"


def test_mistakes_in_the_command_touch_nothing_that_was_made(sishu: Any, made: Path, text: Path) -> None:
    before = snapshot(made)
    (made.parent / "empty").mkdir()
    (made.parent / "mine.yaml").write_text("stages: [corpus, tokeniser]\n")
    (made.parent / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    where = ["--run", "run"]

    told = sishu.refused("pretrain", f"data={text}", "train.step=3", *where)
    assert "unknown key 'pretrain.train.step' (did you mean 'steps'?)" in told
    told = sishu.refused("pretrain", "data=nowhere.txt", *where)
    assert "There is no file or folder nowhere.txt" in told
    assert "The folder empty is empty" in sishu.refused("pretrain", "data=empty", *where)
    told = sishu.refused("sft", "data=nowhere.jsonl", *where)
    assert "There is no file or folder nowhere.jsonl" in told
    told = sishu.refused("run", "mine.yaml", *where)
    assert "there is no stage 'tokeniser' (did you mean 'tokenizer'?)" in told
    assert "given twice, line 2" in sishu.refused("run", "twice.yaml", *where)
    assert "did you mean 'quickstart'?" in sishu.refused("run", "quikstart", *where)
    assert "is not an override" in sishu.refused("pretrain", str(text), *where)
    assert "No such option" in sishu.refused("pretrain", "--rnu", "run")
    assert "no run folder" in sishu.refused("show", "empty")
    assert snapshot(made) == before


def test_an_empty_file_is_refused_and_the_model_of_before_still_stands(
    sishu: Any, made: Path, text: Path
) -> None:
    (made.parent / "empty.txt").write_bytes(b"")
    told = sishu.refused("pretrain", "data=empty.txt", *TINY, "--run", "run")
    assert "empty.txt holds no text that can be read" in told
    before = (made / "pretrain" / "manifest.json").stat().st_mtime_ns
    sishu.good("pretrain", f"data={text}", *TINY, "--run", "run")
    assert (made / "pretrain" / "manifest.json").stat().st_mtime_ns == before  # not trained again


def test_a_text_too_short_to_learn_from_is_refused(sishu: Any) -> None:
    (sishu.folder / "short.txt").write_text("Hello, school.\n")
    told = sishu.refused("pretrain", "data=short.txt", *TINY)
    assert "only 14 characters of clean text came out of 1 document;" in told


def test_a_model_too_large_for_the_memory_is_refused_and_a_smaller_one_trained(
    sishu: Any, text: Path
) -> None:
    words = ["pretrain", f"data={text}", "--run", "run"]
    sishu.gigabytes = 12  # one matrix of the large model takes 17
    told = sishu.refused(*words, "model={depth: 1, width: 65536, context_length: 32}")
    assert told.startswith("The memory is full: lower train.micro_batch")
    sishu.good(*words, *TINY)


def test_of_a_warc_cut_in_the_middle_every_whole_record_is_read(sishu: Any) -> None:
    members = []
    for number, prose in enumerate(PROSE[:6]):
        paragraphs = "".join(f"<p>{escape(p)}</p>" for p in prose.split("\n\n"))
        body = f"<html><body><article>{paragraphs}</article></body></html>".encode()
        buffer = BytesIO()
        writer = WARCWriter(buffer, gzip=True)
        headers = StatusAndHeaders(
            "200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1"
        )
        url = f"http://school.test/{number}"
        writer.write_record(
            writer.create_warc_record(url, "response", payload=BytesIO(body), http_headers=headers)
        )
        members.append(buffer.getvalue())
    whole = b"".join(members[:4])
    (sishu.folder / "pages.warc.gz").write_bytes(whole + members[4][: len(members[4]) // 2])
    sishu.good("pretrain", "data=pages.warc.gz", *TINY, "--run", "run")
    figures = read(sishu.folder / "run" / "corpus" / "manifest.json")["figures"]
    assert figures["documents"] == 4
    assert sum(figures["damaged"].values()) == 1


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(sishu: Any, made: Path, text: Path) -> None:
    model = made / "pretrain" / "model"
    (sishu.folder / "talk.jsonl").write_text("".join(json.dumps(c) + "\n" for c in CONVERSATIONS))
    words = ["data=talk.jsonl", f"model={model}", "train.steps=2", "--run", "sft-run"]
    other = shutil.copytree(model, sishu.folder / "other")
    train_bpe(PROSE, 700).save(other)
    told = sishu.refused("sft", words[0], f"model={other}", *words[2:])
    assert "The tokenizer in" in told and "(700 tokens, the model has 512)" in told
    sishu.good("sft", *words)  # with its own it learns


def test_a_second_process_on_a_run_is_refused_and_the_first_goes_on(sishu: Any, text: Path) -> None:
    first: subprocess.Popen[str] = sishu.start("pretrain", f"data={text}", *ENDLESS, "--run", "run")
    try:
        wait_for(lambda: checkpoints(sishu.folder / "run"), first)
        told = sishu.refused("pretrain", f"data={text}", *TINY, "--run", "run")
        assert f"Another process (pid {first.pid}) is working on run" in told
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    sishu.good("pretrain", f"data={text}", *TINY, "--run", "run")  # kill -9 has let go of the lock


def test_ctrl_c_in_training_stops_with_130_and_the_same_command_goes_on(
    sishu: Any, text: Path, sentence: Callable[..., str]
) -> None:
    # long enough to be interrupted, short enough to be finished
    words = ["pretrain", f"data={text}", *TINY[:1], "train.batch=4", "train.steps=200", "--run", "run"]
    words.append("train.checkpoint_seconds=0")
    run = sishu.folder / "run"
    told = interrupt(sishu, words, lambda: checkpoints(run), sentence)
    assert told == "Stopped; the same command goes on where it was."
    done = max(int(folder.name.removeprefix("step-")) for folder in checkpoints(run))
    assert done > 0
    again = sishu.good(*words)
    assert "pretrain: going on where it stopped" in again.stdout
    manifest = read(run / "pretrain" / "manifest.json")
    assert manifest["resumed"] == 1
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(200))


def test_ctrl_c_in_a_crawl_stops_with_130_and_the_same_command_goes_on(
    sishu: Any, sentence: Callable[..., str]
) -> None:
    words = ["crawl", "site=pydoc", "modules=[json,csv,string]", "delay=0", "--run", "run"]
    archive = sishu.folder / "run" / "crawl" / "pages.warc.gz.working"

    def fetched() -> bool:
        return archive.exists() and archive.stat().st_size > 20_000

    told = interrupt(sishu, words, fetched, sentence)
    assert told == "Stopped; the same command goes on where it was."
    assert archive.stat().st_size > 20_000
    assert "crawl: going on where it stopped" in sishu.good(*words).stdout
    manifest = read(sishu.folder / "run" / "crawl" / "manifest.json")
    assert manifest["resumed"] == 1 and manifest["figures"]["pages"] > 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 kB at first."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)], capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system ({mount.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_on_a_full_disk_nothing_is_lost_and_with_more_room_it_goes_on(
    sishu: Any, small_disk: Path, text: Path
) -> None:
    # weights of 2 MB, checkpoints of three times that
    words = ["pretrain", f"data={text}", "model={depth: 1, width: 192, context_length: 32}"]
    words += [
        "train.steps=6",
        "train.batch=2",
        "train.checkpoint_seconds=0",
        "--run",
        str(small_disk / "run"),
    ]
    sentence = "The disk is full: free some space; the same command then goes on where it was."
    assert sishu.refused(*words) == sentence  # not even the corpus fits
    resize(small_disk, "120k")
    assert sishu.refused(*words) == sentence
    assert (small_disk / "run" / "corpus" / "manifest.json").exists()
    resize(small_disk, "3m")
    assert sishu.refused(*words) == sentence  # no checkpoint fits
    corpus = (small_disk / "run" / "corpus" / "manifest.json").stat().st_mtime_ns
    assert (small_disk / "run" / "pretrain" / "begun.json").exists()
    resize(small_disk, "64m")
    sishu.good(*words)
    assert (small_disk / "run" / "corpus" / "manifest.json").stat().st_mtime_ns == corpus
    assert read(small_disk / "run" / "pretrain" / "manifest.json")["resumed"] >= 1


def resize(place: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def checkpoints(run: Path) -> list[Path]:
    return list((run / "pretrain" / "checkpoint").glob("step-*"))


def wait_for(ready: Callable[[], Any], child: subprocess.Popen[str]) -> None:
    """Until it is ready; a child that ends before, or two minutes, fail the test."""
    deadline = time.monotonic() + 120
    while not ready():
        assert child.poll() is None, child.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupt(sishu: Any, words: list[str], ready: Callable[[], Any], sentence: Callable[..., str]) -> str:
    """Start, press Ctrl-C (a terminal sends it to the whole group) when ready; the line it leaves with."""
    child: subprocess.Popen[str] = sishu.start(*words)
    try:
        wait_for(ready, child)
        os.killpg(child.pid, signal.SIGINT)
        _, stderr = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return sentence(child.returncode, stderr, 130)
