"""What became of a document, as it is told in the terminal: short, true, and harmless."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.look.explain import UNKNOWN, Account, Outcome
from sishu.corpus.look.lookup import Row
from sishu.report.explanation import SHOWN_LINES, WIDTH, tell, text_after


def account(*steps: Outcome, **fields: Any) -> Account:
    return replace(Account("0" * 16, "https://a.org/", "a.jsonl", steps=list(steps)), **fields)


def told(capsys: pytest.CaptureFixture[str], *accounts: Account) -> str:
    tell(accounts)
    return capsys.readouterr().out


def test_a_change_in_a_long_line_is_shown_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = "守塔人每天傍晚登上楼梯。" * 80 + "信箱 jo@corp.org 。" + "看渔船绕过沙洲归来。" * 80
    out = told(capsys, account(Outcome("scrub", before, before.replace("jo@corp.org", "<email>"))))
    minus, plus = (line.strip() for line in out.splitlines() if line.strip()[:2] in ("- ", "+ "))
    assert "jo@corp.org" in minus and "<email>" in plus
    assert max(len(minus), len(plus)) <= WIDTH + 5


def test_only_the_first_changed_lines_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"line {index}" for index in range(5000)]
    out = told(capsys, account(Outcome("repeated passages", "\n".join(lines), "\n".join(lines[::2]))))
    shown = [line for line in out.splitlines() if line.startswith("  - ")]
    assert shown == [f"  - line {index}" for index in range(1, 2 * SHOWN_LINES, 2)] and "  …" in out


def test_what_was_made_of_a_page_is_shown_by_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    page = Outcome("decode", "", "<p>One.</p>\n<p>Two.</p>", body=23)
    out = told(capsys, account(page, Outcome("html to text", "<p>One.</p>\n<p>Two.</p>", "One.\n\nTwo.")))
    assert "  | <p>One.</p>" in out and "  | One.\n  | Two.\n" in out
    assert "23 bytes" in out


def test_every_verdict_has_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    step = Outcome("decode", "text", "text")
    kept = Row("1" * 16, "https://kept.org/", "a", split="train", text="text")
    lost = Row("2" * 16, "https://lost.org/", "a", step="near duplicates", reason="said before")
    for verdict, originals, says in (
        (Row("0" * 16, "u", "a", split="validation"), {}, "Kept, held out for validation."),
        (
            Row("0" * 16, "u", "a", step="exact duplicates", reason="said before", original=kept.id),
            {kept.id: [kept]},
            "It repeats https://kept.org/ (id 1111111111111111), which was kept, for training.",
        ),
        (
            Row("0" * 16, "u", "a", step="exact duplicates", reason="said before", original=lost.id),
            {lost.id: [lost]},
            "which was refused later by “near duplicates”.",
        ),
        (
            Row("0" * 16, "u", "a", step="exact duplicates", reason="said before", original="0" * 16),
            {},
            "It repeats another document of this URL.",
        ),
        (Row("0" * 16, "u", "a", step="repeated passages", reason="nothing new"), {}, "Too little was left"),
        (Row("0" * 16, "u", "a", step="same address", reason="older"), {}, "The newest page of this address"),
    ):
        assert says in told(capsys, account(step, verdicts=[verdict], originals=originals))
    out = told(capsys, account(step, verdicts=[kept, lost]), account(Outcome("decode", "", None, "no", 4)))
    assert "2 documents have this URL." in out and "cannot be told" in out
    assert "Refused by “decode”: no." in out


def test_the_text_after_a_step_is_all_of_it() -> None:
    long = "长" * 100_000
    steps = [Outcome("decode", "", "<p>", body=3), Outcome("html to text", "<p>", long)]
    assert text_after([account(*steps), account(*steps)], "html to text") == f"{long}\n\n{long}"
    unknown = account(*steps, Outcome("repeated passages", long, UNKNOWN))
    with pytest.raises(UserError, match="there is text after decode, html to text"):
        text_after([unknown], "repeated passages")
    with pytest.raises(UserError, match="refused before there was any text"):
        text_after([account(Outcome("decode", "", None, "no", 9))], "decode")


TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\x1b\x9b\u202e\u200b[]\\/:\n b")))


@given(url=TEXT, before=TEXT, after=TEXT, source=TEXT)
def test_no_text_reaches_the_terminal_as_a_command(url: str, before: str, after: str, source: str) -> None:
    out = io.StringIO()
    row = Row("0" * 16, url, source, split="train")
    verdict = Row("3" * 16, url, source, step="near duplicates", reason="said before", original="0" * 16)
    one = account(
        Outcome("scrub", before, after),
        url=url,
        source=source,
        date=source,
        verdicts=[verdict],
        originals={row.id: [row]},
    )
    with contextlib.redirect_stdout(out):
        tell([one])
    assert not {"\x1b", "\x9b", "\u202e", "\u200b", "\r"} & set(out.getvalue())
