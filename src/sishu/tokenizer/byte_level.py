"""Byte-level BPE: the characters that stand for bytes, and how our own tokenizer cuts text before merging."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, pre_tokenizers


def _byte_of_character() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level BPE (Radford et al. 2019), inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in printable)
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


BYTE_OF = _byte_of_character()
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


def written(data: bytes) -> str:
    """Bytes as the characters that stand for them in a vocabulary."""
    return "".join(map(CHARACTER_OF.__getitem__, data))


def read(token: str) -> bytes:
    """The bytes a token of a byte-level vocabulary stands for; a token with any other character in it, such
    as an added one with a space, stands for itself."""
    try:
        return bytes(map(BYTE_OF.__getitem__, token))
    except KeyError:
        return token.encode("utf-8", "replace")


OWN_PATTERN = (
    r"'(?:[sdmtSDMT]|[lL]{2}|[vV][eE]|[rR][eE])"
    r"| ?(?:\p{Lu}?[\p{Ll}\p{Lt}\p{Lm}\p{Lo}\p{M}]+|\p{Lu}+(?!\p{Ll}))"
    r"|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def byte_level() -> pre_tokenizers.PreTokenizer:
    """How text is cut before merging: words with their leading space, a new one wherever a capital follows a
    small letter (`handleError` is `handle` and `Error`, `HTTPError` is `HTTP` and `Error`), digits in ones
    and twos, runs of punctuation, line breaks; then bytes. A word takes no punctuation along, so that a name
    has the same ids after a dot, a bracket or a back-tick, and can be copied from a question into an answer;
    and the words of a name are those of the sentences about it."""
    return split_by([OWN_PATTERN])


def split_by(patterns: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """Cut by each pattern in turn, what lies between two matches being a piece as well; then bytes."""
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
