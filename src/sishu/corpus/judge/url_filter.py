"""Which pages to refuse by their address alone: by domain, by exact URL, by words in the URL.

RefinedWeb's rules (Penedo et al. 2023, arXiv:2306.01116, appendix G.1), which FineWeb took over: a list
of domains, words that condemn an address, words of which it takes two, and parts of words.

No list of domains comes along. Real ones, by category (adult, gambling, phishing, …), are the UT1
blacklists of the Université Toulouse Capitole, CC BY-SA, to be downloaded from
https://dsi.ut-capitole.fr/blacklists/index_en.php; a category's tar.gz can be given as it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import idna

from sishu.console import UserError
from sishu.corpus.judge.url_lists import LONGEST, compile_list, read_list

REASONS = ("blocked domain", "blocked url", "blocked word in url")
"""What `UrlFilter.reason` may say."""

DEFAULT_WORDS = """
[hard]
blowjob blowjobs bukkake camgirl camgirls cumshot cumshots gangbang milf milfs pornstar pornstars
free_porn porn_videos porn_video porn_tube porn_movies porn_xxx xxx_porn xxx_videos sex_cam sex_cams
escort_girls buy_viagra cheap_viagra viagra_cheap viagra_online buy_cialis cheap_cialis cialis_online
no_deposit_bonus slot_gacor judi_online situs_judi togel_online
shishicai beijingsaiche aomenduchang
裸聊直播 裸聊平台 时时彩平台 時時彩平台 博彩平台 澳门赌场 澳門賭場 在线赌场 線上賭場 成人电影在线 约炮平台
[soft]
babes bet betting boobs busty cams casino casinos cialis erotic escort escorts fetish fuck fucking gambling
hardcore hentai horny jackpot naked nude nudes orgy poker porn porno pussy roulette sex sexy slot slots slut
sluts tits viagra xxx baccarat togel judi gacor
baijiale bocai caipiao dubo duchang luoliao liuhecai pk10 seqing touzhu yulecheng
裸聊 时时彩 時時彩 六合彩 博彩 彩票 赌场 賭場 投注 约炮 約炮 色情 娱乐城 娛樂城 百家乐 百家樂
[part]
pornstar porntube freeporn pornvideo pornmovie hotsexcam freesexcam livesexcam webcamgirl xxxvideo
onlinecasino casinoonline casinobonus slotgacor judionline
"""
"""Written for this project; typical of spam, in English, pinyin and Chinese; `_` stands for a space. Left out
on purpose is what also occurs in addresses of medicine, law, news or places: "adult", "anal", "gay", "penis",
"rape", and parts such as "sexcam", which is in "essexcampus"."""

_DROPPED = {ord(character): None for character in "\t\r\n"}
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]+:[/\\]+|[/\\]{2}", re.I)
_PLAIN_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
_HEADING = re.compile(r"\[(hard|soft|part)\]")
_HAN = "\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_IS_HAN = re.compile(f"[{_HAN}]")
_TOKEN = re.compile(rf"[^\W_{_HAN}]+")
# www.co.uk is a company; without its www it would be every company of the country
_SECOND_LEVEL = re.compile(r"(?:ac|co|com|edu|gob|gov|gouv|mil|ne|net|or|org)\.[a-z]{2}")


class Address(NamedTuple):
    """The parts of a URL in normal form, none of which can fail to be made."""

    host: str
    """In ASCII, without port, user, final dot and `www.`; "" where there is none."""
    rest: bytes
    """Path and query, percent-decoded, in lower case, without slashes at its ends and without fragment."""
    has_origin: bool
    """Whether a scheme or `//` came first, so that this is no file name."""


def parse(url: str) -> Address:
    """The normal form of a URL or of an entry of a list; of long ones, of the first `LONGEST` characters."""
    text = url[:LONGEST].strip().translate(_DROPPED)
    origin = _ORIGIN.match(text)
    text = text[origin.end() :] if origin else text
    text = text.partition("#")[0].replace("\\", "/")
    end = min((at for mark in "/?" if (at := text.find(mark)) >= 0), default=len(text))
    rest = unquote_to_bytes(text[end:].encode("utf-8", "surrogatepass"))
    rest = rest.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
    return Address(normal_host(text[:end]), rest.strip(b"/"), origin is not None)


def normal_host(authority: str) -> str:
    """A host in ASCII, as 例子.测试 → xn--fsqu00a.xn--0zwm56d (UTS 46), without user, port, end dot, `www.`.

    Labels that IDNA does not allow, such as emoji, are punycoded all the same.
    """
    host = authority.rpartition("@")[2].lower()
    if not _PLAIN_HOST.fullmatch(host):
        if "%" in host:
            host = unquote_to_bytes(host.encode("utf-8", "surrogatepass")).decode("utf-8", "replace").lower()
        if host.startswith("["):
            return _ipv6(host[1:].partition("]")[0])
        host = re.sub(r":\d*$", "", host).strip(".")
        if not host.isascii():
            host = ".".join(map(_ascii_label, re.split("[.\u3002\uff0e\uff61]", host)))
    if host.startswith("www."):
        bare = host[4:]
        host = bare if "." in bare and not _SECOND_LEVEL.fullmatch(bare) else host
    return host


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label
    try:
        return idna.encode(label, uts46=True).decode("ascii")
    except UnicodeError:
        return "xn--" + label.encode("punycode", "replace").decode("ascii")


def _ipv6(text: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(text)}]"
    except ValueError:
        return f"[{text}]"


def _unicode_host(host: str) -> str:
    """A host as people read it, for the words in it."""
    if "xn--" not in host:
        return host
    labels = []
    for label in host.split("."):
        try:
            labels.append(label[4:].encode().decode("punycode") if label.startswith("xn--") else label)
        except UnicodeError:
            labels.append(label)
    return ".".join(labels)


def _domain_key(entry: str) -> bytes:
    return parse(entry.removeprefix("*.")).host.encode("utf-8", "replace")


def _url_key(address: Address) -> bytes:
    return address.host.encode("utf-8", "replace") + b"/" + address.rest if address.host else b""


class _Words:
    """Words of three severities, matched on whole tokens, scripts without spaces anywhere."""

    def __init__(self, entries: Iterable[str], min_soft: int) -> None:
        self.min_soft = min_soft
        self.hard: set[str] = set()
        self.soft: set[str] = set()
        self.soft_han: set[str] = set()
        anywhere: set[str] = set()
        heading = "hard"
        for entry in entries:
            if match := _HEADING.fullmatch(entry):
                heading = match[1]
                continue
            word = entry.lower()
            if _IS_HAN.search(word) or heading == "part":
                (self.soft_han if heading == "soft" else anywhere).add(word)
            elif tokens := _TOKEN.findall(word):
                (self.hard if heading == "hard" else self.soft).add(" ".join(tokens))
        self.longest = max((word.count(" ") + 1 for word in self.hard | self.soft), default=1)
        self.anywhere = re.compile("|".join(map(re.escape, sorted(anywhere)))) if anywhere else None

    def condemn(self, text: str) -> bool:
        tokens = _TOKEN.findall(text)
        runs = set(tokens)
        for size in range(2, self.longest + 1):
            runs.update(" ".join(tokens[at : at + size]) for at in range(len(tokens) - size + 1))
        if not self.hard.isdisjoint(runs) or (self.anywhere and self.anywhere.search(text)):
            return True
        soft = len(self.soft & runs)
        if _IS_HAN.search(text):
            soft += sum(word in text for word in self.soft_han)
        return soft >= self.min_soft


class UrlFilter:
    """Judges URLs by lists. Pickles to a few kilobytes if it has a cache, and opens in milliseconds.

    Args:
        domains: lists of domains, files or UT1 folders and tars (see `read_list`). A domain stands for
            itself, whatever its port, and all below it.
        urls: lists of URLs, which stand for themselves alone, whatever their scheme, port, user, fragment,
            `www.`, percent-encoding, letter case and final slash.
        words: lists of words. Under the headings `[hard]` (also without heading): one is enough; `[soft]`:
            `min_soft` different ones; `[part]`: also inside other words. Chinese and Japanese words are
            found anywhere, others between characters that are neither letters nor digits; words of an entry
            with spaces or hyphens must follow each other.
        allow: domains that are never refused, nor those below them.
        cache: a folder for compiled lists; without one they are compiled into memory each time.
        default_words: whether `DEFAULT_WORDS` count too.
        min_soft: different soft words that condemn a URL; RefinedWeb 2.

    Raises:
        UserError: a list is missing or cannot be read.
    """

    def __init__(
        self,
        domains: Sequence[Path] = (),
        urls: Sequence[Path] = (),
        words: Sequence[Path] = (),
        allow: Sequence[str] = (),
        cache: Path | None = None,
        default_words: bool = True,
        min_soft: int = 2,
    ) -> None:
        if min_soft < 1:
            raise UserError(f"min_soft is {min_soft}, but must be at least 1")
        self._domains = [compile_list(path, "domains", _domain_key, cache) for path in domains]
        self._urls = [compile_list(path, "urls", lambda url: _url_key(parse(url)), cache) for path in urls]
        own = [word.replace("_", " ") for word in DEFAULT_WORDS.split()] if default_words else []
        listed = [word for path in words for word in ("[hard]", *read_list(path, "words"))]
        self._words = _Words([*own, *listed], min_soft)
        self._allowed = frozenset(host for domain in allow if (host := parse(domain).host))

    def reason(self, url: str) -> str:
        """Why a URL is refused, one of `REASONS`, or "" if it is let through. Never raises.

        Words are looked for only where a scheme or `//` begins the URL, as the names of a user's own files
        say nothing about them.
        """
        address = parse(url)
        parents = _parents(address.host)
        if not self._allowed.isdisjoint(parents):
            return ""
        if parents:
            keys = [parent.encode("utf-8", "replace") for parent in parents]
            if any(hashes.holds_any(keys) for hashes in self._domains):
                return REASONS[0]
            key = [_url_key(address)]
            if any(hashes.holds_any(key) for hashes in self._urls):
                return REASONS[1]
        if address.has_origin:
            text = _unicode_host(address.host) + "/" + address.rest.decode("utf-8", "replace")
            if self._words.condemn(text):
                return REASONS[2]
        return ""


def _parents(host: str) -> list[str]:
    """A host and the domains above it, `a.x.com` → itself, `x.com`, `com`; at most 32 of the highest."""
    if host.startswith("["):
        return [host]
    labels = host.split(".")[-32:] if host else []
    return [".".join(labels[at:]) for at in range(len(labels))]


__all__ = ["DEFAULT_WORDS", "REASONS", "Address", "UrlFilter", "normal_host", "parse", "read_list"]
