"""Numbers that lead to a person: telephones, Chinese identity numbers, bank cards.

A number alone says little, so every kind is checked by what its issuer made checkable: the date and the
check character of an identity number (GB 11643, ISO 7064 MOD 11-2), the network and the Luhn digit of a card
(ISO/IEC 7812), the numbering plan of a telephone's country (`phonenumbers`, which is Google's
libphonenumber). National telephone numbers are taken in the forms of China and North America, and in any
form after a word such as `Tel.` or 电话. Patterns use no word boundary: there is none beside a Chinese
character.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import partial

import phonenumbers

_ALONE = r"(?<![A-Za-z0-9_])(?<![0-9][.])"
_ENDS = r"(?![A-Za-z0-9_]|[.][0-9])"
_ENOUGH = re.compile(r"[0-9](?:[ .()/\u00a0-]{0,2}[0-9]){6}")

_IDENTITY = re.compile(
    rf"{_ALONE}([1-8][0-9]{{5}})([ -]?)((?:18|19|20)[0-9]{{6}})\2([0-9]{{3}}[0-9Xx]){_ENDS}"
)
_IDENTITY_BEFORE = re.compile(r"(?:身份证|身份證|公民身份)[号號]?[码碼]?\s?[:：为為是]?\s?$")
_PROVINCES = re.compile("1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")

_CARD = re.compile(
    rf"{_ALONE}(?:[2-6][0-9]{{3}}([ -])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{1,3}})?"
    rf"|3[0-9]{{3}}([ -])[0-9]{{6}}\2[0-9]{{4,5}}|[2-6][0-9]{{13,18}}){_ENDS}"
)
# Visa, Mastercard (two ranges), American Express, Diners Club, UnionPay, Discover, JCB.
_NETWORK = re.compile(
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|62\d{14,17}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
)

_EXTENSION = r"(?: ?(?:ext\.?|extension|x|转|轉) ?[0-9]{1,5})?"
_INTERNATIONAL = re.compile(
    r"(?<![A-Za-z0-9_+])(?<![0-9][.])(?:\+ ?|00(?=[1-9][0-9]{0,2}[ .-]|86))\(?[1-9][0-9]{0,2}+\)?"
    r"(?:[ .\u00a0/-]?(?:\([0-9]{1,5}\)|[0-9]++)){1,7}"
)
_NATIONAL = {
    "CN": re.compile(
        rf"{_ALONE}(?:1[3-9][0-9]([ -]?)[0-9]{{4}}\1[0-9]{{4}}"
        rf"|(?:[(（]0[0-9]{{2,3}}[)）] ?|0[0-9]{{2,3}}[ -])[2-8][0-9]{{2,3}}[ -]?[0-9]{{4}}"
        rf"|[48]00([ -])(?:[0-9]{{3}}\2[0-9]{{4}}|[0-9]{{4}}\2[0-9]{{3}})){_EXTENSION}{_ENDS}"
    ),
    "US": re.compile(
        rf"{_ALONE}(?:1[ .-])?(?:\([2-9][0-9]{{2}}\) ?[2-9][0-9]{{2}}[ .-]"
        rf"|[2-9][0-9]{{2}}([ .-])[2-9][0-9]{{2}}\1)[0-9]{{4}}{_EXTENSION}{_ENDS}"
    ),
}
_AFTER_WORD = re.compile(
    r"((?:(?<![^\W\d_])(?:tele?phone|tel|phone|mobile|fax|whatsapp|hotline)(?: (?:number|no))?"
    r"|手机|手機|电话|電話|传真|傳真|热线|熱線|座机|联系方式|聯絡電話)(?:号码?|號碼?)?[.]?\s?[:：=是为為]?\s?)"
    rf"([+(]{{0,2}}[0-9](?:[ .()/\u00a0-]{{0,2}}[0-9]){{6,13}}{_EXTENSION}){_ENDS}",
    re.IGNORECASE,
)
_DECIMAL = re.compile(r"\+[0-9]{1,3}[.][0-9]+")
_DATE = re.compile(r"(?:19|20)[0-9]{2}([-./ ]?)[01]?[0-9]\1[0-3]?[0-9]$")
_SERIAL_BEFORE = re.compile(
    r"(?:(?<![^\W\d_])(?:order|serial|invoice|tracking|ticket|case|part|item|model|isbn|issn|id|no|nr|sku|uid|"
    r"build|patent)(?: (?:number|no|id))?|订单|訂單|单|單|编|編|序列|序|流水|工|学|學|帐|账"
    r"|批|型|货|貨|专利|專利|案|票)"
    r"[号號]?[码碼]?[.#]?\s?[:：=#是为為]?\s?$|[#$€£¥￥]\s?$",
    re.IGNORECASE,
)
_UNIT_AFTER = re.compile(r"\s?(?:元|美元|人民币|bytes?\b|B\b|ms\b|次|个|個|人|吨|公里|%|％)")

MOST_CHECKED = {"phone": 20_000, "ip": 50_000}
"""Of a kind in one text, of others `MOST_OTHERS`. To look one up in a numbering plan takes up to forty
microseconds; who has written so many into one text has written a list of them."""
MOST_OTHERS = 200_000

Count = Callable[[str, str], str]
"""Counts one found of a kind, and gives the placeholder that goes in its place."""


class Checks:
    """Says whether what has the form of a kind is still to be checked, or is to be taken for one."""

    def __init__(self) -> None:
        self._done: Counter[str] = Counter()

    def __call__(self, kind: str) -> bool:
        self._done[kind] += 1
        return not self.spent(kind)

    def spent(self, kind: str) -> bool:
        """Whether no more of the kind are checked."""
        return self._done[kind] > MOST_CHECKED.get(kind, MOST_OTHERS)


def without_personal_numbers(text: str, count: Count, checks: Checks) -> str:
    """The text with `<id-number>`, `<bank-card>` and `<phone>` in the place of each number found.

    `count` is called with "id-number", "bank-card" or "phone" and the placeholder, `checks` with the kind.
    """
    if not _ENOUGH.search(text):
        return text

    def identity(match: re.Match[str]) -> str:
        if not checks("id-number"):
            return count("id-number", "<id-number>")
        place, _, born, rest = match.groups()
        said = _IDENTITY_BEFORE.search(match.string[max(0, match.start() - 12) : match.start()])
        found = is_identity_number(place + born + rest, checked=not said)
        return count("id-number", "<id-number>") if found else match[0]

    def card(match: re.Match[str]) -> str:
        if not checks("bank-card") or is_bank_card(match[0]):
            return count("bank-card", "<bank-card>")
        front = match[0][:19]  # four groups of four, perhaps with the security code after them
        if len(match[0]) > 19 and not front.isdigit() and is_bank_card(front):
            return count("bank-card", "<bank-card>") + match[0][19:]
        return match[0]

    def said(match: re.Match[str]) -> str:
        return match[0] if _DATE.match(match[2]) else match[1] + count("phone", "<phone>")

    text = _CARD.sub(card, _IDENTITY.sub(identity, text))
    text = _INTERNATIONAL.sub(partial(_international, count=count, checks=checks), text)
    text = _AFTER_WORD.sub(said, text)
    for region, pattern in _NATIONAL.items():
        text = pattern.sub(partial(_national, region=region, count=count, checks=checks), text)
    return text


def is_identity_number(number: str, checked: bool = True) -> bool:
    """Whether 18 characters are a Chinese resident identity number: province, date of birth, and, when
    `checked`, the check character."""
    try:
        born = date.fromisoformat(number[6:14])
    except ValueError:
        return False
    weights = [2 ** (17 - i) % 11 for i in range(17)]
    total = sum(int(digit) * weight for digit, weight in zip(number, weights, strict=False))
    right = not checked or "10X98765432"[total % 11] == number[17].upper()
    return right and born.year >= 1850 and bool(_PROVINCES.match(number))


def is_bank_card(number: str) -> bool:
    """Whether digits, but for spaces and hyphens, are of a card network's range and length and pass Luhn's
    check."""
    digits = re.sub(r"[ -]", "", number)
    if not _NETWORK.fullmatch(digits) or len(set(digits)) < 2:
        return False
    if len(digits) == 18 and is_identity_number(digits, checked=False):
        return False  # a mistyped one is more likely than a card whose middle is a date
    doubled = (int(d) * 2 if i % 2 else int(d) for i, d in enumerate(reversed(digits)))
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _international(match: re.Match[str], count: Count, checks: Checks) -> str:
    """The longest beginning, at the end of a group, that is a number of its country's plan."""
    if checks.spent("phone"):
        return count("phone", "<phone>")
    found, text = match[0], match.string
    ends = [group.end() for group in re.finditer(r"[0-9]+\)?", found)]
    for end in reversed(ends):
        rest = match.start() + end
        if (
            rest < len(text)
            and re.match(r"[A-Za-z0-9_]|[.][0-9]", text[rest : rest + 2])
            and end == len(found)
        ):
            continue
        if _DECIMAL.fullmatch(found[:end]):
            return found
        if not checks("phone") or _is_valid("+" + found[:end].lstrip("+0 "), None):
            return count("phone", "<phone>") + found[end:]
    return found


def _national(match: re.Match[str], region: str, count: Count, checks: Checks) -> str:
    if not checks("phone"):
        return count("phone", "<phone>")
    text = match.string
    if _SERIAL_BEFORE.search(text[max(0, match.start() - 24) : match.start()]):
        return match[0]
    number = re.split("[a-z转轉]", match[0])[0]  # without the extension
    if _UNIT_AFTER.match(text, match.end()) or not _is_valid(number, region):
        return match[0]
    return count("phone", "<phone>")


def _is_valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
