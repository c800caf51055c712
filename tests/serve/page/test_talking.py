"""Talking with the page: sending, streaming, stopping, beginning anew, keys, languages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright_api.expect

Visits = Callable[..., Any]


def test_a_conversation_is_streamed_and_remembered(visit: Visits, paced: Any) -> None:
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
    assert sampling.temperature == 0.3


@pytest.mark.parametrize("way", ["button", "escape", "new chat"])
def test_stopping(visit: Visits, paced: Any, way: str) -> None:
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


def test_new_chat_forgets(visit: Visits, reciting: Any) -> None:
    page = (v := visit()).page
    page.get_by_label("Model").select_option("reciting")
    v.ask("first secret")
    expect(page.locator(".note")).to_contain_text("in")
    page.get_by_role("button", name="New chat").click()
    v.ask("second")
    expect(page.locator(".note")).to_contain_text("in")
    assert "first secret" not in reciting.asked[-1][0]


def test_enter_sends_shift_enter_does_not_and_input_methods_may_use_enter(
    visit: Visits,
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


def test_an_input_method_composes_with_enter(visit: Visits) -> None:
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


def test_an_empty_message_is_not_sent(visit: Visits) -> None:
    page = (v := visit()).page
    v.ask("   ")
    assert page.locator("#turns li").count() == 0


def test_language_follows_the_browser_switches_and_is_remembered(
    visit: Visits,
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


def test_temperature_is_sent_and_checked(visit: Visits, reciting: Any) -> None:
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
