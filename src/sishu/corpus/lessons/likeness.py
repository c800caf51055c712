"""How near an answer comes to the documented one: the words they share, rare ones counting more."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from sishu.corpus.lessons.lessons import CASED_WORD, stem

# Latin words, cut where a capital begins another; of other scripts, letter by letter
_WORD = re.compile(CASED_WORD.pattern + r"|[^\W\d_a-zA-Z]")


def _words(text: str) -> Counter[str]:
    return Counter(stem(word.lower()) for word in _WORD.findall(text))


class Likeness:
    """Compares answers by their words, each weighted by how few of the documented answers hold it (inverse
    document frequency, Spärck Jones 1972): `Return the` says little about what is returned."""

    def __init__(self, documented: Iterable[str]) -> None:
        bags = [set(_words(text)) for text in documented]
        self._count = len(bags)
        self._holding = Counter(word for bag in bags for word in bag)

    def _weight(self, words: Counter[str]) -> float:
        return sum(
            count * math.log((1 + self._count) / (1 + self._holding[word]))
            for word, count in sorted(words.items())
        )

    def __call__(self, answer: str, documented: str) -> float:
        """F1 of the weighted words, 0 to 1: precision and recall of the answer against the documented one,
        whatever the order of words."""
        mine, its = _words(answer), _words(documented)
        together = self._weight(mine) + self._weight(its)
        return 2 * self._weight(mine & its) / together if together else 0.0
