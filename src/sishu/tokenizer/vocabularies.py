"""Vocabularies in the forms that came before tokenizer.json: tiktoken ranks, GPT-2's two files, vocab.txt."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sishu.console import UserError
from sishu.tokenizer.byte_level import written
from sishu.tokenizer.guard import guarded, read_bytes, read_object, read_text
from sishu.tokenizer.patterns import GPT2, QWEN2

MOST_CUTS = 10**9
"""Sum of the squared lengths of tokens, which bounds the work of finding merges; cl100k has 6 million."""


def read_ranks(path: Path) -> dict[bytes, int]:
    """The ranks of a tiktoken file: on each line a token in base64 and its id; raises UserError."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(f"Line {number} of {path} is not a token and its rank: copy it again.") from error
    check_ranks(ranks, str(path))
    return ranks


def check_ranks(ranks: Mapping[bytes, int], where: str) -> None:
    """Raises UserError unless every byte has a rank and no two tokens share one."""
    if any(bytes([b]) not in ranks for b in range(256)):
        raise UserError(f"{where} is damaged: it lacks some of the 256 bytes.")
    if len(set(ranks.values())) != len(ranks) or min(ranks.values()) < 0 or b"" in ranks:
        raise UserError(f"{where} is damaged: two tokens have one rank, or one has none.")
    if sum(len(token) ** 2 for token in ranks) > MOST_CUTS:
        raise UserError(f"{where} is damaged: its tokens are too long.")


def merges_of(ranks: Mapping[bytes, int]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The merge that makes each token, in the order of ranks, and whether every token can be made."""
    merges = []
    complete = True
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        if len(token) == 1:
            continue
        cuts = [
            cut
            for cut in range(1, len(token))
            if ranks.get(token[:cut], rank) < rank and ranks.get(token[cut:], rank) < rank
        ]
        if len(cuts) > 1:
            parts = _merged(token, ranks, rank)
            cuts = [len(parts[0])] if len(parts) == 2 else []
        elif cuts and len(_merged(token, ranks, rank)) != 2:
            cuts = []
        if cuts:
            merges.append((token[: cuts[0]], token[cuts[0] :]))
        else:
            complete = False
    return merges, complete


def _merged(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """The parts that merges of a rank below `limit` leave of a token."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, at = limit, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, at = rank, i
        if at < 0:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def added_token(index: int, token: str, special: bool) -> dict[str, Any]:
    """An entry of a tokenizer.json's `added_tokens`, found in text exactly as it is written."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": special}


def byte_level_json(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    patterns: Sequence[str],
    special: Mapping[str, int],
    whole_words: bool = False,
    nfc: bool = False,
    added: Mapping[str, int] | None = None,
) -> str:
    """A byte-level BPE as a tokenizer.json. `special` and `added` tokens get the ids they say: they are part
    of the vocabulary as well, because the library numbers others by itself."""
    tokens = {**special, **(added or {})}
    split = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                added_token(index, token, token in special)
                for token, index in sorted(tokens.items(), key=lambda entry: entry[1])
            ],
            "normalizer": {"type": "NFC"} if nfc else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*split, level]},
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": whole_words,
                "vocab": {**vocabulary, **tokens},
                "merges": [list(pair) for pair in merges],
            },
        },
        ensure_ascii=False,
    )


def portable(pattern: str) -> str:
    """A pattern of tiktoken's as the library reads it that holds the tokenizer: there a plus after braces
    repeats them instead of making them possessive, and $ is the end of a line."""
    pattern = re.sub(r"(\\[pP]\{\w+\}\{\d+(?:,\d*)?\})\+", r"(?>\1)", pattern)
    return re.sub(r"(?<=[+*])\$", r"\\z", pattern)


def ranks_json(ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int], where: str) -> str:
    """Ranks of the tiktoken kind as a tokenizer.json; raises UserError where ids collide."""
    check_ranks(ranks, where)
    taken = set(ranks.values())
    if len(set(special.values())) != len(special) or taken & set(special.values()):
        raise UserError(f"The special tokens of {where} have ids that other tokens have.")
    merges, complete = merges_of(ranks)
    return byte_level_json(
        {written(token): rank for token, rank in ranks.items()},
        [(written(left), written(right)) for left, right in merges],
        [pattern],
        special,
        whole_words=not complete,
    )


def qwen_specials(ranks: Mapping[bytes, int]) -> dict[str, int]:
    """The special tokens of Qwen 1, numbered after its ranks (its own code made them, not its files)."""
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
    return {name: max(ranks.values()) + 1 + i for i, name in enumerate(names)}


def two_files_json(vocabulary: Path, merges: Path, config: Mapping[str, Any]) -> str:
    """GPT-2's `vocab.json` and `merges.txt` as a tokenizer.json; raises UserError for a damaged file."""
    entries = read_object(vocabulary)
    if not entries or not all(
        isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in entries.values()
    ):
        raise UserError(f"{vocabulary} must give every token its id: copy it again.")
    if any(token.endswith("</w>") for token in entries):
        raise UserError(f"{vocabulary} marks the ends of words: use a copy of the model with tokenizer.json.")
    pairs = []
    for number, line in enumerate(_lines(merges), 1):
        if line.startswith("#version") or not line.strip():
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(part in entries for part in (*parts, "".join(parts))):
            raise UserError(f"Line {number} of {merges} is not a merge of two tokens: copy it again.")
        pairs.append((parts[0], parts[1]))
    qwen = str(config.get("tokenizer_class", "")).startswith("Qwen2")
    patterns = [QWEN2] if qwen else [GPT2]
    return byte_level_json(entries, pairs, patterns, {}, nfc=qwen)


def word_pieces_json(
    vocabulary: Mapping[str, int], lower_case: bool, accents: bool | None, chinese: bool = True
) -> str:
    """WordPiece (BERT) as a tokenizer.json; `accents` None strips them where letters are made small."""
    ends = {name: vocabulary.get(name) for name in ("[CLS]", "[SEP]")}
    post: dict[str, Any] | None = None
    if None not in ends.values():
        post = {
            "type": "TemplateProcessing",
            "single": [_marker("[CLS]", 0), {"Sequence": {"id": "A", "type_id": 0}}, _marker("[SEP]", 0)],
            "pair": [
                _marker("[CLS]", 0),
                {"Sequence": {"id": "A", "type_id": 0}},
                _marker("[SEP]", 0),
                {"Sequence": {"id": "B", "type_id": 1}},
                _marker("[SEP]", 1),
            ],
            "special_tokens": {
                name: {"id": name, "ids": [index], "tokens": [name]} for name, index in ends.items()
            },
        }
    if "[UNK]" not in vocabulary:
        raise UserError("This WordPiece vocabulary has no [UNK]: copy it again.")
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                added_token(vocabulary[token], token, True)
                for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
                if token in vocabulary
            ],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": chinese,
                "strip_accents": accents,
                "lowercase": lower_case,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": post,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": dict(vocabulary),
            },
        },
        ensure_ascii=False,
    )


def vocabulary_text_json(path: Path, config: Mapping[str, Any]) -> str:
    """BERT's `vocab.txt`, a token on each line, as a tokenizer.json."""
    vocabulary = {}
    for number, line in enumerate(_lines(path)):
        vocabulary[line.rstrip("\r")] = number
    vocabulary.pop("", None)
    has_capitals = any(token != token.lower() for token in vocabulary if not token.startswith("["))
    lower = config.get("do_lower_case")
    accents = config.get("strip_accents")
    with guarded(f"{path} is not a WordPiece vocabulary"):
        return word_pieces_json(
            vocabulary,
            lower if isinstance(lower, bool) else not has_capitals,
            accents if isinstance(accents, bool) else None,
            config.get("tokenize_chinese_chars") is not False,
        )


def _marker(token: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": kind}}


def _lines(path: Path) -> Iterator[str]:
    yield from read_text(path).removesuffix("\n").split("\n")
