"""The chat page in a real Chromium, against the real server with a tiny random model."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sishu.generate.engine import Engine, Piece, Sampling
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import save_model
from sishu.serve.app import create_app
from sishu.tokenizer.tokenizer import Tokenizer

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright_api.expect

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")

OUTPUT = Path(__file__).parents[1] / "output"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
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


@pytest.fixture(scope="module")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: DecoderConfig,
    tiny_tokenizer: Tokenizer,
) -> Path:
    """A random model with room for a conversation of some length."""
    torch.manual_seed(0)
    decoder = Decoder(replace(tiny_config, context_length=1024))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("roomy-model")
    save_model(decoder, tiny_tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def paced(model_folder: Path) -> PacedEngine:
    engine = PacedEngine.load(model_folder)
    assert isinstance(engine, PacedEngine)
    return engine


@pytest.fixture(scope="module")
def reciting(model_folder: Path) -> RecitingEngine:
    engine = RecitingEngine.load(model_folder)
    assert isinstance(engine, RecitingEngine)
    return engine


@pytest.fixture(scope="module")
def address(paced: PacedEngine, reciting: RecitingEngine, start_server: Callable[..., str]) -> str:
    return start_server(
        create_app({"quickstart-ppo": paced, "reciting": reciting}, "quickstart-ppo")
    )


@pytest.fixture(scope="module")
def locked(reciting: RecitingEngine, start_server: Callable[..., str]) -> str:
    return start_server(create_app({"reciting": reciting}, "reciting", api_key=KEY))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def open_page(
        at: str = address, locale: str = "en-US", width: int = 1000, **options: Any
    ) -> Visit:
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
                asked.url.startswith((at, "data:"))
                or made.troubles.append(f"left the origin: {asked.url}")
            ),
        )
        page.goto(at)
        expect(page.locator("#model option")).not_to_have_count(0) if at == address else None
        return made

    yield open_page
    for made in visits:
        made.page.context.close()
    for made in visits:
        assert made.troubles == []


def test_a_conversation_is_streamed_and_remembered(
    visit: Callable[..., Visit], paced: PacedEngine
) -> None:
    page = (v := visit()).page
    expect(page).to_have_title(re.compile("sishu"))
    expect(page.get_by_role("textbox")).to_be_focused()
    assert page.locator("#model option").all_inner_texts() == [
        "quickstart-ppo",
        "reciting",
    ]
    page.get_by_label("Model").select_option("reciting")
    v.ask("What is json.dumps?")
    expect(page.locator(".note")).to_contain_text("tokens in")
    page.get_by_label("Model").select_option("quickstart-ppo")
    v.ask("And 学习?")
    expect(page.locator("#stop")).to_be_visible()
    early = page.locator(".answer .body").nth(1)
    expect(early).not_to_be_empty()
    length = len(early.inner_text())
    page.wait_for_function(
        "n => document.querySelectorAll('.answer .body')[1].innerText.length > n", arg=length
    )
    expect(page.locator("#stop")).to_be_visible()
    prompt, sampling = paced.asked[-1]
    assert "What is json.dumps?" in prompt and "ensure_ascii" in prompt and "And 学习?" in prompt
    assert sampling.temperature == 0.8


def test_answers_are_text_never_markup(visit: Callable[..., Visit]) -> None:
    page = (v := visit()).page
    page.get_by_label("Model").select_option("reciting")
    v.ask("recite")
    expect(page.locator(".note")).to_contain_text("tokens in")
    body = page.locator(".answer .body")
    assert body.locator("b, img, script").count() == 0
    assert "<b>not markup</b>" in body.inner_text()
    assert body.locator(".prose code").all_inner_texts() == [
        "json.dumps",
        "ensure_ascii=False",
    ]
    assert body.locator("pre").count() == 1
    assert body.locator("pre code").inner_text().startswith("import json\n\nprint(")
    assert "```" not in body.inner_text()
    expect(page.locator("#announcer")).to_contain_text("ensure_ascii")
    v.ask("<i>me too</i>")
    assert page.locator(".question .body").last.inner_text() == "<i>me too</i>"
    assert page.locator(".question i").count() == 0


@pytest.mark.parametrize("way", ["button", "escape", "new chat"])
def test_stopping(visit: Callable[..., Visit], paced: PacedEngine, way: str) -> None:
    page = (v := visit()).page
    for attempt in range(5):  # a random model may end its answer before the hand is at the button
        v.ask(f"Go on {attempt}")
        expect(page.locator("#stop")).to_be_visible()
        if way == "button":
            page.locator("#stop").click()
        elif way == "escape":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("button", name="New chat").click()
        expect(page.locator("#send")).to_be_visible()
        expect(page.get_by_role("textbox")).to_be_focused()
        if way == "new chat":
            assert page.locator("#turns li").count() == 0
            expect(page.locator("#welcome")).to_be_visible()
            return
        if "Stopped." in page.locator(".note").last.inner_text():
            before = page.locator(".answer .body").last.inner_text()
            page.wait_for_timeout(200)
            assert page.locator(".answer .body").last.inner_text() == before
            assert page.locator(".writing").count() == 0
            return
    pytest.fail("five answers ended by themselves")


def test_new_chat_forgets(visit: Callable[..., Visit], reciting: RecitingEngine) -> None:
    page = (v := visit()).page
    page.get_by_label("Model").select_option("reciting")
    v.ask("first secret")
    expect(page.locator(".note")).to_contain_text("in")
    page.get_by_role("button", name="New chat").click()
    v.ask("second")
    expect(page.locator(".note")).to_contain_text("in")
    assert "first secret" not in reciting.asked[-1][0]


def test_enter_sends_shift_enter_does_not_and_input_methods_may_use_enter(
    visit: Callable[..., Visit],
) -> None:
    page = visit().page
    box = page.get_by_role("textbox")
    one_line = box.bounding_box()["height"]
    box.type("one")
    page.keyboard.press("Shift+Enter")
    box.type("two")
    assert box.input_value() == "one\ntwo"
    assert page.locator("#turns li").count() == 0
    assert box.bounding_box()["height"] > one_line
    for init in ("{isComposing: true}", "{keyCode: 229}"):
        page.evaluate(
            "document.getElementById('composer-text').dispatchEvent(new KeyboardEvent('keydown', "
            f"Object.assign({{key: 'Enter', bubbles: true}}, {init})))"
        )
    assert page.locator("#turns li").count() == 0
    page.keyboard.press("Enter")
    expect(page.locator("#turns li")).to_have_count(1)
    assert page.locator(".question .body").inner_text() == "one\ntwo"
    assert box.input_value() == ""
    assert box.bounding_box()["height"] == pytest.approx(one_line, abs=1)


def test_an_input_method_composes_with_enter(visit: Callable[..., Visit]) -> None:
    page = visit().page
    box = page.get_by_role("textbox")
    session = page.context.new_cdp_session(page)
    session.send(
        "Input.imeSetComposition",
        {"text": "xue", "selectionStart": 3, "selectionEnd": 3},
    )
    assert box.input_value() == "xue"
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
    session.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    session.send("Input.insertText", {"text": "学"})
    assert page.locator("#turns li").count() == 0
    assert box.input_value() == "学"


def test_an_empty_message_is_not_sent(visit: Callable[..., Visit]) -> None:
    page = (v := visit()).page
    v.ask("   ")
    assert page.locator("#turns li").count() == 0


def test_language_follows_the_browser_switches_and_is_remembered(
    visit: Callable[..., Visit],
) -> None:
    page = visit(locale="zh-CN").page
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    expect(page.get_by_role("button", name="发送")).to_be_visible()
    page.locator("#model").select_option("reciting")
    page.get_by_role("button", name="讲一个小故事。").click()
    expect(page.locator(".note")).to_contain_text("个词元")
    page.get_by_role("button", name="English").click()
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".note")).to_contain_text("tokens in")
    expect(page.locator(".speaker")).to_have_text("Assistant")
    page.reload()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.get_by_role("button", name="English").get_attribute("aria-pressed") == "true"


def test_both_languages_have_the_same_words(visit: Callable[..., Visit]) -> None:
    page = visit().page
    text = page.evaluate("fetch('/page/words.js').then((answer) => answer.text())")
    english, chinese = re.split(r"\n  zh: \{", text.split("const WORDS = {")[1].split("\n};")[0])
    names = [re.findall(r"^    (\w+):", part, re.MULTILINE) for part in (english, chinese)]
    assert names[0] == names[1]
    html = page.evaluate("fetch('/').then((answer) => answer.text())")
    used = set(re.findall(r'data-(?:words|label|placeholder)="(\w+)"', html))
    assert used <= set(names[0])
    for language in ("中文", "English"):
        page.get_by_role("button", name=language, exact=True).click()
        assert "undefined" not in page.locator("body").inner_text()


def test_temperature_is_sent_and_checked(
    visit: Callable[..., Visit], reciting: RecitingEngine
) -> None:
    page = (v := visit()).page
    page.get_by_label("Model").select_option("reciting")
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("9")
    v.ask("hot")
    expect(page.get_by_role("alert")).to_contain_text("from 0 to 2")
    assert page.locator("#composer-text").input_value() == "hot"
    page.get_by_label("Temperature").fill("0")
    v.ask("cold")
    expect(page.locator(".note")).to_contain_text("in")
    assert reciting.asked[-1][1].temperature == 0


def test_a_conversation_that_no_longer_fits_is_said_in_words(
    visit: Callable[..., Visit],
) -> None:
    page = (v := visit()).page
    v.ask("学而时习之" * 2000)
    expect(page.get_by_role("alert")).to_contain_text("no longer fits")
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("alert")).to_contain_text("超出")
    v.troubles.clear()  # Chromium logs every 400 itself


def test_a_lost_server_is_said_in_words_and_can_be_tried_again(
    visit: Callable[..., Visit],
) -> None:
    page = (v := visit()).page
    page.get_by_label("Model").select_option("reciting")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    v.ask("anyone?")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".note")).to_contain_text("token")
    assert page.locator("#turns li").count() == 1
    assert page.get_by_role("button", name="Try again").count() == 0
    v.troubles.clear()  # Chromium logs the failed fetch itself


def test_a_stream_that_breaks_is_said_in_words(visit: Callable[..., Visit]) -> None:
    page = (v := visit()).page
    half = 'data: {"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=half),
    )
    v.ask("break")
    expect(page.get_by_role("alert")).to_contain_text("broke before")


def test_a_locked_server_asks_for_its_key(visit: Callable[..., Visit], locked: str) -> None:
    page = (v := visit(at=locked)).page
    expect(page.get_by_role("alert")).to_contain_text("needs its key")
    v.troubles.clear()  # Chromium logs the 401 itself
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Tab")
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.locator("#notice")).to_be_hidden()
    v.ask("hello")
    expect(page.locator(".note")).to_contain_text("token")


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_sticks_out_and_nothing_is_nameless(
    visit: Callable[..., Visit], width: int
) -> None:
    page = (v := visit(width=width)).page
    page.get_by_label("Model").select_option("reciting")
    v.ask("x" * 400)
    expect(page.locator(".note")).to_contain_text("tokens in")
    page.get_by_text("Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= 720
    assert page.locator("#send").bounding_box()["height"] >= 40
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea')].filter((element) =>
             !element.textContent.trim() && !element.labels?.length
             && !element.getAttribute('aria-label')).length"""
    )
    assert nameless == 0


def test_words_stand_out_from_their_ground_in_light_and_dark(
    visit: Callable[..., Visit],
) -> None:
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme).page
        colours = page.evaluate(
            """(() => { const style = getComputedStyle(document.documentElement);
              return Object.fromEntries(['paper', 'raised', 'shade', 'ink', 'faint', 'accent',
                'on-accent', 'trouble'].map((name) => [name, style.getPropertyValue('--' + name)]));
            })()"""
        )
        for ink, ground in (
            *((ink, ground) for ink in ("ink", "faint") for ground in ("paper", "raised", "shade")),
            ("accent", "paper"),
            ("trouble", "paper"),
            ("on-accent", "accent"),
        ):
            ratio = contrast(colours[ink], colours[ground])
            assert ratio >= 4.5, f"{scheme}: {ink} on {ground} is {ratio:.2f}"


def contrast(one: str, other: str) -> float:
    """The WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("name", "locale", "width", "scheme", "question"),
    [
        ("page-en", "en-US", 1000, "light", "What is json.dumps for?"),
        ("page-zh", "zh-CN", 1000, "dark", "json.dumps 是做什么用的？"),
        ("page-mobile", "zh-CN", 320, "light", "json.dumps 是做什么用的？"),
        ("page-empty", "en-US", 1000, "light", ""),
    ],
)
def test_portraits(
    visit: Callable[..., Visit],
    name: str,
    locale: str,
    width: int,
    scheme: str,
    question: str,
) -> None:
    page = (v := visit(locale=locale, width=width, color_scheme=scheme)).page
    if question:
        page.locator("#model").select_option("reciting")
        v.ask(question)
        expect(page.locator(".note span")).to_have_count(1)
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / f"{name}.png")
    assert (OUTPUT / f"{name}.png").stat().st_size > 10_000
