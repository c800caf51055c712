"""The page of `sishu watch` in a real Chromium, beside a stage that goes on, is killed and goes on again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sishu.watch.app import create_app
from tests.watch.written import Written, line, lines

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright_api.expect

OUTPUT = Path(__file__).parents[1] / "output"
PAGE = Path(__file__).parents[2] / "src" / "sishu" / "watch" / "page"


@pytest.fixture
def visit(browser: Any, written: Written, start_server: Callable[..., str]) -> Iterator[Callable[..., Any]]:
    address = start_server(create_app(written.folder))
    contexts, troubles = [], []

    def open_page(width: int = 1000, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("console", lambda said: said.type in ("error", "warning") and troubles.append(said.text))
        page.on(
            "request", lambda asked: asked.url.startswith((address, "data:")) or troubles.append(asked.url)
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def test_a_run_is_followed(written: Written, visit: Callable[..., Any]) -> None:
    page = visit(locale="en-US")
    expect(page.locator("#stages li")).to_have_count(3)
    expect(page.locator("#stages .running")).to_have_count(0)
    metrics = written.begin("pretrain", steps=40)
    metrics.write_bytes(lines(range(10), validation_loss=3.5, sample="<b>not markup</b>") + line(10)[:20])
    expect(page.get_by_role("heading", level=2)).to_have_text("pretrain")
    expect(page.locator("[data-fact=step]")).to_have_text("10 of 40")
    expect(page.locator("[data-fact=state]")).to_have_text("running")
    expect(page.locator("[data-fact=left]")).to_have_text("30 s")
    charts = page.locator("#charts h3")
    assert charts.all_inner_texts() == ["Loss", "Steps per second", "Learning rate", "Gradient norm"]
    loss = page.locator("[data-chart=loss]")
    expect(loss.locator("polyline")).to_have_count(2)
    expect(loss.locator("output")).to_have_text("step 9: Loss 0.8, Validation loss 3.5")
    assert page.locator("#texts p").nth(1).inner_text() == "<b>not markup</b>"

    slider = page.get_by_label("Loss: step to read")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(loss.locator("output")).to_have_text("step 8: Loss 0.8889, Validation loss 3.5")
    metrics.write_bytes(lines(range(14)))
    expect(page.locator("[data-fact=step]")).to_have_text("14 of 40")
    expect(loss.locator("output")).to_contain_text("step 8:")
    assert page.evaluate("document.activeElement.type") == "range"  # drawing again has not taken the focus
    page.keyboard.press("End")
    expect(loss.locator("output")).to_contain_text("step 13:")

    metrics.write_bytes(lines(range(6)))  # cut back to a checkpoint
    expect(page.locator("[data-fact=step]")).to_have_text("6 of 40")
    written.finish("pretrain")
    expect(page.locator("[data-fact=state]")).to_have_text("finished")
    expect(page.locator("#announcer")).to_have_text("pretrain: finished")
    written.begin("sft").write_bytes(lines(range(3)))
    expect(page.get_by_role("heading", level=2)).to_have_text("sft")  # the page follows the run,
    page.get_by_role("button", name="pretrain").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("pretrain")  # or stays where it is told to
    page.get_by_role("button", name="corpus").click()
    expect(page.get_by_text("This stage has no curves.")).to_be_visible()


def test_the_page_speaks_both_languages_and_fits_a_phone(written: Written, visit: Callable[..., Any]) -> None:
    written.begin("pretrain", steps=4000).write_bytes(
        lines(range(0, 3000, 3), validation_loss=2.0, entropy=0.5)
    )
    for width, locale, scheme in ((320, "zh-CN", "light"), (1200, "zh-CN", "dark"), (1200, "en-US", "light")):
        page = visit(width, locale=locale, color_scheme=scheme)
        expect(page.locator("#charts figure")).to_have_count(5)
        chinese = locale == "zh-CN"
        expect(page.locator("#charts h3").first).to_have_text("损失" if chinese else "Loss")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert "undefined" not in page.locator("body").inner_text()
        nameless = page.evaluate(
            """[...document.querySelectorAll('button, input, progress, svg')].filter((element) =>
                 !element.textContent.trim() && !element.getAttribute('aria-label')).length"""
        )
        assert nameless == 0
        OUTPUT.mkdir(exist_ok=True)
        page.screenshot(path=OUTPUT / f"watch-{locale}-{width}.png")
        page.get_by_role("button", name="English" if chinese else "中文").click()
        expect(page.locator("#charts h3").first).to_have_text("Loss" if chinese else "损失")


def test_a_lost_server_is_said(written: Written, visit: Callable[..., Any], browser: Any) -> None:
    page = visit(locale="en-US")
    expect(page.locator("#stages li")).to_have_count(3)
    page.route("**/watch/run", lambda route: route.fulfill(status=204))
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/watch/run")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_both_languages_have_the_same_words() -> None:
    text = (PAGE / "words.js").read_text(encoding="utf-8")
    english, chinese = re.split(r"\n  zh: \{", text.split("const WORDS = {")[1].split("\n};")[0])
    names = [re.findall(r"^    (\w+):", part, re.MULTILINE) for part in (english, chinese)]
    assert names[0] == names[1]
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-(?:words|label)="(\w+)"', html)) <= set(names[0])
