"""The languages of real pages and texts, known from where they stand."""

from __future__ import annotations

import gzip
import json
import random
import re
import zipfile
from collections import Counter, defaultdict

from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.judge.language import LOOK, SURE, identify
from sishu.corpus.read import charset
from sishu.corpus.read.warc import read_pages
from tests.corpus.judge.test_language import DECLARATION
from tests.shared_data import shared_data

_IN_URL = re.compile(
    r"/(?:debian-handbook/html|harden-doc/html|installation-guide-amd64|manual|FAQ|help|translations)"
    r"/([a-z]{2}(?:[-_][A-Za-z]{2})?)/"
)
_NAMES = {"nb": "no", "zh-cn": "zh-Hans", "zh-tw": "zh-Hant"}
_WORD = re.compile(r"[^\W\d_]+")
_ENGLISH = frozenset(
    (
        "the",
        "and",
        "of",
        "is",
        "to",
        "that",
        "with",
        "for",
        "this",
        "are",
        "you",
        "which",
        "can",
        "from",
        "not",
        "it",
    )
)
_SCRIPTS = {
    "ar": "\u0600-\u06ff", "fa": "\u0600-\u06ff", "el": "\u0370-\u03ff", "ru": "\u0400-\u04ff",
    "uk": "\u0400-\u04ff", "ko": "\uac00-\ud7a3", "ja": "\u3040-\u30ff", "zh-Hans": "\u4e00-\u9fff",
    "zh-Hant": "\u4e00-\u9fff",
}  # fmt: skip


def known_language(url: str, said: str | None) -> str:
    found = _IN_URL.search(url)
    code = found[1].lower().replace("_", "-") if found else said or ""
    return _NAMES.get(code) or _NAMES.get(code[:2]) or code[:2]


def is_of_one_language(text: str, code: str) -> bool:
    """Half translated pages are told by English function words, or by too few letters of the right script,
    not by what is tested here."""
    words = [word.lower() for word in _WORD.findall(text)]
    english = sum(word in _ENGLISH for word in words) / max(1, len(words))
    if code == "en":
        return english > 0.1
    if code in _SCRIPTS:
        right = len(re.findall(f"[{_SCRIPTS[code]}]", text))
        latin = len(re.findall("[A-Za-z]", text))
        return english < 0.05 and right > latin * (0.3 if code in ("ja", "zh-Hans", "zh-Hant", "ko") else 1)
    return english < 0.03


def test_pages_of_one_language() -> None:
    """Ninety-eight in a hundred of all, and of every language with twenty pages ninety-five; none of Chinese,
    Japanese and Korean for another of them, and of both Chinese scripts each for itself."""
    folder = shared_data("warc-docs")
    with gzip.open(folder / "truth.jsonl.gz") as file:
        said = {row["url"]: row.get("lang") for row in map(json.loads, file)}
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    taken_for: dict[str, Counter[str]] = defaultdict(Counter)
    for page in read_pages(folder / "docs.warc.gz"):
        code = known_language(page.url, said.get(page.url))
        if not code:
            continue
        text = html_to_text(charset.decode(page.body, page.content_type)[0], "fast")
        if len(text) < 200 or not is_of_one_language(text, code):
            continue
        total[code] += 1
        found = identify(text)[0]
        if found == code or (code == "zh" and found.startswith("zh")):
            right[code] += 1
        else:
            taken_for[code][found] += 1
    assert len(total) >= 24
    assert right.total() >= 0.98 * total.total(), dict(taken_for)
    for code, count in total.items():
        assert count < 20 or right[code] >= 0.95 * count, (code, taken_for[code])
    asian = ("zh", "zh-Hans", "zh-Hant", "ja", "ko")
    for code in asian:
        assert total[code] > 10 and not any(taken_for[code][other] for other in asian), taken_for[code]


def test_long_texts_judged_by_pieces_come_out_as_by_the_whole() -> None:
    """The declaration in every language, said several times over, in whatever order, and beside a note in
    another."""
    with zipfile.ZipFile(shared_data("nltk-corpora/udhr2.zip")) as archive:
        texts = {code: archive.read(f"udhr2/{name}.txt").decode() for name, code in DECLARATION.items()}
    rng = random.Random(0)
    for code, text in texts.items():
        lines = [line for line in text.split("\n") if line.strip()]
        rng.shuffle(lines)
        long = "\n".join(lines * 3)
        note = texts["en" if code != "en" else "de"][:300]
        assert len(long) > LOOK
        for given in (long, note + "\n" + long, long + "\n" + note, long * 40):
            found, score = identify(given)
            assert found == code and score > SURE / 2, (code, found, score)


def test_short_lines_of_the_declaration() -> None:
    """Lines of twenty characters and more: 97 in a hundred, over 33 languages."""
    with zipfile.ZipFile(shared_data("nltk-corpora/udhr2.zip")) as archive:
        texts = {code: archive.read(f"udhr2/{name}.txt").decode() for name, code in DECLARATION.items()}
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for code, text in texts.items():
        for line in text.split("\n"):
            if len(line.strip()) >= (20 if code in ("zh-Hans", "zh-Hant", "ja", "ko") else 60):
                total[code] += 1
                right[code] += identify(line)[0] == code
    assert right.total() >= 0.97 * total.total(), {c: (right[c], total[c]) for c in total}
