"""Vocabularies of SentencePiece's kind, from tokenizer.model or GGUF: BPE by score, and Unigram.

Kudo & Richardson 2018, arXiv:1808.06226. A space is written ▁; a character that is not in the vocabulary
falls back to its UTF-8 bytes where the vocabulary has them.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from sishu.console import UserError
from sishu.tokenizer.guard import read_bytes
from sishu.tokenizer.vocabularies import added_token

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces; GGUF files use the same numbers."""
_NEVER_SPELT = frozenset((UNKNOWN, CONTROL, BYTE))
MOST_CUTS = 10**9
"""Sum of the squared lengths of tokens, which bounds the work of finding merges; Llama 2 has 1.3 million."""


@dataclass
class Pieces:
    """A vocabulary in the order of its ids, and how text is made ready for it."""

    tokens: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]
    unigram: bool
    charsmap: bytes = b""
    space_first: bool = True
    """Whether a space is put before a text."""
    squeeze_spaces: bool = False
    """Whether spaces at the ends are dropped and runs of them become one."""
    unknown: int = 0

    def __post_init__(self) -> None:
        if not self.tokens or not len(self.tokens) == len(self.scores) == len(self.kinds):
            raise UserError("This vocabulary is damaged: it must have a score and a kind for every token.")
        if len(set(self.tokens)) != len(self.tokens):
            raise UserError("This vocabulary is damaged: it has the same token twice.")
        if sum(len(token) ** 2 for token in self.tokens) > MOST_CUTS:
            raise UserError("This vocabulary is damaged: its tokens are too long.")
        if not all(map(math.isfinite, self.scores)) or not 0 <= self.unknown < len(self.tokens):
            raise UserError(
                "This vocabulary is damaged: a score is no number, or no token is the unknown one."
            )


def read_pieces(path: Path) -> tuple[Pieces, dict[str, str]]:
    """A SentencePiece `tokenizer.model` and its tokens by role; raises UserError for a damaged file."""
    from sentencepiece import sentencepiece_model_pb2 as messages  # slow to import, seldom needed

    model = messages.ModelProto()  # type: ignore[attr-defined]  # made at run time
    try:
        model.ParseFromString(read_bytes(path))
    except (DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a SentencePiece model ({error}): copy it again.") from error
    about, norm = model.trainer_spec, model.normalizer_spec
    if about.model_type not in (1, 2):
        raise UserError(f"{path} is a word or character model: only BPE and Unigram can be read.")
    kinds = [piece.type for piece in model.pieces]
    pieces = Pieces(
        [piece.piece for piece in model.pieces],
        [piece.score for piece in model.pieces],
        kinds,
        unigram=about.model_type == 1,
        charsmap=bytes(norm.precompiled_charsmap),
        space_first=norm.add_dummy_prefix,
        squeeze_spaces=norm.remove_extra_whitespaces,
        unknown=kinds.index(UNKNOWN) if UNKNOWN in kinds else max(0, about.unk_id),
    )
    roles = {}
    for role, index in (
        ("bos", about.bos_id),
        ("eos", about.eos_id),
        ("unk", about.unk_id),
        ("pad", about.pad_id),
    ):
        if 0 <= index < len(pieces.tokens):
            roles[role] = pieces.tokens[index]
    return pieces, roles


def tokenizer_json(pieces: Pieces) -> str:
    """The vocabulary as a tokenizer.json that gives SentencePiece's ids."""
    falls_back = pieces.kinds.count(BYTE) == 256
    unknown = pieces.tokens[pieces.unknown]
    model: dict[str, Any]
    if pieces.unigram:
        best, worst = max(pieces.scores), min(pieces.scores)
        kept = [len(t) for t, kind in zip(pieces.tokens, pieces.kinds, strict=True) if kind in _NEVER_SPELT]
        # a text that spells a control token or a byte's is always better off with other pieces
        never = (max(kept, default=0) + 1) * min(worst, 0.0) - 100
        model = {
            "type": "Unigram",
            "unk_id": pieces.unknown,
            # a piece of the user's is always taken whole, whatever it is worth (SentencePiece does the same)
            "vocab": [
                [
                    token,
                    len(token.encode("utf-8", "replace")) * best - 0.1
                    if kind == USER_DEFINED
                    else never
                    if kind in _NEVER_SPELT
                    else score,
                ]
                for token, score, kind in zip(pieces.tokens, pieces.scores, pieces.kinds, strict=True)
            ],
            "byte_fallback": falls_back,
        }
    else:
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": falls_back,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(pieces.tokens)},
            "merges": merges_by_score(pieces),
        }
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                added_token(index, token, kind != USER_DEFINED)
                for index, (token, kind) in enumerate(zip(pieces.tokens, pieces.kinds, strict=True))
                if token and (kind in (CONTROL, UNKNOWN) or (kind == USER_DEFINED and not pieces.unigram))
            ],
            "normalizer": _normalizer(pieces),
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": _decoder(pieces, falls_back),
            "model": model,
        },
        ensure_ascii=False,
    )


def merges_by_score(pieces: Pieces) -> list[list[str]]:
    """Every way to put a piece together from two, the best piece first: BPE by score merges whatever pair
    makes the best piece."""
    usable = {
        token: index
        for index, (token, kind) in enumerate(zip(pieces.tokens, pieces.kinds, strict=True))
        if kind in (NORMAL, UNUSED)
    }
    ranked = []
    for token, index in usable.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in usable and right in usable:
                ranked.append((-pieces.scores[index], index, usable[left], left, right))
    ranked.sort()
    return [[left, right] for *_, left, right in ranked]


def _normalizer(pieces: Pieces) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if pieces.charsmap:
        charsmap = b64encode(pieces.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if pieces.squeeze_spaces:
        steps += [
            {"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]
    if pieces.space_first:
        steps.append({"type": "Prepend", "prepend": "▁"})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    return {"type": "Sequence", "normalizers": steps}


def _decoder(pieces: Pieces, falls_back: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    if falls_back:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if pieces.space_first:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
