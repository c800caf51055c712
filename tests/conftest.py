"""What many tests share: a tiny real model folder, and where real data lies."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sishu.console import set_quiet
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import save_model
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe

torch.set_num_threads(1)
# a suite started in the background inherits that Ctrl-C is ignored, and so would the commands it stops
signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

TEXT = (
    "The school opens at eight. What is `json.dumps` for? It turns an object into text.\n"
    "私塾是旧时私人设立的教学处所。学而时习之，不亦说乎？ 🙂 def f(x):\n    return x + 1\n"
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """A real byte-level BPE of 320 tokens."""
    return train_bpe([TEXT] * 4, 320)


TINY = DecoderConfig(
    vocabulary=320,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    hidden=64,
    context_length=128,
)


@pytest.fixture(scope="session")
def tiny_config() -> DecoderConfig:
    return TINY


@pytest.fixture(scope="session")
def tiny_decoder() -> Decoder:
    """Random weights, none of them zero, so that every part of the network has a say."""
    torch.manual_seed(0)
    decoder = Decoder(TINY)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return decoder.eval()


@pytest.fixture(scope="session")
def tiny_model_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> Path:
    folder = tmp_path_factory.mktemp("tiny-model")
    save_model(tiny_decoder, tiny_tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real data from `SISHU_TEST_DATA` or ../shared/data; skips where there is none."""
    folder = Path(os.environ.get("SISHU_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs ../shared/data (or SISHU_TEST_DATA)")
    return folder


@pytest.fixture(autouse=True)
def outspoken() -> Iterator[None]:
    """A test that ran a command with --quiet leaves the next one its voice."""
    yield
    set_quiet(False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real Chromium; one for all tests, because two cannot be driven from one process."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs a Chromium on the PATH")
    playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[[Any], str]]:
    """`start_server(app)` serves `app` in a thread until the tests end and returns its address."""
    from sishu.serve.server import bind, build_server  # here, because few tests need it

    running = []

    def start(app: Any) -> str:
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
