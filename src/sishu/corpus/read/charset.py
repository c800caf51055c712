"""Bytes to text: which charset a page is really in, whatever it says about itself.

The order is that of what cannot be an accident: a byte-order mark or a pattern of NULs (UTF-16),
an ISO-2022-JP escape, valid UTF-8, then the declaration if the bytes decode under it, then the
detector that Firefox uses (chardetng), then replacement characters. Declarations come late because
they are wrong so often: a server's default header says latin-1 over a Chinese page.

Legacy names are read as the supersets that browsers use (WHATWG Encoding Standard,
https://encoding.spec.whatwg.org/#names-and-labels): GB2312 and GBK as GB18030, latin-1 as
windows-1252.
"""

from __future__ import annotations

import codecs
import re

from chardetng_py import EncodingDetector

_DECLARATION_WINDOW = 4096
"""Bytes of the page searched for a <meta> or XML declaration."""
_DETECTION_WINDOW = 1 << 15
"""Bytes from the first that is not ASCII that are shown to the detector."""
_EVIDENCE = 200
"""Bytes beyond ASCII from which the detector is believed rather than the declaration of another charset of
two bytes a character. Of shorter pieces of prose it takes one in a hundred for another."""

_PYTHON_CODEC = {
    "utf-8": "utf-8",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "gb18030": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp",
    "euc-kr": "cp949",
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
    "ibm866": "cp866",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859_8",
    **{f"windows-{number}": f"cp{number}" for number in range(1250, 1259)},
    **{f"iso-8859-{number}": f"iso8859_{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13)},
    **{f"iso-8859-{number}": f"iso8859_{number}" for number in (14, 15, 16)},
}
"""WHATWG name to the Python codec that covers it; nothing outside this table is ever used to
decode, so that a page cannot ask for `zlib` or `unicode_escape`."""

_SUPERSET = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "iso8859-1": "windows-1252",
    "ascii": "windows-1252",
    "iso8859-9": "windows-1254",
    "tis-620": "windows-874",
    "iso8859-11": "windows-874",
    "x-sjis": "shift_jis",
    "windows-31j": "shift_jis",
    "x-euc-jp": "euc-jp",
    "x-x-big5": "big5",
    "cp950": "big5",
    "cn-big5": "big5",
}
_NAME_OF_CODEC = {codecs.lookup(codec).name: name for name, codec in _PYTHON_CODEC.items()} | {
    "big5": "big5",
    "shift_jis": "shift_jis",
    "euc_kr": "euc-kr",
    "iso8859-8": "iso-8859-8",
}
_NOT_LATIN = {
    "koi8-r",
    "koi8-u",
    "ibm866",
    "x-mac-cyrillic",
    "windows-874",
    "windows-1251",
    "windows-1253",
} | {
    *("windows-1255", "windows-1256", "iso-8859-5", "iso-8859-6", "iso-8859-7", "iso-8859-8"),
}
_MULTIBYTE = {"gb18030", "big5", "shift_jis", "euc-jp", "euc-kr"}

_HEADER = re.compile(r"charset\s*+=\s*+[\"']?\s*+([\w.:+-]+)", re.IGNORECASE)
_META = re.compile(rb"<meta\b[^>]*?\bcharset\s*+=\s*+[\"']?\s*+([\w.:+-]+)", re.IGNORECASE)
_XML = re.compile(rb"^\s*+<\?xml\b[^>]*?\bencoding\s*+=\s*+[\"']([\w.:+-]+)", re.IGNORECASE)
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_WORD_BEYOND_ASCII = re.compile(rb"[\x80-\xff]{4,}")


def decode(body: bytes, content_type: str = "") -> tuple[str, str]:
    """Decode a page.

    Args:
        body: the bytes as the server sent them, content encodings undone.
        content_type: the raw `Content-Type` header, "" when there was none.

    Returns:
        The text, without NUL characters and byte-order mark, and the WHATWG name, in lower case,
        of the charset used. Never raises: what cannot be decoded becomes U+FFFD.
    """
    name = _certain(body)
    text = None if name is None else body.decode(_PYTHON_CODEC[name], "replace")
    if text is None:
        text, name = (
            _strict(body, "iso-2022-jp") if b"\x1b$" in body else None,
            "iso-2022-jp",
        )
    if text is None:
        text, name = _utf8(body), "utf-8"
    if text is None:
        text, name = _legacy(body, content_type)
    assert name is not None
    return text.removeprefix("\ufeff").replace("\0", ""), name


def _certain(body: bytes) -> str | None:
    """The charset that a byte-order mark or the places of NUL bytes prove."""
    if body.startswith(b"\xef\xbb\xbf"):
        return "utf-8"
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16le" if body[0] == 0xFF else "utf-16be"
    head = body[:_DECLARATION_WINDOW]
    if b"\0" not in head:
        return None
    even, odd, half = head[::2].count(0), head[1::2].count(0), len(head) // 2
    # Markup is ASCII in any language, so one side of UTF-16 is full of NULs; the other has a few,
    # from characters such as U+4E00.
    if odd * 5 > half and even * 4 < odd:
        return "utf-16le"
    if even * 5 > half and odd * 4 < even:
        return "utf-16be"
    return None


def _utf8(body: bytes) -> str | None:
    text = _strict(body, "utf-8")
    if text is not None:
        return text
    # One advertisement in another charset must not turn a whole UTF-8 page into mojibake. Legacy
    # text read as UTF-8 is nearly all errors, so a few errors among many characters mean UTF-8.
    text = body.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return text if broken * 20 < beyond_ascii else None


def _legacy(body: bytes, content_type: str) -> tuple[str, str]:
    detector = EncodingDetector()
    first = _BEYOND_ASCII.search(body)
    start = max(0, first.start() - _DECLARATION_WINDOW) if first else 0
    shown = body[start : start + _DETECTION_WINDOW]
    detector.feed(shown, last=True)
    guess, confident = detector.guess_assess(tld=None, allow_utf8=False)
    guessed = _known(guess) or "windows-1252"
    enough = confident and len(_BEYOND_ASCII.findall(shown)) >= _EVIDENCE
    for name in _declared(body, content_type):
        # latin-1 is what servers say when nobody told them, and every byte string decodes under it
        if enough and name != guessed and {name, guessed} <= _MULTIBYTE:
            continue
        if name == "windows-1252" and confident and (guessed in _MULTIBYTE or _is_not_latin(shown, guessed)):
            continue
        text = _strict(body, name)
        if text is not None:
            return text, name
    return body.decode(_PYTHON_CODEC[guessed], "replace"), guessed


def _is_not_latin(body: bytes, guessed: str) -> bool:
    """Whether most bytes beyond ASCII stand in words of nothing else, which in a Latin script they do not."""
    if guessed not in _NOT_LATIN:
        return False
    in_words = sum(map(len, _WORD_BEYOND_ASCII.findall(body)))
    return 2 * in_words > len(_BEYOND_ASCII.findall(body))


def _declared(body: bytes, content_type: str) -> list[str]:
    head = body[:_DECLARATION_WINDOW]
    labels = [match[1] for match in [_HEADER.search(content_type[:_DECLARATION_WINDOW])] if match]
    for match in (_META.search(head), _XML.search(head)):
        if match:
            labels.append(match[1].decode("ascii", "replace"))
    names = [_known(label) for label in labels]
    # a page whose declaration could be read as ASCII is not UTF-16, and UTF-8 has been tried
    return [name for name in names if name and not name.startswith("utf-")]


def _known(label: str) -> str | None:
    """The WHATWG name for a label found in the wild, or None."""
    label = label.strip().lower()
    if label in _SUPERSET or label in _PYTHON_CODEC:
        return _SUPERSET.get(label, label)
    try:
        codec = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    return _SUPERSET.get(codec) or _NAME_OF_CODEC.get(codec)


def _strict(body: bytes, name: str) -> str | None:
    """The text, or None at the first impossible byte; a character cut off at the end is dropped."""
    decoder = codecs.getincrementaldecoder(_PYTHON_CODEC[name])("strict")
    try:
        return decoder.decode(body, final=False)
    except UnicodeDecodeError:
        return None
