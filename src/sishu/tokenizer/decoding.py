"""Tokens back to text, all at once or as they come: what each token spells."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import cached_property

from tokenizers import Tokenizer as FastTokenizer

from sishu.tokenizer.byte_level import read
from sishu.tokenizer.guard import guarded, nodes

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece writes a token that stands for one byte."""


class Spelling:
    """The bytes of every token, as the decoder of a tokenizer spells them.

    Most decoders spell a token the same wherever it stands, but for a space at the very beginning or end of
    the text. WordPiece puts a space before a token unless the text begins with it.
    """

    def __init__(self, fast: FastTokenizer, special: frozenset[int]) -> None:
        vocabulary = fast.get_vocab(with_added_tokens=True)
        self._fast = fast
        self.token_of = {index: token for token, index in vocabulary.items()}
        self.special = special
        steps = list(nodes(fast.decoder))
        self._kinds = {str(step.get("type")) for step in steps}
        self._replaced = [
            (str(pattern["String"]), str(step.get("content", "")))
            for step in steps
            if step.get("type") == "Replace" and "String" in (pattern := step.get("pattern") or {})
        ]
        metaspace = next((step for step in steps if step.get("type") == "Metaspace"), None)
        if metaspace:
            self._replaced.append((str(metaspace.get("replacement", "▁")), " "))
        self._suffix = next((s.get("suffix", "") for s in steps if s.get("type") == "BPEDecoder"), "")
        strips = any(
            s.get("type") == "Strip" and s.get("content") == " " and s.get("start", 0) == 1 for s in steps
        )
        self.drops_first_space = strips or bool(metaspace and metaspace.get("prepend_scheme") != "never")
        self.drops_last_space = bool(self._suffix)
        self.byte_level = "ByteLevel" in self._kinds
        self.bytes_fall_back = "ByteFallback" in self._kinds
        # what stands before a token depends on its being the first only where tokens are words
        self._words = "WordPiece" in self._kinds or not self._kinds & {
            "ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "BPEDecoder", "Strip"
        }  # fmt: skip

    def alone(self, index: int) -> bytes:
        """What a token spells at the beginning of a text, special ones too; b"" outside the vocabulary."""
        token = self.token_of.get(index)
        if token is None:
            return b""
        if self.byte_level:
            return read(token)
        if self.bytes_fall_back and (found := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(found[1], 16)])
        if self._words:
            return self._decoded([token]).encode("utf-8", "replace")
        for pattern, content in self._replaced:
            token = token.replace(pattern, content)
        if self._suffix:
            token = token.replace(self._suffix, " ")
        return token.encode("utf-8", "replace")

    def after_others(self, index: int) -> bytes:
        """What a token spells after another one."""
        if not self._words or index not in self.token_of:
            return self.alone(index)
        text = self._decoded(["x", self.token_of[index]])
        return text[1:].encode("utf-8", "replace")

    def _decoded(self, tokens: list[str]) -> str:
        if self._fast.decoder is None:
            return " ".join(tokens)
        with guarded("This tokenizer cannot decode its tokens: use another copy of it"):
            text: str = self._fast.decoder.decode(tokens)
        return text

    @cached_property
    def _alone(self) -> dict[int, bytes]:
        return {index: self.alone(index) for index in self.token_of if index not in self.special}

    @cached_property
    def _after(self) -> dict[int, bytes]:
        if not self._words:
            return self._alone
        return {index: self.after_others(index) for index in self.token_of if index not in self.special}

    def bytes_of(self, index: int) -> bytes:
        """What an ordinary token spells; b"" for special tokens and ids outside the vocabulary."""
        return self._alone.get(index, b"")

    def spelled(self, ids: Iterable[int], keep_special: bool = False, first: bool = True) -> bytes:
        """The bytes of ids in order, without the space that the beginning of a text drops."""
        parts: list[bytes] = []
        for index in ids:
            known = index not in self.special
            if not known and not keep_special:
                continue
            if first:
                part = self._alone.get(index, b"") if known else self.alone(index)
                if self.drops_first_space:
                    part = part.removeprefix(b" ")
                first = index not in self.token_of
            else:
                part = self._after.get(index, b"") if known else self.after_others(index)
            parts.append(part)
        return b"".join(parts)

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids; broken byte sequences become U+FFFD."""
        if self.byte_level and not keep_special:
            alone = self._alone
            data = b"".join([alone.get(index, b"") for index in ids])
        else:
            data = self.spelled(ids, keep_special)
        if self.drops_last_space:
            data = data.removesuffix(b" ")
        return data.decode("utf-8", "replace")


class StreamDecoder:
    """Turns tokens into text as they come, holding back half characters until they are whole. All it gives,
    put together, is what decoding at once gives."""

    def __init__(self, spelling: Spelling, keep_special: bool = False) -> None:
        self._spelling = spelling
        self._keep = keep_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = True
        self._space = b""

    def push(self, index: int) -> str:
        """The text that `index` completes, perhaps none."""
        data = self._spelling.spelled((index,), self._keep, self._first)
        if index in self._spelling.token_of and (self._keep or index not in self._spelling.special):
            self._first = False
        if self._spelling.drops_last_space and (data or self._space):
            data = self._space + data
            self._space = b" " if data.endswith(b" ") else b""
            data = data.removesuffix(b" ")
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What is left when no more tokens come: a half character becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)
