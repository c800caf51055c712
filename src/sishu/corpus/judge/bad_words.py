"""Pages of pornography, abuse and spam, told by how densely the words of such pages stand in them.

C4 drops a page for a single word of a list, by which above all medical and legal pages go, and those about
and by minorities (Dodge et al. 2021, arXiv:2104.08758, section 5). Here a page is refused for many such words
among few others, and for different ones: a novel may swear, a court file name what it judges, a clinic
explain.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import rjieba

from sishu.console import UserError

REASON = "bad words"
DEFAULT_LIST = Path(__file__).with_name("bad_words.txt")
"""Some hundred entries each for English and for Chinese in both scripts; its first lines say where from."""

_SECTION = re.compile(r"\[(en|zh) (hard|soft|harmless)\]")
# Of UTF-8: ASCII letters, in lower case, and digits stay; what is not ASCII separates.
_TO_WORDS = bytes(
    code + 32 if 65 <= code <= 90 else code if 97 <= code <= 122 or 48 <= code <= 57 else 32
    for code in range(256)
)
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_UNSURE = 2
"""Longest Chinese entry, in characters, that may also arise where two other words meet."""
_AROUND = 12
_DENSE, _FEW = 20, 3


class Counts(NamedTuple):
    """What is in a text: see `BadWords.counts`."""

    units: int
    """Words, of Latin letters and digits; for Chinese, also each Chinese character."""
    hard: int
    soft: int
    different_hard: int
    different: int
    """Entries, hard ones and all, of which there was at least one form."""


class _Form(NamedTuple):
    text: str
    entry: int
    is_hard: bool


class BadWords:
    """Judges texts in English and Chinese by lists of words.

    Args:
        files: further lists in the format of `DEFAULT_LIST`, gzipped or not, in UTF-8.
        default_list: whether `DEFAULT_LIST` counts too.
        max_hard: hard words per 1,000 units, at most.
        max_all: hard and soft words per 1,000 units, at most.
        min_different: different hard entries for the first limit to count, and half the different entries
            for the second, as the subject of a text is a few words said often, and spam is many. Three hard
            words, different or not, condemn a text in which they are twenty times as dense as `max_hard`.

    Raises:
        UserError: a list that cannot be read, or has a line that is not of the format.
    """

    def __init__(
        self,
        files: Sequence[Path] = (),
        default_list: bool = True,
        max_hard: float = 5,
        max_all: float = 40,
        min_different: int = 6,
    ) -> None:
        self.max_hard, self.max_all, self.min_different = max_hard, max_all, min_different
        latin: dict[bytes, dict[tuple[bytes, ...], _Form]] = {}
        han: dict[str, _Form | None] = {}
        entries = (line for path in [DEFAULT_LIST] * default_list + list(files) for line in _entries(path))
        for number, (language, severity, forms) in enumerate(entries):
            for text in forms:
                form = _Form(text, number, severity == "hard")
                if language == "zh":
                    # what one file calls harmless no other makes a bad word again
                    if severity == "harmless" or han.get(text, form) is not None:
                        han[text] = None if severity == "harmless" else form
                    continue
                for inflected in _inflected(text):
                    tokens = inflected.encode().translate(_TO_WORDS).split()
                    if tokens:
                        latin.setdefault(tokens[0], {}).setdefault(tuple(tokens), form)
        # by first word, the longest first; and of each the word that is rarest, going by its length
        self._latin = {
            first: sorted(some.items(), key=lambda phrase: -len(phrase[0])) for first, some in latin.items()
        }
        self._telling = frozenset(max(reversed(words), key=len) for some in latin.values() for words in some)
        self._han_forms = han
        self._han = _longest_first(han) if han else None

    def judge(self, text: str, language: str) -> str:
        """`REASON` if the text is refused, else "". Texts in other languages than English and Chinese pass.

        Args:
            language: code as `language.identify` gives it: "en", "zh", "zh-Hans", "zh-Hant".
        """
        counts = self.counts(text, language)
        hard = 1000 * counts.hard / max(1, counts.units)
        both = 1000 * (counts.hard + counts.soft) / max(1, counts.units)
        refused = (
            (hard > self.max_hard and counts.different_hard >= self.min_different)
            or (both > self.max_all and counts.different >= 2 * self.min_different)
            or (hard > _DENSE * self.max_hard and counts.hard >= _FEW)
        )
        return REASON if refused else ""

    def counts(self, text: str, language: str) -> Counts:
        """How many words there are in a text, and how many bad ones: English ones in English texts, those of
        both languages in Chinese texts, as spam mixes them; none in others.

        Of forms that overlap the first counts, of those that begin together the longest. English words count
        whole, a form of several words wherever they follow each other; accented letters separate. Chinese
        forms of two characters count only where rjieba too sees a word begin and end.
        """
        code = language.partition("-")[0]
        if code not in ("en", "zh"):
            return Counts(0, 0, 0, 0, 0)
        encoded = text.encode("utf-8", "replace")
        tokens = encoded.translate(_TO_WORDS).split()
        found = Counter(form[1:] for form in self._latin_forms(tokens))
        units = len(tokens)
        if code == "zh":
            text = encoded.decode().lower()  # without lone surrogates, which rjieba does not take
            units += sum(map(len, _HAN.findall(text)))
            found.update(form[1:] for form in self._chinese_forms(text))
        hard = sum(count for (_, is_hard), count in found.items() if is_hard)
        different_hard = sum(is_hard for _, is_hard in found)
        return Counts(units, hard, found.total() - hard, different_hard, len(found))

    def _latin_forms(self, tokens: list[bytes]) -> Iterator[_Form]:
        if self._telling.isdisjoint(tokens):
            return
        free = 0
        for at, token in enumerate(tokens):
            if at < free or token not in self._latin:
                continue
            for words, form in self._latin[token]:
                if tuple(tokens[at : at + len(words)]) == words:
                    yield form
                    free = at + len(words)
                    break

    def _chinese_forms(self, text: str) -> Iterator[_Form]:
        for match in self._han.finditer(text) if self._han else ():
            form = self._han_forms[match[0]]
            if form is not None and (len(form.text) > _UNSURE or _is_word(text, *match.span())):
                yield form


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether words begin at `start` and end at `end`, as rjieba cuts what stands around."""
    first = max(0, start - _AROUND)
    at, borders = first, {first}
    for word in rjieba.cut(text[first : end + _AROUND]):
        at += len(word)
        borders.add(at)
    return start in borders and end in borders


def _longest_first(forms: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches the longest form at a place, grouped by first character, as that is tried for
    at every place."""
    groups = (
        re.escape(first)
        + "(?:"
        + "|".join(re.escape(form[1:]) for form in sorted(some, key=lambda form: (-len(form), form)))
        + ")"
        for first, some in groupby(sorted(forms), key=lambda form: form[0])
    )
    return re.compile("|".join(groups))


def _inflected(form: str) -> set[str]:
    """The form and its plural; those of a verb as well if it ends in `~`."""
    word = form.removesuffix("~")
    if word.endswith(("s", "x", "z", "ch", "sh")):
        forms = {word, word + "es"}
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        forms = {word, word[:-1] + "ies"}
    else:
        forms = {word, word + "s"}
    if form.endswith("~"):
        stem = word.removesuffix("e")
        forms |= {stem + ending for ending in ("ed", "ing", "in", "er", "ers")}
    return forms


def _entries(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Language, severity and forms of each entry of a list."""
    try:
        raw = path.read_bytes()
        lines = (
            (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode("utf-8-sig").splitlines()
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"the word list {path} cannot be read ({error}); give a UTF-8 file") from error
    section: tuple[str, str] | None = None
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip().lower()
        if match := _SECTION.fullmatch(line):
            section = match[1], match[2]
        elif line:
            forms = [form for part in line.split(",") if (form := part.strip())]
            if section is None or line.startswith("[") or section == ("en", "harmless"):
                raise UserError(
                    f"{path}, line {number}: {line[:40]!r} stands under none of the headings [en hard], "
                    "[en soft], [zh hard], [zh soft], [zh harmless]; write one above it"
                )
            yield *section, forms
