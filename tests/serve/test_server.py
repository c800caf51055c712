"""Taking a port, and what is said when it cannot be had."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from sishu.console import UserError
from sishu.generate.engine import Engine
from sishu.serve.app import create_app
from sishu.serve.server import bind, serve

PROGRAM = """
import sys
from pathlib import Path
from sishu.generate.engine import Engine
from sishu.serve.app import create_app
from sishu.serve.server import serve
app = create_app({"tiny": lambda: Engine.load(Path(sys.argv[1]))}, "tiny")
serve(app, port=0, on_ready=lambda address: print(address, flush=True))
print("served")
"""


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} .* already in use: .*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_addresses_that_cannot_be_had(host: str, port: int) -> None:
    with pytest.raises(UserError):
        bind(host, port)


def test_an_open_address_needs_a_key(tiny_model_folder: Path) -> None:
    app = create_app({"tiny": lambda: Engine.load(tiny_model_folder)}, "tiny")
    with pytest.raises(UserError, match="API key"):
        serve(app, host="0.0.0.0", port=0)


def test_serve_in_its_own_process_ends_cleanly_on_interrupt(
    tiny_model_folder: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tiny_model_folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    alarm = threading.Timer(60, process.kill)  # a server that says nothing fails the test
    try:
        alarm.start()
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", address)
        with httpx.Client(transport=httpx.HTTPTransport(retries=0), base_url=address) as client:
            assert client.get("/health").status_code == 200  # ready when it says so
            answer = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3})
            assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        alarm.cancel()
        process.kill()
    assert (process.returncode, out, err) == (0, "served\n", "")
