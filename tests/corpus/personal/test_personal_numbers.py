"""Telephones, identity numbers and cards: against other people's generators and numbering plans."""

from __future__ import annotations

import re

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.personal.personal_numbers import is_bank_card, is_identity_number
from sishu.corpus.personal.scrub import scrub
from tests.corpus.personal.pii_cases import HARMLESS, PERSONAL, Case, cases

PLACEHOLDER = re.compile(r"<(?:" + "|".join(PERSONAL) + "|credentials)>")


@pytest.fixture(scope="module")
def labelled() -> list[Case]:
    return list(cases(seed=20, each=20))


def test_precision_and_recall_on_labelled_sentences(labelled: list[Case]) -> None:
    assert len(labelled) == 40 * (len(PERSONAL) + len(HARMLESS)) >= 800
    given = right = wanted = 0
    for case in labelled:
        found = PLACEHOLDER.findall(scrub(case.before)[0])
        wanted += case.before != case.after
        given += len(found)
        right += scrub(case.before)[0] == case.after != case.before
    assert right / wanted >= 0.99 and right / given >= 0.99


@pytest.mark.parametrize("kind", [*PERSONAL, *HARMLESS])
def test_no_kind_is_left_behind(kind: str, labelled: list[Case]) -> None:
    some = [case for case in labelled if case.kind == kind]
    wrong = [(case.before, scrub(case.before)[0]) for case in some if scrub(case.before)[0] != case.after]
    assert len(wrong) <= 0.05 * len(some), wrong


@pytest.mark.parametrize("form", ["INTERNATIONAL", "E164", "NATIONAL"])
def test_the_numbering_plans_of_all_countries(form: str) -> None:
    """libphonenumber's own example numbers; national forms after a word that says what they are."""
    tried = 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE):
            example = phonenumbers.example_number_for_type(region, kind)
            if example is None:
                continue
            number = phonenumbers.format_number(example, getattr(phonenumbers.PhoneNumberFormat, form))
            if sum(map(str.isdigit, number)) < 7:
                continue  # shorter ones look like any other number
            tried += 1
            word = "Tel. " if form == "NATIONAL" else "Ring "
            assert scrub(f"{word}{number}, please")[0] == f"{word}<phone>, please", region
    assert tried > 400


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("打13800138000或13900139000", "打<phone>或<phone>"),
        ("13800138000,13900139000", "<phone>,<phone>"),
        ("（010）62781234转123，传真(021) 5555-1234", "<phone>，传真<phone>"),
        ("客服400-810-8888", "客服<phone>"),
        ("(415) 555-0123 ext. 12 or 1-415-555-0123", "<phone> or <phone>"),
        ("0086 138 0013 8000 / 0044 20 7946 0958", "<phone> / <phone>"),
        ("+1 415 555 0100 24 hours", "<phone> 24 hours"),
        ("Phone: +1.4155550100", "Phone: <phone>"),  # as in WHOIS; without the word it is a decimal
        ("手机号码：138 0013 8000", "手机号码：<phone>"),
        ("身份证号110101199003070027", "身份证号<id-number>"),  # mistyped, but said to be one
        ("11010519491231002x吧", "<id-number>吧"),
        ("4111 1111 1111 1111 123", "<bank-card> 123"),
        ("银联6222021001116245702卡", "银联<bank-card>卡"),
    ],
)
def test_replaced(before: str, after: str) -> None:
    assert scrub(before)[0] == after


@pytest.mark.parametrize(
    "text",
    [
        "110101199003070027 and 990105194912310021 and 110105194913310021",
        "订单13812345678，单号：13812345678，共13812345678元，约13812345678次",
        "order no. 13812345678, id=13812345678, #13812345678, $13812345678, 13812345678 bytes",
        "x13812345678 13812345678x 0.13812345678 138123456789 a_13812345678",
        "phone: 2024-01-15, 电话2024.1.15",
        "1 2 3 4 5 6 7 8 9 10 11 12, 1995 1996 1997 1998 1999, 3+4915112345678",
        "+40.7128 -74.0060, +35.883076 -107.402551, +0800, +1234567, 00000000 00000001",
        "978-7-111-12345-6, 0-306-40615-2, 1234-5678, 000-00-0000",
        "4111111111111112 and 0000000000000000 and 5555 5555 5555 5555",
        "192.168.100.200, 1.3.6.1.4.1.311.21.20, 12345678-1234-1234-1234-123456789012",
    ],
)
def test_near_misses_stay(text: str) -> None:
    assert scrub(text) == (text, {})


def test_check_digits_catch_every_single_mistake() -> None:
    identity, card = "11010519491231002X", "4111111111111111"
    assert is_identity_number(identity) and is_bank_card(card)
    for number, holds in ((identity, is_identity_number), (card, is_bank_card)):
        for place in range(17 if number is identity else 16):
            for digit in "0123456789":
                wrong = number[:place] + digit + number[place + 1 :]
                assert holds(wrong) == (wrong == number), wrong


@given(st.text(alphabet="0123456789+-() .,/xX中a\n", max_size=120))
def test_any_text_is_read_and_no_word_is_broken(text: str) -> None:
    once, _ = scrub(text)
    assert scrub(once)[0] == once
    for found in PLACEHOLDER.finditer(once):
        around = once[max(0, found.start() - 1) : found.start()], once[found.end() : found.end() + 1]
        assert not any(re.fullmatch("[A-Za-z0-9_]", character) for character in around)


@pytest.mark.parametrize("mark", ["1 ", "1-", "+1 ", "(1)", "13", "6222 ", "tel. 1"])
def test_long_rows_of_digits_take_linear_time(mark: str) -> None:
    """A quadratic pattern would not come back from this within the suite's time."""
    text = mark * 200_000
    assert scrub(text) == (text, {})
