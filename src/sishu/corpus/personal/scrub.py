"""Personal data and run-to-run noise out of the text: credentials in URLs, e-mail, network and memory
addresses, and the numbers of `personal_numbers`.

What stays, on purpose: loopback, unspecified, private, link-local and documentation networks and
the `example` domains (RFC 2606, 3849, 5737, 6761) identify nobody, and documentation that teaches
with them would be spoilt; four-part numbers stay where the text shows a version or a section.
Only IPv6 addresses in 2000::/3, all that is assigned so far, are taken: `a::b` is C++ or Ruby.
Patterns use no word boundary: there is none between an address and a Chinese character.
"""

from __future__ import annotations

import ipaddress
import re

from sishu.corpus.personal.personal_numbers import Checks, without_personal_numbers

_LOGIN = re.compile(r"""(?<=://)([^\s/?#@:<>"'`]{1,64}):([^\s/?#@<>"'`]{1,128})@(?=([^\s/:?#<>"'`]+))""")
_LOGIN_BEFORE = re.compile(r"://[^\s/?#@]+:$")
_KEY = re.compile(
    r"(?<=[?&])((?:access_token|auth_token|token|api_?key|apikey|client_secret|secret|password|passwd|pwd|"
    r"session_?id|phpsessid|jsessionid|signature|sig)=)([^\s&#\"'<>`)]{6,})",
    re.IGNORECASE,
)
# What documentation writes where a reader is to put his own.
_STAND_IN = re.compile(
    r"[{$%*.<\[]|(?:user(?:name)?|login|name|me|foo|your.*|my.*|xxx+|x+|.*example.*|pass(?:word|wd|phrase)?|pwd|"
    r"secret|token|key|bar|guest|anonymous|.*_?here|.*\.\.\.)$",
    re.IGNORECASE,
)
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+@/-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@"
    r"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9@(-])"
)
_IPV4 = re.compile(
    r"(?<![A-Za-z0-9._])(?<![0-9]-)((?:[0-9]{1,3}\.){3}[0-9]{1,3})(?![A-Za-z0-9_]|\.[0-9]|-[0-9])"
)
_IPV6 = re.compile(
    r"(?<![A-Za-z0-9:.])((?:[0-9A-Fa-f]{0,4}:){3,7}(?:[0-9A-Fa-f]{1,4}|(?:[0-9]{1,3}\.){3}[0-9]{1,3})?)"
    r"(?![A-Za-z0-9:]|\.[0-9])"
)
_IPV6_ASSIGNED = ipaddress.IPv6Network("2000::/3")
_MEMORY = re.compile(r"(?<= at )0x[0-9A-Fa-f]{6,16}(?![0-9A-Za-z])")
_NUMBER_BEFORE = re.compile(
    r"(?:(?<![^\W\d_])(?:versions?|ver\.?|releases?|revision|rev\.?|v|sections?|sec\.|chapter|"
    r"abschnitt|kapitel|sección|sezione|seção|secção|раздел[а-я]{0,2}|§)"
    r"|版本|版|バージョン|[章节節第])[\s:：=#号號为為是]{0,3}$",
    re.IGNORECASE,
)
# After a section number: the word for section, or the section's title in quotation marks.
_SECTION_AFTER = re.compile(r"\s?[章节節条條]|[,，、]?\s?[“„«「『]")
_HEADING = re.compile(r"(?:^|\n)[ \t]*(?:[0-9]{1,2}\.){3}[0-9]{1,2}\.?[ \t]+[^\W\d_]")
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|net|org|edu))?|invalid|localhost|test)$",
    re.IGNORECASE,
)


def scrub(text: str) -> tuple[str, dict[str, int]]:
    """The text with addresses replaced, and how many of each type there were.

    Names with passwords, and keys, in URLs become `<credentials>`, e-mail addresses `<email>`,
    public IPv4 and IPv6 addresses `<ip>`, numbers `<id-number>`, `<bank-card>` and `<phone>`, and
    memory addresses in object descriptions (` at 0x7f12ab…`) ` at 0x…`, so that two runs give the
    same bytes. The counts have the keys "credentials", "email", "ip", "id-number", "bank-card",
    "phone", "memory" and hold only types that occurred. What has the form of one is taken for one without
    being checked, where a text holds very many (`personal_numbers.MOST_CHECKED`).
    """
    counts: dict[str, int] = {}
    checks = Checks()

    def count(kind: str, placeholder: str) -> str:
        counts[kind] = counts.get(kind, 0) + 1
        return placeholder

    def login(match: re.Match[str]) -> str:
        kept = checks("credentials") and (
            _EXAMPLE_DOMAIN.search(match[3]) or (_STAND_IN.match(match[1]) and _STAND_IN.match(match[2]))
        )
        return match[0] if kept else count("credentials", "<credentials>") + "@"

    def key(match: re.Match[str]) -> str:
        kept = checks("key") and _STAND_IN.match(match[2])
        return match[0] if kept else match[1] + count("credentials", "<credentials>")

    def email(match: re.Match[str]) -> str:
        kept = checks("email") and (
            _EXAMPLE_DOMAIN.search(match[1])
            or _LOGIN_BEFORE.search(match.string[max(0, match.start() - 100) : match.start()])
        )
        return match[0] if kept else count("email", "<email>")

    def network(match: re.Match[str]) -> str:
        kept = checks("ip") and (_identifies_nobody(match[1]) or (match.re is _IPV4 and _is_number(match)))
        return match[0] if kept else count("ip", "<ip>")

    # Each pattern is tried only where its necessary character occurs; most texts have none.
    if "://" in text:
        text = _KEY.sub(key, _LOGIN.sub(login, text))
    if "@" in text:
        text = _EMAIL.sub(email, text).replace("<<email>>", "<email>")
    if " at 0x" in text:
        text = _MEMORY.sub(lambda match: count("memory", "0x…"), text)
    if "." in text:
        text = _IPV4.sub(network, text)
    if "::" in text or text.count(":") >= 7:
        text = _IPV6.sub(network, text)
    return without_personal_numbers(text, count, checks), counts


def _is_number(match: re.Match[str]) -> bool:
    """Whether the surroundings make four numbers a version or a section rather than an address."""
    text, start, end = match.string, match.start(), match.end()
    if _NUMBER_BEFORE.search(text[max(0, start - 24) : start]):
        return True
    if max(map(int, match[1].split("."))) > 99:
        return False
    return bool(_SECTION_AFTER.match(text, end) or _HEADING.match(text, max(0, start - 1)))


def _identifies_nobody(address: str) -> bool:
    """Whether this is no address at all, or one of a network that is nobody's in particular."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    if parsed.version == 6 and parsed not in _IPV6_ASSIGNED:
        return True
    return not parsed.is_global or parsed.is_multicast
