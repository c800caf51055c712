"""A tokenizer: text to ids and back, for our own vocabularies and everybody else's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from sishu.console import UserError
from sishu.tokenizer import folder as files
from sishu.tokenizer import gguf_fields, vocabularies
from sishu.tokenizer.byte_level import byte_level
from sishu.tokenizer.chat import CHAT_TEMPLATE, SPECIAL_TOKENS, Conversation, render
from sishu.tokenizer.conversation import ForeignChat
from sishu.tokenizer.decoding import Spelling, StreamDecoder
from sishu.tokenizer.fast_path import FastPath, fast_path
from sishu.tokenizer.guard import guarded, open_tokenizer
from sishu.tokenizer.settings import ENDS_OF_TURN, Settings

__all__ = ["FILES", "StreamDecoder", "Tokenizer", "byte_level"]

FILES = ("tokenizer.json", "tokenizer_config.json")
WORTH_A_FAST_PATH = 1_000_000
"""Characters after which it pays to make the fast path ready."""
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)
_OWN_TOKENS = {"bos": "<|bos|>", "eos": "<|end|>", "pad": "<|pad|>"}


class Tokenizer:
    """Text <-> ids. Special tokens written in ordinary text stay text: only `encode_conversation`, the named
    ids and `encode(text, special=True)` make them.

    A token that a foreign tokenizer adds without calling it special, such as one for eight spaces, is
    ordinary vocabulary: text makes it.
    """

    def __init__(self, fast: FastTokenizer, settings: Settings | None = None) -> None:
        """`fast` holds the vocabulary; `settings` what its folder says beside it (none: one of our own)."""
        fast.encode_special_tokens = True
        self._fast = fast
        self._settings = settings or Settings()
        vocabulary = fast.get_vocab(with_added_tokens=True)
        added = fast.get_added_tokens_decoder()
        self.vocabulary_size = max(vocabulary.values()) + 1
        self.special = {token.content: index for index, token in sorted(added.items()) if token.special}
        template = self._settings.template
        self.own = template in (None, CHAT_TEMPLATE) and all(t in self.special for t in SPECIAL_TOKENS)
        """Whether this is a tokenizer of ours, with our layout of conversations."""
        if self.own:
            self.special = {token: vocabulary[token] for token in SPECIAL_TOKENS}
            self._settings.tokens = dict(_OWN_TOKENS)
            self._settings.templates = {"default": CHAT_TEMPLATE}
        tokens = self._settings.tokens
        self.bos_id: int | None = vocabulary.get(tokens.get("bos", ""))
        """The token a text begins with; None where the tokenizer has none."""
        self.end_id: int | None = vocabulary.get(tokens.get("eos", ""))
        """The token a text ends with; None where the tokenizer has none."""
        self._pad_id: int | None = vocabulary.get(tokens.get("pad", ""))
        unknown = tokens.get("unk", getattr(fast.model, "unk_token", None))
        self._spelling = Spelling(fast, frozenset(self.special.values()))
        if self._spelling.bytes_fall_back and "<0xFF>" in vocabulary:
            unknown = None  # nothing is unknown, so only a text that spells it would make it
        self._control = {
            token.content: index
            for index, token in added.items()
            if token.content != unknown
            and (token.special or index in self._settings.stop_ids or _LOOKS_SPECIAL.fullmatch(token.content))
        }
        self._control_ids = frozenset(self._control.values())
        self._fast_path: FastPath | None = None
        self._characters = 0

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a folder: `tokenizer.json`, or what came before it (SentencePiece's `tokenizer.model`,
        `*.tiktoken`, `vocab.txt`, `vocab.json` with `merges.txt`), with its settings and chat template.

        Raises UserError when it is missing or broken.
        """
        return cls(*files.read_folder(folder))

    @classmethod
    def from_tiktoken(
        cls, path: Path, pattern: str, special: Mapping[str, int], settings: Settings | None = None
    ) -> Tokenizer:
        """Ranks in tiktoken's form with the pattern that cuts text and the special tokens with their ids,
        which such a file does not say. Raises UserError for a broken file or ids that collide."""
        pattern = vocabularies.portable(pattern)
        text = vocabularies.ranks_json(vocabularies.read_ranks(path), pattern, special, str(path))
        return cls(open_tokenizer(text, str(path)), settings or Settings())

    @classmethod
    def from_gguf(cls, fields: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer in the metadata of a GGUF file, values by key; raises UserError for a kind or a
        pattern that is not known."""
        text, settings = gguf_fields.read_fields(fields)
        fast = open_tokenizer(text, "The tokenizer in this GGUF file")
        with guarded("The tokenizer in this GGUF file is damaged"):
            files.apply(fast, settings, "this GGUF file")
        return cls(fast, settings)

    def to_gguf(self, size: int | None = None, pre: str | None = None) -> dict[str, Any]:
        """Metadata for a GGUF file, values by key. `size` is the number of rows of the model, if it has more
        than there are tokens.

        llama.cpp knows ways to cut text into words by name (`tokenizer.ggml.pre`) and cannot be given
        another. Our own is not among them: then UserError is raised, unless `pre` says what to write
        ("gpt-4o" is nearest); ids of text are then different there wherever words are cut differently,
        while decoding, and prompts given as ids, stay exact.
        """
        return gguf_fields.write_fields(
            self._fast,
            self._settings,
            self.special,
            self.stop_ids,
            (self.adds_bos, bool(self._ends[1])),
            max(size or 0, self.vocabulary_size),
            pre,
        )

    def save(self, folder: Path, context_length: int | None = None) -> None:
        """Write the files `transformers.AutoTokenizer` reads into `folder`, each in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.own:
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
            said = json.dumps(config, indent=2) + "\n"
        else:
            said = files.config_to_save(self._settings, context_length)
        for name, text in zip(FILES, (self._fast.to_str(pretty=True), said), strict=True):
            temporary = folder / f".{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / name)

    @property
    def bos(self) -> int:
        """The token a text begins with; raises UserError where the tokenizer has none (see `bos_id`)."""
        if self.bos_id is None:
            raise UserError("This tokenizer has no token that begins a text: name one as bos_token.")
        return self.bos_id

    @property
    def end(self) -> int:
        """The token a text ends with; raises UserError where the tokenizer has none (see `end_id`)."""
        if self.end_id is None:
            raise UserError("This tokenizer has no token that ends a text: name one as eos_token.")
        return self.end_id

    @property
    def pad(self) -> int:
        """The token to fill rows up with: its own, else a reserved one, else the end token, else 0."""
        if self._pad_id is not None:
            return self._pad_id
        for token in ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|fim_pad|>", "<unk>"):
            if token in self.special:
                return self.special[token]
        return self.end_id if self.end_id is not None else 0

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer: what generation_config.json says and the end token, or else the token
        that the chat template puts after an answer."""
        if self.own:
            return frozenset((self.end, self.bos, self.pad))
        ids = set(self._settings.stop_ids)
        if self.end_id is not None:
            ids.add(self.end_id)
        if not self._settings.stop_ids:
            ids |= self._end_of_turn()
        return frozenset(i for i in ids if i < self.vocabulary_size)

    def _end_of_turn(self) -> set[int]:
        """The special token after an answer, as the chat template writes it."""
        template = self._settings.template
        if template is None:
            return set()
        answer = "7f3a"
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
        try:
            chat = ForeignChat(self._fast, self._control, frozenset(), self._settings.tokens)
            ids = chat.encode(template, asked, False, None, mask=False).ids
        except UserError:
            return {i for token, i in self.special.items() if token in ENDS_OF_TURN}
        after = self.decode(ids, keep_special=True).rpartition(answer)[2]
        ends = [(after.find(token), index) for token, index in self._control.items() if token in after]
        return {min(ends)[1]} if ends else set()

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        """What goes before and after the ids of a text by default."""
        if self.own:
            return [self.bos], []
        with guarded("This tokenizer cannot encode a text"):
            plain = self._fast.encode("a", add_special_tokens=False).ids
            framed = self._fast.encode("a", add_special_tokens=True).ids
        for start in range(len(framed) - len(plain) + 1):
            if framed[start : start + len(plain)] == plain:
                return framed[:start], framed[start + len(plain) :]
        return [], []

    @property
    def adds_bos(self) -> bool:
        """Whether a text begins with a token of its own (see `begin`)."""
        return bool(self._ends[0])

    def begin(self, ids: Sequence[int]) -> list[int]:
        """The ids of a whole text: with the tokens at its ends that the model learnt it with. For a foreign
        tokenizer these are those that `transformers` adds by default; ours begins with `bos`."""
        before, after = self._ends
        return [*before, *ids, *after]

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of ordinary text; nothing in it is read as a special token, unless `special` says so.

        Raises UserError for a text that holds half of a surrogate pair, which is no text.
        """
        if special:
            with guarded("This text cannot be encoded"):
                parsed: list[int] = self._chat.parsing.encode(text, add_special_tokens=False).ids
            return parsed
        self._characters += len(text)
        if self._characters > WORTH_A_FAST_PATH and (quick := self._quick) is not None:
            found = quick.encode(_whole(text))
            if found is not None:
                return found
        try:
            ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            _whole(text)
            with guarded("This text cannot be encoded"):
                raise error
        return ids if self._control_ids.isdisjoint(ids) else self._as_text(ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts in parallel."""
        texts = list(texts)
        self._characters += sum(map(len, texts))
        if self._characters > WORTH_A_FAST_PATH and (quick := self._quick) is not None:
            found = quick.encode_batch(list(map(_whole, texts)))
            return [self.encode(t) if ids is None else ids for t, ids in zip(texts, found, strict=True)]
        try:
            made = self._fast.encode_batch_fast(texts, add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return [self.encode(text) for text in texts]  # which names the text that is none
        return [
            e.ids if self._control_ids.isdisjoint(e.ids) else self._as_text(e.ids)
            for e in made
        ]  # fmt: skip

    @cached_property
    def _quick(self) -> FastPath | None:
        with guarded("This tokenizer cannot be made ready"):
            self._fast_path = fast_path(self._fast)
        return self._fast_path

    def _as_text(self, ids: Sequence[int]) -> list[int]:
        """Ids without special tokens: some vocabularies put text that spells one together to it."""
        made: list[int] = []
        for index in ids:
            if index not in self._control_ids:
                made.append(index)
                continue
            token = self.token_of(index)
            parts = [piece.id for half in (token[:1], token[1:]) for piece in self._fast.model.tokenize(half)]
            made += parts if self._control_ids.isdisjoint(parts) else self._by_characters(token)
        return made

    def _by_characters(self, token: str) -> list[int]:
        vocabulary = self._fast.get_vocab(with_added_tokens=True)
        made: list[int] = []
        for character in token:
            single = vocabulary.get(character)
            if single is not None and single not in self._control_ids:
                made.append(single)
                continue
            of_bytes = [vocabulary.get(f"<0x{b:02X}>") for b in character.encode()]
            unknown = vocabulary.get(self._settings.tokens.get("unk", ""), 0)
            made += [i for i in of_bytes if i is not None] or [unknown]
        return made

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: valid UTF-8 as text, other bytes one by one.

        Raises UserError where the vocabulary has no token for a byte.
        """
        ids: list[int] = []
        for piece in re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape")):
            if piece and "\udc80" <= piece[0] <= "\udcff":
                for byte in piece.encode("utf-8", "surrogateescape"):
                    if byte not in self._byte_ids:
                        raise UserError("This tokenizer has no tokens for bytes that are not text.")
                    ids.append(self._byte_ids[byte])
            elif piece:
                ids += self.encode(piece)
        return ids

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        """The token of each single byte that is not a character of its own."""
        found: dict[int, int] = {}
        for index in range(self.vocabulary_size):
            data = self._spelling.bytes_of(index)
            if len(data) == 1:
                found.setdefault(data[0], index)
        return found

    def fingerprint(self) -> str:
        """SHA-256 over every token and its id: two of our tokenizers with the same one give the same ids."""
        vocabulary = sorted(self._fast.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()

    def token_of(self, index: int) -> str:
        """A token as the vocabulary writes it; "" outside the vocabulary."""
        return self._spelling.token_of.get(index, "")

    def bytes_of(self, index: int) -> bytes:
        """The bytes a token stands for; empty for special tokens and ids outside the vocabulary."""
        return self._spelling.bytes_of(index)

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids; special tokens vanish unless they are kept, broken byte sequences become U+FFFD."""
        return self._spelling.decode(ids, keep_special)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for tokens that arrive one at a time."""
        return StreamDecoder(self._spelling)

    @property
    def chat_template(self) -> str | None:
        """The template of conversations, in Jinja's language; None where there is none."""
        return self._settings.template

    @cached_property
    def _chat(self) -> ForeignChat:
        return ForeignChat(self._fast, self._control, self.stop_ids, self._settings.tokens)

    def encode_conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        mask: bool | None = None,
    ) -> Conversation:
        """Ids and loss mask of a conversation.

        Ours is laid out by `sishu.tokenizer.chat.render`, a foreign one by its chat template, which gives
        the ids of `transformers`. `mask` says whether a foreign one gets a mask, without which all of it is
        False; when not given, it does unless `generation_prompt` is set, which makes a question.

        Raises UserError for messages that are none, where there is no template, where it refuses the
        conversation, and where it rewrites earlier turns so that no mask fits.
        """
        if not self.own:
            template = self._settings.template_for(bool(tools))
            if template is None:
                raise UserError(
                    "This tokenizer has no chat template: use the folder of a chat model, or put its "
                    "chat_template.jinja beside tokenizer.json."
                )
            wanted = not generation_prompt if mask is None else mask
            return self._chat.encode(template, messages, generation_prompt, tools or None, wanted)
        if tools:
            raise UserError("Our own layout of conversations knows no tools: leave them out.")
        ids: list[int] = []
        marks: list[bool] = []
        for piece in render(messages, generation_prompt):
            new = [self.special[piece.text]] if piece.special else self.encode(piece.text)
            ids += new
            marks += [piece.learnt] * len(new)
        return Conversation(ids, marks)


def _whole(text: str) -> str:
    """The text, if it is one; raises UserError for half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"This text holds half of a surrogate pair at character {error.start}: it is not text; mend it "
            "where it was cut."
        ) from error
    return text
