"""A tokenizer folder: byte-level BPE files that `transformers` reads, and exact bytes for every token."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from sishu.console import UserError
from sishu.tokenizer.chat import CHAT_TEMPLATE, SPECIAL_TOKENS, Conversation, render

FILES = ("tokenizer.json", "tokenizer_config.json")


def _byte_of_character() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level BPE (Radford et al. 2019), inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in printable)
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


class Tokenizer:
    """Text <-> ids. Special tokens written in ordinary text stay text: only `encode_conversation` and
    the named ids make them."""

    def __init__(self, fast: FastTokenizer) -> None:
        fast.encode_special_tokens = True
        self._fast = fast
        vocabulary = fast.get_vocab(with_added_tokens=True)
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise UserError(
                f"This tokenizer lacks the special tokens {', '.join(missing)}: train one with "
                "`sishu tokenizer`, or use the folder that came with the model."
            )
        self.vocabulary_size = max(vocabulary.values()) + 1
        self.special = {token: vocabulary[token] for token in SPECIAL_TOKENS}
        self.bos = self.special["<|bos|>"]
        self.end = self.special["<|end|>"]
        self.pad = self.special["<|pad|>"]
        byte_of = _byte_of_character()
        self._bytes = [b""] * self.vocabulary_size
        for token, index in vocabulary.items():
            if token not in self.special:
                self._bytes[index] = bytes(byte_of[character] for character in token)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`; raises UserError when it is missing or broken."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"There is no tokenizer.json in {folder}: train one with `sishu tokenizer`.")
        try:
            fast = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path} is not a readable tokenizer ({error}): train it again.") from error
        return cls(fast)

    def save(self, folder: Path, context_length: int | None = None) -> None:
        """Write the files `transformers.AutoTokenizer` reads into `folder`, each in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|bos|>",
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        if context_length is not None:
            config["model_max_length"] = context_length
        texts = (self._fast.to_str(pretty=True), json.dumps(config, indent=2) + "\n")
        for name, text in zip(FILES, texts, strict=True):
            temporary = folder / f".{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / name)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; nothing in it is read as a special token."""
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts in parallel."""
        return [e.ids for e in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def fingerprint(self) -> str:
        """SHA-256 over every token and its id: two tokenizers with the same one give the same ids."""
        vocabulary = sorted(self._fast.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()

    def bytes_of(self, index: int) -> bytes:
        """The bytes a token stands for; empty for special tokens and ids outside the vocabulary."""
        return self._bytes[index] if 0 <= index < self.vocabulary_size else b""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens vanish, broken byte sequences become U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for tokens that arrive one at a time."""
        return StreamDecoder(self)

    def encode_conversation(
        self, messages: Sequence[Mapping[str, str]], generation_prompt: bool = False
    ) -> Conversation:
        """Ids and loss mask of a conversation (see `sishu.tokenizer.chat.render`)."""
        ids: list[int] = []
        mask: list[bool] = []
        for piece in render(messages, generation_prompt):
            new = [self.special[piece.text]] if piece.special else self.encode(piece.text)
            ids += new
            mask += [piece.learnt] * len(new)
        return Conversation(ids, mask)


class StreamDecoder:
    """Turns tokens into text as they come, holding back half characters until they are whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """The text that `index` completes, perhaps none."""
        return self._utf8.decode(self._tokenizer.bytes_of(index))

    def finish(self) -> str:
        """What is left when no more tokens come: a half character becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)


def byte_level() -> pre_tokenizers.PreTokenizer:
    """How text is cut before merging: words with their leading space, a new one wherever a capital follows a
    small letter (`handleError` is `handle` and `Error`, `HTTPError` is `HTTP` and `Error`), digits in ones
    and twos, runs of punctuation, line breaks; then bytes. A word takes no punctuation along, so that a name
    has the same ids after a dot, a bracket or a back-tick, and can be copied from a question into an answer;
    and the words of a name are those of the sentences about it."""
    pattern = (
        r"'(?:[sdmtSDMT]|[lL]{2}|[vV][eE]|[rR][eE])"
        r"| ?(?:\p{Lu}?[\p{Ll}\p{Lt}\p{Lm}\p{Lo}\p{M}]+|\p{Lu}+(?!\p{Ll}))"
        r"|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
