"""How the page looks: code as code, both languages whole, narrow and wide, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright_api.expect

Visits = Callable[..., Any]

OUTPUT = Path(__file__).parents[2] / "output"


def test_answers_are_text_never_markup(visit: Visits) -> None:
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


def test_both_languages_have_the_same_words(visit: Visits) -> None:
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


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_sticks_out_and_nothing_is_nameless(visit: Visits, width: int) -> None:
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
    visit: Visits,
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
    visit: Visits,
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
