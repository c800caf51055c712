"""The page in a real browser: it fits a desktop and a phone, asks for nothing, runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sishu.report.build import build

OUTPUT = Path(__file__).parents[1] / "output"
SHOTS = [
    ("report.png", 1280, "light"),
    ("report-dark.png", 1280, "dark"),
    ("report-phone.png", 380, "light"),
    ("report-phone-dark.png", 380, "dark"),
]


def test_page_fits_and_is_silent(browser: Any, make_run: Callable[..., Path], tmp_path: Path) -> None:
    page_file = tmp_path / "report.html"
    page_file.write_text(build(make_run()), encoding="utf-8")
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / ".gitignore").write_text("*\n", encoding="utf-8")
    for name, width, scheme in SHOTS:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.goto(page_file.as_uri())
        assert asked == [page_file.as_uri()]
        assert said == []
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"the page is {overflow} px wider than a screen of {width} px"
        shown = page.locator("svg:visible")
        assert shown.count() >= 15
        smallest = page.evaluate(
            """() => Math.min(...[...document.querySelectorAll('svg text')]
                .filter(text => text.checkVisibility())
                .map(text => parseFloat(getComputedStyle(text).fontSize)
                    * text.getScreenCTM().a))"""
        )
        assert smallest >= 9.5, f"chart text of {smallest:.1f} px cannot be read"
        spilled = page.evaluate(
            """() => [...document.querySelectorAll('svg text')]
                .filter(text => text.checkVisibility())
                .filter(text => {
                    const box = text.getBoundingClientRect();
                    const chart = text.ownerSVGElement.getBoundingClientRect();
                    return box.right > chart.right + 3 || box.left < chart.left - 3;
                }).map(text => text.textContent)"""
        )
        assert spilled == []
        page.screenshot(path=str(OUTPUT / name), full_page=True)
        page.close()


def test_anchor_leads_to_lineage(browser: Any, make_run: Callable[..., Path], tmp_path: Path) -> None:
    page_file = tmp_path / "report.html"
    page_file.write_text(build(make_run()), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(page_file.as_uri())
    page.locator("#ppo .multiples sup.cite a").first.click()
    target = page.locator(":target")
    assert "ppo" in target.locator("h3").inner_text()
    assert target.evaluate("node => node.getBoundingClientRect().top < window.innerHeight")
    page.close()
