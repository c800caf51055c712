"""Tokenizers in GGUF files: from their metadata, and into metadata that llama.cpp reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, TypeGuard

from tokenizers import Tokenizer as FastTokenizer

from sishu.console import UserError
from sishu.tokenizer.decoding import BYTE_TOKEN
from sishu.tokenizer.guard import nodes
from sishu.tokenizer.patterns import WHOLE_WORDS, name_of, patterns_named
from sishu.tokenizer.pieces import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
    tokenizer_json,
)
from sishu.tokenizer.settings import Settings
from sishu.tokenizer.vocabularies import byte_level_json, word_pieces_json

PREFIX = "tokenizer.ggml."
_ROLES = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
"""Roles and how GGUF calls them; `seperator` is spelt so there."""
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_fields(fields: Mapping[str, Any]) -> tuple[str, Settings]:
    """A tokenizer.json and its settings from GGUF metadata; raises UserError for a kind or a pattern that is
    not known, or values that do not fit together."""
    kind = fields.get(PREFIX + "model")
    tokens = _list(fields, "tokens", str)
    if tokens is None:
        raise UserError("This GGUF file holds no tokens: take a file with its tokenizer in it.")
    kinds = _list(fields, "token_type", int) or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise UserError("This GGUF file is damaged: its tokens and their types differ in number.")
    settings = Settings()
    for role, name in _ROLES.items():
        index = fields.get(f"{PREFIX}{name}_token_id")
        if role == "sep" and index is None:
            index = fields.get(PREFIX + "separator_token_id")
        if _is_id(index, len(tokens)):
            settings.tokens[role] = tokens[int(index)]
    settings.stop_ids = frozenset(
        int(index) for name in _ENDS if _is_id(index := fields.get(PREFIX + name), len(tokens))
    )
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings.templates["default"] = template
    if isinstance(tool_use := fields.get("tokenizer.chat_template.tool_use"), str):
        settings.templates["tool_use"] = tool_use
    add_bos, add_eos = (fields.get(f"{PREFIX}add_{name}_token") for name in ("bos", "eos"))
    if kind == "gpt2":
        text = _byte_level(fields, tokens, kinds)
        pre = str(fields.get(PREFIX + "pre"))
        settings.add_bos = (
            bool(add_bos) if add_bos is not None else pre in ("llama-bpe", "llama3", "llama-v3")
        )
    elif kind in ("llama", "t5"):
        text = _pieces(fields, tokens, kinds, unigram=kind == "t5")
        settings.add_bos = bool(add_bos) if add_bos is not None else kind == "llama"
        settings.add_eos = bool(add_eos) if add_eos is not None else kind == "t5"
    elif kind == "bert":
        text = _word_pieces(fields, tokens)
    else:
        raise UserError(
            f"Tokenizers of the kind {kind!r} in GGUF files are not known: use the model's folder."
        )
    if kind in ("gpt2", "llama"):
        settings.add_eos = bool(add_eos)
    return text, settings


def _byte_level(fields: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> str:
    pre = fields.get(PREFIX + "pre") or "default"
    patterns = patterns_named(str(pre))
    if patterns is None:
        raise UserError(f"This GGUF file cuts text as {pre!r}, which is not known: use the model's folder.")
    merges = []
    for said in _list(fields, "merges", str) or []:
        left, space, right = said.partition(" ")
        if not space or not left or not right:
            raise UserError(f"This GGUF file is damaged: {said!r} is not a merge of two tokens.")
        merges.append((left, right))
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if kinds[index] != UNUSED:
            vocabulary.setdefault(token, index)
    special = {t: i for t, i in vocabulary.items() if kinds[i] in (CONTROL, UNKNOWN)}
    added = {t: i for t, i in vocabulary.items() if kinds[i] == USER_DEFINED}
    return byte_level_json(vocabulary, merges, patterns, special, str(pre) in WHOLE_WORDS, added=added)


def _pieces(fields: Mapping[str, Any], tokens: list[str], kinds: list[int], unigram: bool) -> str:
    scores = _list(fields, "scores", float)
    if scores is None or len(scores) != len(tokens):
        raise UserError("This GGUF file is damaged: its tokens and their scores differ in number.")
    unknown = fields.get(PREFIX + "unknown_token_id")
    charsmap = fields.get(PREFIX + "precompiled_charsmap")
    index = int(unknown) if _is_id(unknown, len(tokens)) else 0
    return tokenizer_json(
        Pieces(
            tokens,
            scores,
            kinds,
            unigram,
            charsmap=bytes(b & 255 for b in charsmap) if isinstance(charsmap, (bytes, list, tuple)) else b"",
            space_first=fields.get(PREFIX + "add_space_prefix") is not False,
            squeeze_spaces=bool(fields.get(PREFIX + "remove_extra_whitespaces")),
            unknown=kinds.index(UNKNOWN) if UNKNOWN in kinds else index,
        )
    )


def _word_pieces(fields: Mapping[str, Any], tokens: list[str]) -> str:
    """In GGUF a token that begins a word begins with ▁, and one that goes on with it has no mark."""
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token.startswith("▁"):
            name = token[1:]
        else:
            name = token if token.startswith("[") and token.endswith("]") else "##" + token
        vocabulary.setdefault(name, index)
    return word_pieces_json(vocabulary, lower_case=True, accents=True)


def _list(fields: Mapping[str, Any], name: str, kind: type) -> list[Any] | None:
    """A list of the metadata, every item of which is of a kind; None where there is none."""
    said = fields.get(PREFIX + name)
    if said is None:
        return None
    if hasattr(said, "tolist"):
        said = said.tolist()
    allowed = (int, float) if kind is float else kind
    if not isinstance(said, (list, tuple)) or not all(isinstance(item, allowed) for item in said):
        raise UserError(f"This GGUF file is damaged: {PREFIX}{name} is not a list of {kind.__name__}.")
    return [kind(item) for item in said]


def _is_id(value: Any, count: int) -> TypeGuard[SupportsIndex]:
    return hasattr(value, "__index__") and not isinstance(value, bool) and 0 <= int(value) < count


def write_fields(
    fast: FastTokenizer,
    settings: Settings,
    special: Mapping[str, int],
    stop_ids: frozenset[int],
    adds: tuple[bool, bool],
    size: int,
    pre: str | None = None,
) -> dict[str, Any]:
    """GGUF metadata for llama.cpp, `size` tokens long; `adds` says whether a text gets a first and a last
    token. Raises UserError where llama.cpp has nothing that gives the same ids."""
    model = json.loads(fast.to_str())["model"]
    vocabulary = fast.get_vocab(with_added_tokens=True)
    added = {token.content for token in fast.get_added_tokens_decoder().values()}
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for token, index in vocabulary.items():
        tokens[index] = token
        kinds[index] = CONTROL if token in special else USER_DEFINED if token in added else NORMAL
    fields: dict[str, Any] = {}
    kind = model.get("type")
    steps = {str(step.get("type")) for step in nodes(fast.pre_tokenizer)}
    if kind == "BPE" and "ByteLevel" in steps:
        name = pre or name_of(fast.pre_tokenizer)
        if name is None:
            raise UserError(
                "llama.cpp has no name for the way this tokenizer cuts text into words, and a GGUF file "
                "cannot bring its own: train the tokenizer with a pattern llama.cpp knows, or say which to "
                "write with `pre` and accept that some words get other ids there."
            )
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        fields |= {PREFIX + "model": "gpt2", PREFIX + "pre": name, PREFIX + "merges": merges}
    elif kind == "BPE":
        kinds = _piece_kinds(tokens, kinds, settings)
        fields |= {
            PREFIX + "model": "llama",
            PREFIX + "pre": "default",
            PREFIX + "scores": _scores(tokens, model["merges"]),
            PREFIX + "add_space_prefix": _puts_space_first(fast),
        }
    elif kind == "Unigram":
        kinds = _piece_kinds(tokens, kinds, settings)
        scores = [0.0] * size
        for index, (_, score) in enumerate(model["vocab"]):
            scores[index] = score
        normalizers = list(nodes(fast.normalizer))
        charsmap = next(
            (s["precompiled_charsmap"] for s in normalizers if s.get("type") == "Precompiled"), None
        )
        fields |= {
            PREFIX + "model": "t5",
            PREFIX + "pre": "default",
            PREFIX + "scores": scores,
            PREFIX + "add_space_prefix": _puts_space_first(fast),
            PREFIX + "remove_extra_whitespaces": any(
                "{2,}" in str(s.get("pattern", "")) for s in normalizers
            ),
        }
        if charsmap:
            from base64 import b64decode

            fields[PREFIX + "precompiled_charsmap"] = b64decode(charsmap)
    elif kind == "WordPiece":
        about = next((s for s in nodes(fast.normalizer) if s.get("type") == "BertNormalizer"), {})
        if not about.get("lowercase", False):
            raise UserError("llama.cpp makes all letters small for WordPiece, which this tokenizer does not.")
        prefix = model.get("continuing_subword_prefix", "##")
        tokens = [
            t
            if t.startswith("[") and t.endswith("]")
            else t.removeprefix(prefix)
            if t.startswith(prefix)
            else "▁" + t
            for t in tokens
        ]
        fields |= {PREFIX + "model": "bert", PREFIX + "pre": "jina-v2-en", PREFIX + "token_type_count": 2}
    else:
        raise UserError(f"GGUF files have no tokenizer of the kind {kind}.")
    fields |= {PREFIX + "tokens": tokens, PREFIX + "token_type": kinds}
    for role, name in _ROLES.items():
        if (said := settings.tokens.get(role)) in vocabulary:
            fields[f"{PREFIX}{name}_token_id"] = vocabulary[said]
    if "cls" in settings.tokens and PREFIX + "bos_token_id" not in fields:
        fields[PREFIX + "bos_token_id"] = vocabulary[settings.tokens["cls"]]
    turn_ends = stop_ids - {fields.get(PREFIX + "eos_token_id")} & set(special.values())
    for token in ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"):
        if special.get(token) in turn_ends:
            fields[PREFIX + "eot_token_id"] = special[token]
            break
    fields[PREFIX + "add_bos_token"], fields[PREFIX + "add_eos_token"] = adds
    if settings.template:
        fields["tokenizer.chat_template"] = settings.template
    if "tool_use" in settings.templates:
        fields["tokenizer.chat_template.tool_use"] = settings.templates["tool_use"]
    return fields


def _piece_kinds(tokens: Sequence[str], kinds: Sequence[int], settings: Settings) -> list[int]:
    """The kinds of SentencePiece's tokens: which stand for bytes, which one for the unknown."""
    unknown = settings.tokens.get("unk", "<unk>")
    return [
        UNKNOWN if token == unknown else BYTE if kind == NORMAL and BYTE_TOKEN.fullmatch(token) else kind
        for token, kind in zip(tokens, kinds, strict=True)
    ]


def _scores(tokens: Sequence[str], merges: Sequence[Any]) -> list[float]:
    """A score for every piece, the better the earlier it is merged."""
    score: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        made = merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
        score.setdefault(made, -float(rank))
    return [score.get(token, -1e6) for token in tokens]


def _puts_space_first(fast: FastTokenizer) -> bool:
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in (*nodes(fast.normalizer), *nodes(fast.pre_tokenizer))
    )
