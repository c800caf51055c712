"""Run folders: keys, manifests, skipping, going on, atomic writes, and one process at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from pydantic import Field
from safetensors import SafetensorError

import sishu
from sishu.config import Section, to_yaml
from sishu.console import UserError
from sishu.run import (
    Input,
    Run,
    code_digest,
    dump_json,
    external_input,
    file_digest,
    is_disk_full,
    read_json,
    sha256,
    stage_key,
    stage_module,
    write_atomic,
)

STAGE = "tokenizer"  # any real stage's name: keys hold the digest of its code
SOURCES = Path(sishu.__file__).parents[1]


class Settings(Section):
    size: int = 3
    name: str = "私塾"
    where: Path | None = None
    rate: float = Field(0.5, gt=0)


SETTINGS = Settings()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def inputs(run: Run) -> dict[str, Input]:
    return {"data": Input(run.folder / "corpus" / "documents.parquet", "d" * 64)}


def finish(run: Run, inputs: dict[str, Input], key: str = "k", text: str = "artifact") -> None:
    with run.begin(STAGE, key, SETTINGS, inputs, 5) as (context, figures):
        (context.folder / "model").mkdir()
        write_atomic(context.folder / "model" / "out.txt", text)
        figures["count"] = 3


def write_to_full_device() -> None:
    # opened for writing only: a library that renames a file into place would, for root, replace the device
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 1_000_000)


needs_full_device = pytest.mark.skipif(
    not Path("/dev/full").is_char_device(), reason="needs the device /dev/full"
)


class Killed(BaseException):
    """Stands for whatever ends a stage early."""


def stop_after(run: Run, inputs: dict[str, Input], name: str, key: str = "k") -> None:
    with pytest.raises(Killed), run.begin(STAGE, key, SETTINGS, inputs, 5) as (context, _):
        (context.folder / name).write_text("half")
        raise Killed


# --- keys


def test_the_key_changes_with_whatever_decides_the_bytes_and_with_nothing_else() -> None:
    inputs = {"data": Input(Path("a"), "1")}
    key = stage_key(STAGE, SETTINGS, inputs, 1)
    assert key == stage_key(STAGE, Settings(), {"data": Input(Path("moved"), "1")}, 1)
    others = [
        stage_key(STAGE, Settings(size=4), inputs, 1),
        stage_key(STAGE, Settings(rate=0.25), inputs, 1),
        stage_key(STAGE, SETTINGS, {"data": Input(Path("a"), "2")}, 1),
        stage_key(STAGE, SETTINGS, {"other": Input(Path("a"), "1")}, 1),
        stage_key(STAGE, SETTINGS, {}, 1),
        stage_key(STAGE, SETTINGS, inputs, 2),
        stage_key("corpus", SETTINGS, inputs, 1),
    ]
    assert len({key, *others}) == len(others) + 1


CODE_CHANGES = """
import json, sys
from pathlib import Path
from sishu.run import code_digest
root, digests, stage = Path(sys.argv[1]) / "sishu", [], sys.argv[2]
def digest():
    code_digest.cache_clear()
    return code_digest("sishu.stages." + stage)
digests.append(digest())
def change(name, text):
    path = root / name
    path.write_text(path.read_text() + text)
    digests.append(digest())
change(f"stages/{stage}.py", "\\n\\n# a remark\\n")
for name in sys.argv[3:]:
    change(name, "\\nCHANGED = 1\\n")
print(json.dumps(digests))
"""


def digests_of_changes(tmp_path: Path, stage: str, *files: str) -> list[str]:
    """Digests of a stage's code: as it is, with a remark more, and with a line more in each of the files."""
    shutil.copytree(
        SOURCES / "sishu", tmp_path / "sishu", ignore=shutil.ignore_patterns("__pycache__", "assets", "page")
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CODE_CHANGES, str(tmp_path), stage, *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return list(json.loads(done.stdout))


def test_the_code_digest_sees_code_however_deep_but_no_remarks_and_no_strangers(tmp_path: Path) -> None:
    files = ("tokenizer/train.py", "console.py", "objectives/ppo.py")
    first, remark, imported, deep, stranger = digests_of_changes(tmp_path, "tokenizer", *files)
    assert first == remark
    assert len({first, imported, deep}) == 3
    assert stranger == deep


def test_the_code_digest_sees_what_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    # the spider and what it imports, and the documentation's server
    files = ("corpus/crawl/spider.py", "corpus/crawl/archive.py", "corpus/crawl/pydoc_server.py")
    first, _, *changed = digests_of_changes(tmp_path, "crawl", *files)
    assert len({first, *changed}) == 4


def test_a_stage_is_found_by_name_and_an_unknown_one_refused() -> None:
    assert stage_module("tokenizer") == "sishu.stages.tokenizer"
    assert stage_module("eval") == "sishu.evaluate.eval"
    assert stage_module("report") == "sishu.report.report"
    with pytest.raises(UserError, match="no stage 'nonsense'"):
        stage_module("nonsense")


# --- finishing, skipping, going on


def test_the_manifest_tells_what_was_made_from_what(run: Run, inputs: dict[str, Input]) -> None:
    finish(run, inputs)
    folder = run.folder / STAGE
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == run.manifest(STAGE)
    out = folder / "model" / "out.txt"
    assert manifest["outputs"] == {
        "config.yaml": {
            "bytes": (folder / "config.yaml").stat().st_size,
            "sha256": file_digest(folder / "config.yaml"),
        },
        "model/out.txt": {"bytes": out.stat().st_size, "sha256": sha256(b"artifact")},
    }
    assert (folder / "config.yaml").read_text(encoding="utf-8") == to_yaml(SETTINGS)
    assert manifest["config_digest"] == sha256(to_yaml(SETTINGS).encode())
    assert manifest["code_digest"] == code_digest(f"sishu.stages.{STAGE}")
    assert manifest["inputs"] == {"data": {"path": "corpus/documents.parquet", "digest": "d" * 64}}
    assert (manifest["stage"], manifest["key"], manifest["seed"]) == (STAGE, "k", 5)
    assert manifest["figures"] == {"count": 3}
    assert manifest["resumed"] == 0 and manifest["seconds"] >= 0
    assert datetime.fromisoformat(manifest["started"]) <= datetime.fromisoformat(manifest["finished"])
    assert manifest["versions"]["torch"] == torch.__version__
    assert {"sishu", "python", "torch", "numpy", "tokenizers"} == manifest["versions"].keys()
    assert manifest["machine"].keys() == {"cpu", "cores", "threads", "device"}
    assert manifest["machine"]["threads"] == torch.get_num_threads()
    assert manifest["command"].split()[0] == "sishu"
    assert not (folder / "begun.json").exists()


def test_an_input_outside_the_run_keeps_its_whole_path(run: Run) -> None:
    finish(run, {"data": Input(Path("/elsewhere/text.txt"), "0")})
    manifest = run.manifest(STAGE)
    assert manifest is not None and manifest["inputs"]["data"]["path"] == "/elsewhere/text.txt"


def test_a_finished_stage_stands_until_key_or_artifacts_change(run: Run, inputs: dict[str, Input]) -> None:
    assert not run.finished(STAGE, "k")
    finish(run, inputs)
    assert run.finished(STAGE, "k")
    assert not run.finished(STAGE, "another")
    artifact = run.folder / STAGE / "model" / "out.txt"
    artifact.write_text("artifact, longer")
    assert not run.finished(STAGE, "k")
    artifact.write_text("artifact")
    assert run.finished(STAGE, "k")
    artifact.unlink()
    assert not run.finished(STAGE, "k")


def test_a_damaged_stage_is_made_afresh(run: Run, inputs: dict[str, Input]) -> None:
    finish(run, inputs)
    (run.folder / STAGE / "model" / "out.txt").write_text("cut")
    (run.folder / STAGE / "left over").write_text("x")
    finish(run, inputs)
    assert run.finished(STAGE, "k")
    assert not (run.folder / STAGE / "left over").exists()


def test_a_stopped_stage_goes_on_and_counts_its_pieces(run: Run, inputs: dict[str, Input]) -> None:
    stop_after(run, inputs, "one")
    assert run.manifest(STAGE) is None
    begun = read_json(run.folder / STAGE / "begun.json")
    write_atomic(run.folder / STAGE / "begun.json", dump_json(begun | {"seconds": 100.0}))
    stop_after(run, inputs, "two")
    assert 100 <= read_json(run.folder / STAGE / "begun.json")["seconds"] < 160
    with run.begin(STAGE, "k", SETTINGS, inputs, 5) as (context, _):
        assert context.resumed
        assert context.seconds() >= 100
        assert context.inputs == {"data": inputs["data"].path}
        assert {f.name for f in context.folder.iterdir()} == {"one", "two", "config.yaml", "begun.json"}
    manifest = run.manifest(STAGE)
    assert manifest is not None
    assert manifest["resumed"] == 2 and manifest["seconds"] >= 100
    assert manifest["started"] == begun["started"]
    assert {"one", "two"} < manifest["outputs"].keys()


def test_a_stopped_stage_with_another_key_starts_afresh(run: Run, inputs: dict[str, Input]) -> None:
    stop_after(run, inputs, "one")
    with run.begin(STAGE, "another", SETTINGS, inputs, 5) as (context, _):
        assert not context.resumed and context.seconds_before == 0
        assert not (context.folder / "one").exists()
    manifest = run.manifest(STAGE)
    assert manifest is not None and manifest["resumed"] == 0 and manifest["key"] == "another"


def test_a_stage_killed_before_it_wrote_down_what_it_is_starts_afresh(
    run: Run, inputs: dict[str, Input]
) -> None:
    (run.folder / STAGE).mkdir(parents=True)
    (run.folder / STAGE / "config.yaml").write_text("size: 3\n")
    finish(run, inputs)
    assert run.finished(STAGE, "k")


def test_a_damaged_note_or_manifest_is_named(run: Run, inputs: dict[str, Input]) -> None:
    finish(run, inputs)
    for content in ("{", "[]", "\0"):
        (run.folder / STAGE / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=re.escape(str(run.folder / STAGE / "manifest.json"))):
            run.finished(STAGE, "k")


@needs_full_device
def test_on_a_full_disk_the_first_error_is_the_one_told(run: Run, inputs: dict[str, Input]) -> None:
    with pytest.raises(OSError, match="No space left"), run.begin(STAGE, "k", SETTINGS, inputs, 5):
        write_to_full_device()
    with run.begin(STAGE, "k", SETTINGS, inputs, 5) as (context, _):
        assert context.resumed


def test_hidden_files_are_nobodys_artifacts(run: Run, inputs: dict[str, Input]) -> None:
    with run.begin(STAGE, "k", SETTINGS, inputs, 5) as (context, _):
        (context.folder / ".scratch").write_text("x")
        (context.folder / ".cache").mkdir()
        (context.folder / ".cache" / "file").write_text("x")
    manifest = run.manifest(STAGE)
    assert manifest is not None and manifest["outputs"].keys() == {"config.yaml"}


# --- inputs


def test_an_unfinished_stage_gives_no_input(run: Run, inputs: dict[str, Input]) -> None:
    with pytest.raises(UserError, match=f"has no finished {STAGE} stage: run `sishu {STAGE}` first"):
        run.input_from(STAGE, "model")
    stop_after(run, inputs, "one")
    with pytest.raises(UserError, match="no finished"):
        run.input_from(STAGE, "one")


def test_a_stages_artifact_is_an_input_by_its_bytes(run: Run, inputs: dict[str, Input]) -> None:
    finish(run, inputs)
    folder, file, whole = (run.input_from(STAGE, p) for p in ("model", "model/out.txt", "."))
    assert folder.path == run.folder / STAGE / "model"
    assert len({folder.digest, whole.digest}) == 2
    with pytest.raises(UserError, match="has no mod: run it again"):
        run.input_from(STAGE, "mod")  # a part of a name is not a folder
    finish(run, inputs, "k2", "artifact")
    assert run.input_from(STAGE, "model") == folder
    finish(run, inputs, "k3", "ARTIFACT")
    assert run.input_from(STAGE, "model").digest != folder.digest
    assert run.input_from(STAGE, "model/out.txt").digest != file.digest


def test_missing_and_empty_paths_from_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file or folder .*missing"):
        external_input(tmp_path / "missing")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(UserError, match=r"The folder .*empty is empty"):
        external_input(tmp_path / "empty")
    (tmp_path / "empty" / ".hidden").write_text("x")
    with pytest.raises(UserError, match="is empty"):
        external_input(tmp_path / "empty")


def test_an_outside_folder_is_known_by_names_and_bytes_not_by_place(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "deep").mkdir(parents=True)
        (tmp_path / place / "deep" / "论语.txt").write_text("学而时习之")
        (tmp_path / place / "x.txt").write_text("x")
    digest = external_input(tmp_path / "a").digest
    assert external_input(tmp_path / "b").digest == digest
    (tmp_path / "b" / "x.txt").write_text("y")
    assert external_input(tmp_path / "b").digest != digest
    (tmp_path / "a" / "x.txt").rename(tmp_path / "a" / "y.txt")
    assert external_input(tmp_path / "a").digest != digest
    assert external_input(tmp_path / "b" / "x.txt") == Input(tmp_path / "b" / "x.txt", sha256(b"y"))


# --- atomic writes

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from sishu.files import write_atomic
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
path = Path(sys.argv[1])
if sys.argv[2] == "fsync":
    os.fsync = die
else:
    Path.replace = die
write_atomic(path, "new" * 1_000_000)
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_process_killed_while_writing_leaves_the_old_content(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    child = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path), moment], timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_atomic(path, "new")  # what the dead process left does not stand in the way
    assert path.read_text() == "new"
    assert [f.name for f in tmp_path.iterdir()] == ["file.json"]


def test_atomic_writing_takes_text_and_bytes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "私塾")
    write_atomic(tmp_path / "b", b"\xff\0")
    assert (tmp_path / "a").read_bytes() == "私塾".encode()
    assert (tmp_path / "b").read_bytes() == b"\xff\0"


# --- the lock

HOLD = """
import sys, time
from pathlib import Path
from sishu.run import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_run_is_held_by_one_process_and_free_when_that_is_killed(run: Run) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.folder)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(UserError, match=rf"Another process \(pid {holder.pid}\)"), run.lock():
            pass
        assert time.monotonic() - began < 30  # at once, not when the holder ends
    finally:
        holder.kill()
        holder.wait()
    with run.lock():
        assert (run.folder / ".owner").read_text() == str(os.getpid())
    assert not (run.folder / ".owner").exists()


def test_the_lock_is_let_go_after_a_failure(run: Run) -> None:
    with pytest.raises(ValueError, match="x"), run.lock():
        raise ValueError("x")
    with run.lock():
        pass


# --- full disks


@needs_full_device
def test_a_full_disk_is_recognised() -> None:
    def parquet() -> None:
        with Path("/dev/full").open("wb") as sink:
            pyarrow.parquet.write_table(pyarrow.table({"a": list(range(300_000))}), sink)

    for write in (write_to_full_device, parquet):
        with pytest.raises(OSError) as caught:
            write()
        assert is_disk_full(caught.value), write


def test_a_full_disk_is_recognised_in_the_words_of_rust_libraries() -> None:
    # as safetensors and tokenizers raise it; e2e/test_bad_input.py fills a real disk under them
    assert is_disk_full(SafetensorError("I/O error: No space left on device (os error 28)"))


def test_other_failures_are_not_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "missing").read_text()
    assert not is_disk_full(caught.value)
    assert not is_disk_full(ValueError("full of disks"))
