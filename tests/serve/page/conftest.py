"""A real Chromium visiting the real server; every visit must leave no trouble behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sishu.generate.engine import Engine, Piece, Sampling
from sishu.serve.app import create_app

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright_api.expect

KEY = "open-sesame"
PROSE = (
    "`json.dumps` turns an object into text; "
    "<b>not markup</b> and <img src=x onerror=alert(1)>.\n\n"
    "```python\nimport json\n\n"
    "print(json.dumps({'学': ['而', '时', '习', '之']}, ensure_ascii=False))\n```\n\n"
    "它把 Python 对象变成 JSON 文本。若要保留中文，请设 `ensure_ascii=False`。"
)


class RecordingEngine(Engine):
    """The real engine; keeps what it was asked."""

    asked: ClassVar[list[tuple[str, Sampling]]] = []

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        self.asked.append((self.tokenizer.decode(prompt), sampling))
        return super().stream(prompt, sampling)


class PacedEngine(RecordingEngine):
    """Slowed to a pace at which a person can press Stop."""

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        for piece in super().stream(prompt, sampling):
            time.sleep(0.02)
            yield piece


class RecitingEngine(RecordingEngine):
    """Says a fixed text, so that the page's drawing of code can be checked."""

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        super().stream(prompt, sampling)
        for start in range(0, len(PROSE), 7):
            yield Piece(PROSE[start : start + 7], [0])
        yield Piece("", [self.tokenizer.end], "stop")


@dataclass
class Visit:
    """A page, and everything that should not have happened on it."""

    page: Any
    origin: str
    troubles: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        self.page.get_by_role("textbox").first.fill(text)
        self.page.keyboard.press("Enter")


@pytest.fixture(scope="session")
def paced(lively_model_folder: Path) -> PacedEngine:
    engine = PacedEngine.load(lively_model_folder)
    return engine


@pytest.fixture(scope="session")
def reciting(lively_model_folder: Path) -> RecitingEngine:
    engine = RecitingEngine.load(lively_model_folder)
    return engine


@pytest.fixture(scope="session")
def page_address(paced: PacedEngine, reciting: RecitingEngine, start_server: Callable[..., str]) -> str:
    return start_server(create_app({"quickstart-ppo": paced, "reciting": reciting}, "quickstart-ppo"))


@pytest.fixture(scope="session")
def locked(reciting: RecitingEngine, start_server: Callable[..., str]) -> str:
    return start_server(create_app({"reciting": reciting}, "reciting", api_key=KEY))


@pytest.fixture
def visit(browser: Any, page_address: str) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def open_page(at: str = page_address, locale: str = "en-US", width: int = 1000, **options: Any) -> Visit:
        size = {"width": width, "height": 720}
        context = browser.new_context(locale=locale, viewport=size, **options)
        made = Visit(context.new_page(), at)
        visits.append(made)
        page = made.page
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: made.troubles.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: said.type in ("error", "warning") and made.troubles.append(said.text),
        )
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith((at, "data:")) or made.troubles.append(f"left the origin: {asked.url}")
            ),
        )
        page.goto(at)
        expect(page.locator("#model option")).not_to_have_count(0) if at == page_address else None
        return made

    yield open_page
    for made in visits:
        made.page.context.close()
    for made in visits:
        assert made.troubles == []
