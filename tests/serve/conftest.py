"""A real server in a thread of its own, on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI

from sishu.serve.server import bind, build_server


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[[FastAPI], str]]:
    """`start_server(app)` serves `app` until the tests end and returns its address."""
    running = []

    def start(app: FastAPI) -> str:
        listener = bind("127.0.0.1", 0)
        server = build_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=10)
