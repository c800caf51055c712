"""How published byte-level vocabularies cut text before merging, by the names that GGUF files use.

The names and patterns are those of llama.cpp (src/llama-vocab.cpp), whose list is fixed: a GGUF file names
its pattern and cannot bring one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers.pre_tokenizers import PreTokenizer

from sishu.tokenizer.byte_level import split_by

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _END
QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _END
_QWEN35 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = (
    f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    f"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SYMBOLS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = (
    _SYMBOLS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

BY_NAME: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "llama-bpe": (LLAMA3,),
    "qwen2": (QWEN2,),
    "qwen35": (_QWEN35,),
    "tekken": (_TEKKEN,),
    "gpt-4o": (O200K,),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    "starcoder": (r"\p{N}", GPT2),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    "bloom": (_BLOOM,),
    "viking": (_BLOOM, r"\p{N}"),
    "seed-coder": (
        _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
"""Patterns to cut by, one after the other, for each name."""

SAME_AS: Mapping[str, str] = {
    **dict.fromkeys(("gpt2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2", "roberta-bpe",
                     "gigachat", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
                     "modern-bert", "jina-v1-en"), "gpt-2"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx",
                     "smaug-bpe", "chatglm-bpe", "glm4"), "llama-bpe"),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "solar-open", "megrez", "grok-2",
                     "kormo"), "qwen2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
                     "mellum2"), "starcoder"),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), "gpt-4o"),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), "deepseek-v3"),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), "bloom"),
}  # fmt: skip
"""Names that mean the patterns of another."""

WHOLE_WORDS = frozenset(("llama-bpe", "llama3", "llama-v3", "youtu", "falcon3", "falcon-h1", "pixtral",
                         "midm-2.0", "lfm2", "tekken"))  # fmt: skip
"""Names under which llama.cpp takes a word that is in the vocabulary without merging."""

_TRIAL = (
    "I'm HE'LL don't 'tis it’s naïve Ünïcode getURLParser HTTPError x2y ABCdef é\u0301a e\u0301 हिन्दी ไทย"
    " 1 12 123 1234 12345678 3.14 ½ ² ٣٤٥ a1b22c333 \n \n\n\n  x\r\n\r\n\t\ty   z \t\n    q    \u3000w"
    " ...!!! ?! ,.;: (a)[b]{c} <|x|> a/b //c /\n\n #!/usr/bin _snake_case $100 +5 ~`^|= ,word .Word"
    " 学而时习之，不亦说乎？「引用」。カタカナ ひらがな 한국어 123个 中A文b"
    " 🙂👩‍👩‍👧 🇨🇳 \u200d\u00a0\u2028 x\n"
    "!\n\n(\n  )\r\n ab;\n/*c*/ A\n B ¿Qué? «oui» „ja“ – — … مرحبا، ؟ \u0661\u0662 ΑΒγ ЖЗий Ǆǅǆ ªº ʰ ²³"
)


def _cuts(pre_tokenizer: PreTokenizer) -> list[tuple[int, int]]:
    return [place for _, place in pre_tokenizer.pre_tokenize_str(_TRIAL)]


def patterns_named(name: str) -> tuple[str, ...] | None:
    """The patterns a GGUF name means, None for one that is not known here."""
    return BY_NAME.get(SAME_AS.get(name, name))


def name_of(pre_tokenizer: PreTokenizer) -> str | None:
    """The GGUF name under which a trial text of many scripts is cut in the same places; None if none."""
    cuts = _cuts(pre_tokenizer)
    return next((name for name, some in BY_NAME.items() if _cuts(split_by(some)) == cuts), None)
