"""Byte-level BPE by tiktoken, several times faster, where it provably gives the same ids.

Both libraries merge the pair of lowest rank first. tiktoken merges any two neighbours that make up a token;
the other library only pairs that are on its list. The two agree on every text when (a) text is cut by one
pattern made of parts that both libraries read alike, (b) merges are listed in the order of the ids they make,
and (c) each token, taken as a text, is merged into itself. For (c): where two neighbours make up a token, all
merges so far within them were those of that token's own text, whose next merge is of these two.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

import tiktoken
from tokenizers import Tokenizer as FastTokenizer

from sishu.tokenizer.byte_level import BYTE_OF
from sishu.tokenizer.guard import state
from sishu.tokenizer.patterns import GPT2

_DIGITS_THEN_GPT2 = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""Cutting out every digit and then the rest by GPT-2's pattern, in one: before a digit a piece ends."""

CLASSES = ("L", "N", "M", "P", "S", "Lu", "Ll", "Lt", "Lm", "Lo", "Han")
"""Classes of characters that both libraries know with the same members (a test compares all of them)."""
_READ_ALIKE = re.compile(
    r"(?:\\[pP]\{(?:"
    + "|".join(CLASSES)
    + r")\}|\\[sSrnt]|\\[^A-Za-z0-9]|\(\?(?:[:=!>]|i:)|[^\\(^$]|\((?!\?)|\[\^)*"
)


_NEVER_IN_TEXT = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
"""Bytes that UTF-8 does not use."""
_RARE = frozenset((*range(0x80), 0xF1, 0xF2, 0xF3, 0xF4))
"""Bytes a vocabulary may lack: characters of ASCII, and those that begin a character of no script."""

WORTH_A_THREAD = 600
"""Characters of a text, on average, from which handing it to a thread costs less than it saves."""


class FastPath:
    """The same ids, sooner."""

    def __init__(self, encoding: tiktoken.Encoding, stops: re.Pattern[str] | None, nfc: bool) -> None:
        self._encoding = encoding
        self._stops = stops
        self._nfc = nfc

    def encode(self, text: str) -> list[int] | None:
        """Ids of a text, or None for one that must go the long way."""
        if not self._takes(text):
            return None
        try:
            return self._encoding.encode_ordinary(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library panics where its pattern runs out of stack
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                return None
            raise

    def encode_batch(self, texts: Sequence[str]) -> list[list[int] | None]:
        """`encode` of many texts, on all cores where they are long enough to be worth it."""
        taken = [text for text in texts if self._takes(text)]
        threads = os.cpu_count() or 1
        try:
            if sum(map(len, taken)) < WORTH_A_THREAD * len(taken):
                ids = iter([self._encoding.encode_ordinary(text) for text in taken])
            else:
                ids = iter(self._encoding.encode_ordinary_batch(taken, num_threads=threads))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                return [self.encode(text) for text in texts]
            raise
        return [next(ids) if self._takes(text) else None for text in texts]

    def _takes(self, text: str) -> bool:
        if self._stops is not None and self._stops.search(text):
            return False
        if self._nfc and not text.isascii():
            import unicodedata

            return unicodedata.is_normalized("NFC", text)
        return True


def fast_path(fast: FastTokenizer) -> FastPath | None:
    """The fast path of a tokenizer; None where it has none. Takes about a second for 150,000 tokens."""
    pattern = single_pattern(fast)
    normalizer = state(fast.normalizer).get("type")
    if pattern is None or normalizer not in (None, "NFC") or state(fast.decoder).get("type") != "ByteLevel":
        return None
    model = json.loads(fast.to_str())["model"]
    if model.get("type") != "BPE" or any(
        model.get(name)
        for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        return None
    ranks = _ranks(fast, model)
    if ranks is None:
        return None
    lacking = {byte for byte in range(256) if bytes([byte]) not in ranks} - _NEVER_IN_TEXT
    if not lacking <= _RARE:
        return None
    added = fast.get_added_tokens_decoder().values()
    slow = [re.escape(t) for t in sorted((t.content for t in added if not t.special), key=len, reverse=True)]
    if lacking:  # the other library leaves out what it has no token for
        slow.append("[" + "".join(rf"\x{b:02x}" for b in lacking if b < 128) + "\U00040000-\U0010ffff]")
        ranks |= {bytes([byte]): (1 << 31) + byte for byte in range(256) if bytes([byte]) not in ranks}
    ranks |= {bytes([byte]): (1 << 31) + byte for byte in _NEVER_IN_TEXT if bytes([byte]) not in ranks}
    stops = re.compile("|".join(slow)) if slow else None
    encoding = tiktoken.Encoding("sishu", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return FastPath(encoding, stops, normalizer == "NFC")


def single_pattern(fast: FastTokenizer) -> str | None:
    """The one pattern that cuts text as this tokenizer does, if there is one both libraries read alike."""
    said = state(fast.pre_tokenizer)
    steps = said.get("pretokenizers", [said])
    level = steps[-1]
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        return None
    patterns = []
    for step in steps[:-1]:
        if step.get("type") == "Digits" and step.get("individual_digits"):
            patterns.append(r"\p{N}")
            continue
        regex = (step.get("pattern") or {}).get("Regex")
        if (
            step.get("type") != "Split"
            or step.get("behavior") != "Isolated"
            or step.get("invert")
            or not regex
        ):
            return None
        patterns.append(regex)
    if level.get("use_regex", True):
        patterns.append(GPT2)
    if patterns == [r"\p{N}", GPT2]:
        patterns = [_DIGITS_THEN_GPT2]
    if len(patterns) != 1 or not _READ_ALIKE.fullmatch(patterns[0]) or re.search(r"\}\+", patterns[0]):
        # a plus after braces makes them possessive for one library, and repeats them for the other
        return _by_class(patterns)
    return patterns[0]


def _by_class(patterns: Sequence[str]) -> str | None:
    """A pattern where a plus follows the braces of a class, which both read alike."""
    if len(patterns) != 1 or not _READ_ALIKE.fullmatch(patterns[0]):
        return None
    return (
        None
        if re.search(r"(?<!p\{L)(?<!p\{N)(?<![pP]\{L[ultmo])(?<!p\{[MPS])\}\+", patterns[0])
        else patterns[0]
    )


def _ranks(fast: FastTokenizer, model: dict[str, object]) -> dict[bytes, int] | None:
    """Ids by the bytes of tokens, where conditions (b) and (c) hold."""
    vocabulary, merges = model["vocab"], model["merges"]
    assert isinstance(vocabulary, dict) and isinstance(merges, list)
    last = -1
    for merge in merges:
        made = vocabulary.get("".join(merge) if isinstance(merge, list) else merge.replace(" ", "", 1), -1)
        if made < last:
            return None
        last = made
    added = {token.content for token in fast.get_added_tokens_decoder().values()}
    whole_words = bool(model.get("ignore_merges"))
    merging = fast.model
    if whole_words:
        merging = FastTokenizer.from_str(fast.to_str()).model
        merging.ignore_merges = False
    ranks: dict[bytes, int] = {}
    alone = []
    for token, index in vocabulary.items():
        if token in added:
            continue
        try:
            data = bytes(map(BYTE_OF.__getitem__, token))
        except KeyError:
            return None
        ranks[data] = index
        if len(data) > 1:
            made = merging.tokenize(token)
            if len(made) != 1 or made[0].id != index:
                alone.append(data)
    for data in alone:  # a token no merge makes: found only as a whole word, and only if no pair makes it up
        if not whole_words or any(data[:i] in ranks and data[i:] in ranks for i in range(1, len(data))):
            return None
    return ranks
