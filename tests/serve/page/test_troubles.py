"""What the page says when something goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright_api.expect

Visits = Callable[..., Any]

KEY = "open-sesame"


def test_a_conversation_that_no_longer_fits_is_said_in_words(
    visit: Visits,
) -> None:
    page = (v := visit()).page
    v.ask("学而时习之" * 2000)
    expect(page.get_by_role("alert")).to_contain_text("no longer fits")
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("alert")).to_contain_text("超出")
    v.troubles.clear()  # Chromium logs every 400 itself


def test_a_lost_server_is_said_in_words_and_can_be_tried_again(
    visit: Visits,
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


def test_a_stream_that_breaks_is_said_in_words(visit: Visits) -> None:
    page = (v := visit()).page
    half = 'data: {"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=half),
    )
    v.ask("break")
    expect(page.get_by_role("alert")).to_contain_text("broke before")


def test_a_locked_server_asks_for_its_key(visit: Visits, locked: str) -> None:
    page = (v := visit(at=locked)).page
    expect(page.get_by_role("alert")).to_contain_text("needs its key")
    v.troubles.clear()  # Chromium logs the 401 itself
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Tab")
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.locator("#notice")).to_be_hidden()
    v.ask("hello")
    expect(page.locator(".note")).to_contain_text("token")
