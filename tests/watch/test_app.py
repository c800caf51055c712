"""What the server of `sishu watch` answers, to whom, and what the command says when it cannot begin."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sishu.watch.app import create_app
from tests.watch.written import Written, lines

COMMAND = [sys.executable, "-m", "sishu", "watch"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}


@pytest.fixture
def address(written: Written, start_server: Callable[..., str]) -> str:
    return start_server(create_app(written.folder))


def test_the_figures_and_what_is_new(address: str, written: Written) -> None:
    metrics = written.begin("pretrain", steps=9)
    metrics.write_bytes(lines(range(3)))
    told = httpx.get(f"{address}/watch/run").json()
    assert told["run"] == "demo"
    assert [stage["state"] for stage in told["stages"]] == ["waiting", "running", "waiting"]
    place = f"{address}/watch/stages/pretrain"
    charts = httpx.get(place).json()
    assert charts["charts"][0] == {
        "name": "loss",
        "lines": [{"name": "loss", "points": [[0, 8.0], [1, 4.0], [2, 8 / 3]]}],
    }
    seen = {"seen": charts["version"]}
    assert httpx.get(place, params=seen).status_code == 204
    metrics.write_bytes(lines(range(4)))
    assert len(httpx.get(place, params=seen).json()["charts"][0]["lines"][0]["points"]) == 4


def test_what_there_is_not_is_said(address: str) -> None:
    for path in (
        "watch/stages/ppo",
        "watch/stages/..%2f..%2fetc",
        "page/page.js",
        "page/..%2fapp.py",
        "v1/models",
    ):
        assert httpx.get(f"{address}/{path}").status_code == 404, path
    assert "no stage 'ppo'" in httpx.get(f"{address}/watch/stages/ppo").json()["error"]["message"]
    assert httpx.get(f"{address}/watch/stages/sft", params={"seen": "x"}).status_code == 400
    assert httpx.post(f"{address}/watch/run", json={}).status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8001", ""])
def test_foreign_hosts_are_refused(address: str, host: str) -> None:
    for path in ("/", "/watch/run", "/watch/stages/pretrain"):
        answer = httpx.get(f"{address}{path}", headers={"host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "host_not_allowed"


def test_no_other_origin_is_invited_and_every_answer_is_guarded(address: str) -> None:
    for path in ("/", "/page/watch.js", "/page/page.css", "/page/language.js", "/watch/run", "/nothing"):
        headers = httpx.get(f"{address}{path}", headers={"origin": "https://evil.example"}).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]


def refused(*words: str) -> str:
    done = subprocess.run([*COMMAND, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_command_says_what_is_wrong_in_one_sentence(written: Written, tmp_path: Path) -> None:
    assert "There is no folder" in refused(str(tmp_path / "nowhere"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert re.match(rf"Port {port} .* already in use", refused(str(written.folder), "--port", str(port)))


def test_the_command_serves_and_control_c_ends_it(written: Written) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [*COMMAND, str(written.folder), "--port", str(port)]
    process = subprocess.Popen(
        words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert f"at http://127.0.0.1:{port}. " in process.stdout.readline()
        assert httpx.get(f"http://127.0.0.1:{port}/watch/run").json()["run"] == "demo"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
