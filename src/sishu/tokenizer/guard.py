"""Foreign tokenizer files, opened without trust: the answer is a tokenizer or a UserError, whatever is in.

The library that holds a tokenizer checks little of what a file says: a file can ask for padding to a billion
tokens, for ids of four billion, or for replacements that double a text forty times over.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from sishu.console import UserError

LARGEST_FILE = 256 << 20
"""Bytes; the largest published tokenizer.json is about 35 MB."""
MOST_GROWTH = 64
"""How many times longer a normaliser may make a text: NFKC makes one character of three bytes 33 bytes."""
LONGEST_REPEAT = 1024
LONGEST_WORD = 1000
"""Characters of a word that WordPiece may look at: its work grows with the square; files say 100."""
TRIAL = "Aa é\u0301 1234, \n\n 学🙂\u0000 \u200d <|x|> don't\tx  y ﷺ"


@contextmanager
def guarded(doing: str) -> Iterator[None]:
    """Turn whatever the libraries raise into a UserError that begins with `doing`. Their Rust parts panic,
    which arrives as a BaseException of its own."""
    try:
        yield
    except UserError:
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{doing} ({str(error)[:300] or type(error).__name__}).") from error


def read_bytes(path: Path) -> bytes:
    """A file that is not beyond all measure; raises UserError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is larger than {LARGEST_FILE >> 20} MiB: it is no tokenizer file.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): copy it again.") from error


def read_text(path: Path) -> str:
    """A UTF-8 text file; raises UserError."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): copy it again.") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where there is no such file; raises UserError."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}): copy it again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(data).__name__}: copy it again.")
    return data


def open_tokenizer(text: str, where: str) -> FastTokenizer:
    """A tokenizer.json, checked: no padding, no truncation, no dice, nothing that outgrows its input.

    Raises UserError that names `where`.
    """
    with guarded(f"{where} is not a readable tokenizer"):
        fast = FastTokenizer.from_str(text)
        fast.no_padding()
        fast.no_truncation()
        if getattr(fast.model, "dropout", None):
            fast.model.dropout = None  # the same text must give the same ids
        _check_parts(fast)
        check_ids(fast)
        for kept_as_text in (False, True):
            fast.encode_special_tokens = kept_as_text
            ids = fast.encode(TRIAL, add_special_tokens=False).ids
            if len(ids) > 1000 * len(TRIAL):
                raise ValueError("it makes a text grow without measure")
            fast.decode(ids)
    return fast


def check_ids(fast: FastTokenizer) -> None:
    """Raises ValueError for ids so scattered that a model would need rows for tokens that do not exist."""
    vocabulary = fast.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise ValueError("its vocabulary is empty")
    if max(vocabulary.values()) > 4 * len(vocabulary) + 65_536:
        raise ValueError(f"it has {len(vocabulary)} tokens, yet an id of {max(vocabulary.values())}")


def state(part: Any) -> dict[str, Any]:
    """What a normalizer, pre-tokenizer, decoder or post-processor says of itself; {} for None."""
    if part is None:
        return {}
    said = json.loads(part.__getstate__())
    return said if isinstance(said, dict) else {}


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every step of a part, those of sequences one by one."""
    todo = [state(part)]
    while todo:
        step = todo.pop(0)
        for name in ("normalizers", "pretokenizers", "decoders", "processors"):
            todo += [s for s in step.get(name) or () if isinstance(s, dict)]
        yield step


def _check_parts(fast: FastTokenizer) -> None:
    growth = 1.0
    for step in (*nodes(fast.normalizer), *nodes(fast.pre_tokenizer)):
        kind = step.get("type")
        pattern = step.get("pattern")
        if isinstance(pattern, dict):
            _check_pattern(pattern)
            if kind == "Replace":
                shortest = max(1, len(str(pattern.get("String", ""))))
                growth *= max(1.0, len(str(step.get("content", ""))) / shortest)
        elif kind == "Precompiled":
            growth *= _charsmap_growth(b64decode(str(step.get("precompiled_charsmap", ""))))
        elif len(str(step.get("prepend", ""))) > 64 or (kind == "FixedLength" and step.get("length", 0) < 1):
            raise ValueError(f"its step {kind} makes no sense")
    if growth > MOST_GROWTH:
        raise ValueError(f"its normalizer may make a text {growth:.0f} times longer")
    if getattr(fast.model, "max_input_chars_per_word", 0) > LONGEST_WORD:
        raise ValueError(f"its max_input_chars_per_word is over {LONGEST_WORD}")


def _check_pattern(pattern: dict[str, Any]) -> None:
    """Raises ValueError for a pattern that may take memory beyond all measure; its time is bounded by the
    library, which gives up after ten million steps back."""
    said = str(pattern.get("Regex", ""))
    repeats = 1
    for number in re.findall(r"\{\d*,?(\d+)\}", said):
        repeats *= max(1, int(number[:9]))
    if len(said) > 65_536 or repeats > LONGEST_REPEAT**2:
        raise ValueError("one of its patterns is too long")


def _charsmap_growth(data: bytes) -> float:
    """How many times longer a SentencePiece character map may make a text."""
    if len(data) < 4:
        return 1.0
    size = int.from_bytes(data[:4], "little")
    if size > len(data) - 4 or size % 4:
        raise ValueError("its character map is cut off")
    longest = max(map(len, data[4 + size :].split(b"\0")), default=0)
    return max(1.0, longest / 33)
