"""Numbers, durations and foreign strings as a reader wants to see them."""

from __future__ import annotations

import unicodedata
from datetime import datetime

NOTHING = "–"
"""What stands in a table where a figure is missing."""

_JOINERS = "\u200c\u200d"  # Persian and emoji need them; they move no text about
_PLAIN_CONTROLS = "\n\t"


def shown(text: str) -> str:
    """`text` with every invisible character spelled out as `⟨U+200B⟩`.

    Controls, zero-width and bidirectional-override characters, line separators and lone
    surrogates can hide text, reorder the page or make it impossible to encode. The result is
    plain text and always encodes to UTF-8; it is not yet escaped for HTML.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(sign):04X}⟩" if _hides(sign) else sign for sign in text)


def _hides(sign: str) -> bool:
    if sign in _JOINERS or sign in _PLAIN_CONTROLS:
        return False
    code = ord(sign)
    noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return noncharacter or unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def clipped(text: str, most: int) -> str:
    """`text` cut to `most` characters, an ellipsis marking the cut."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def number_words(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and thousands separators; – when missing."""
    if value is None:
        return NOTHING
    size = abs(value)
    if size >= 10**digits or (value == int(value) and size >= 1):
        return _minus(f"{value:,.0f}")
    if size == 0:
        return "0"
    if size < 1e-4:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return _minus(f"{mantissa}e{int(power)}")
    before = len(str(int(size))) if size >= 1 else 0
    places = digits - before
    if size < 0.1:  # leading zeros say nothing, so they do not count as digits
        places = max(places, 4)
    return _minus(f"{value:,.{places}f}")


def large_words(value: float | None) -> str:
    """A count in short form: 12,345 → 12.3 k, 4,100,000 → 4.1 M."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            places = max(2 - len(str(int(abs(scaled)))) + 1, 0)
            return _minus(f"{scaled:,.{places}f} {unit}")
    return number_words(value)


def percent_words(value: float | None) -> str:
    """A share between 0 and 1 as a percentage; one decimal below 10% or above 97%."""
    if value is None:
        return NOTHING
    hundred = value * 100
    if 99.95 <= hundred < 100:
        return ">99.9%"
    plain = abs(hundred - round(hundred)) < 1e-9 or 10 <= abs(hundred) < 97
    return _minus(f"{hundred:.0f}%" if plain else f"{hundred:.1f}%")


def duration_words(seconds: float | None) -> str:
    """A working time: 42 s, 3 min 10 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(max(seconds, 0))
    for unit, name, small, small_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
    ):
        if whole >= unit:
            return _two(whole // unit, name, whole % unit // small, small_name)
    return _two(whole // 60, "min", whole % 60, "s") if whole >= 60 else f"{whole} s"


def short_duration_words(seconds: float) -> str:
    """A working time in one unit, for an axis: 42 s, 25 min, 1.4 h, 3.2 d."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            scaled = seconds / unit
            places = 0 if scaled >= 10 or name == "min" else 1
            return f"{scaled:.{places}f} {name}"
    return f"{seconds:.0f} s"


def fixed_words(value: float | None, places: int) -> str:
    """A number with `places` decimals, for columns that are read downwards."""
    return NOTHING if value is None else _minus(f"{value:,.{places}f}")


def date_words(moment: str) -> str:
    """An ISO 8601 moment to the minute, as written if it is none: 2026-05-01 16:12 UTC."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    zone = parsed.strftime("%z")
    zone = " UTC" if zone == "+0000" else f" {zone}" if zone else ""
    return parsed.strftime("%Y-%m-%d %H:%M") + zone


def bytes_words(count: float | None) -> str:
    """A file size in decimal units."""
    if count is None:
        return NOTHING
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= limit:
            return f"{number_words(count / limit)} {unit}"
    return f"{number_words(count)} B"


def _two(large: int, large_name: str, small: int, small_name: str) -> str:
    return f"{large} {large_name} {small} {small_name}" if small else f"{large} {large_name}"


def _minus(words: str) -> str:
    return words.replace("-", "−") if "e-" not in words else words.replace("e-", "e−")
