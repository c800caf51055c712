"""Continuous batching: texts join and leave a running batch token by token.

Each step takes one token of every text that is being written and as much of the prompts that wait as it has
room for, and runs them through the model as one row (Yu et al. 2022, Orca; Agrawal et al. 2023,
arXiv:2308.16369). Keys and values lie in blocks (Kwon et al. 2023, arXiv:2309.06180); a prompt that begins
like an earlier text takes its blocks; when blocks run out, the text that came last gives its own back and is
read again later. None of this changes what a text says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from sishu.console import UserError
from sishu.generate.blocks import Blocks, Key, key_of
from sishu.generate.draws import seed_of
from sishu.generate.engine import Completion
from sishu.generate.graph_step import GraphStep
from sishu.generate.log_probabilities import LogProbabilities, following_log_probs, top_log_probs
from sishu.generate.native_step import NativeStep
from sishu.generate.paged_cache import PagedCache, Span
from sishu.generate.penalties import TokenCounts, penalised
from sishu.generate.quantise import Weights, ready
from sishu.generate.sampler import sample
from sishu.generate.sampling import Sampling
from sishu.generate.speculative import agreed, propose_ngram
from sishu.generate.stops import possible_start, stopped_at
from sishu.generate.structured import Guides
from sishu.generate.texts import BatchSettings, Due, Output, Text
from sishu.models.decoder import Decoder
from sishu.models.open import open_decoder
from sishu.nn.device import best_device
from sishu.tokenizer.tokenizer import Tokenizer

__all__ = ["BatchSettings", "BatchingEngine", "Output"]

NO_COUNTS = TokenCounts()
"""For texts without penalties, which nothing reads."""


class BatchingEngine:
    """A decoder with its tokenizer, writing many texts at once. Not thread-safe."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, settings: BatchSettings | None = None) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.settings = s = settings or BatchSettings()
        c = model.config
        self.context_length = c.context_length
        self.stop_ids = tokenizer.stop_ids
        wanted = s.cache_tokens or max(s.running * min(1024, c.context_length), c.context_length + 1)
        blocks = -(-wanted // s.block_size)
        self.device = model.embedding.weight.device
        self.dtype = model.norm.weight.dtype if isinstance(model.norm.weight, Tensor) else torch.float32
        self.cache = PagedCache(
            c.layers, c.kv_heads, c.head_width, blocks, s.block_size, self.device, self.dtype
        )
        self._native = NativeStep.of(model, self.cache)
        self._graph = GraphStep.of(model, self.cache)
        self.blocks = Blocks(blocks)
        self._guides: Guides | None = None
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        self._coming: Counter[Key] = Counter()
        self._next = 0
        self.preempted = 0
        """How often a text had to give its blocks back."""
        self.reused = 0
        """Tokens of prompts that were not read, because an earlier text's blocks held them."""
        self.guessed = self.guessed_right = 0
        """Tokens that were guessed ahead, and how many of them stood."""

    @classmethod
    def load(
        cls, path: Path, weights: Weights = "fp32", settings: BatchSettings | None = None
    ) -> BatchingEngine:
        """Open a model's folder or GGUF file on the best device; raises UserError when it is missing or
        broken."""
        model, tokenizer = open_decoder(path, torch.float32 if weights == "fp32" else None)
        return cls(ready(model.to(best_device()), weights), tokenizer, settings)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Queue a prompt; returns the request's number. Raises ValueError for a prompt that is empty or too
        long, and UserError for one that the cache cannot hold."""
        if not prompt:
            raise ValueError("a prompt needs at least one token")
        if len(prompt) > self.context_length:
            raise ValueError(f"a prompt of {len(prompt)} tokens exceeds the context of {self.context_length}")
        longest = min(len(prompt) + sampling.max_tokens, self.context_length)
        room = self.blocks.count * self.settings.block_size
        if longest > room:
            raise UserError(
                f"The prompt and its answer may take {longest:,} tokens and the cache holds {room:,}: allow "
                "a shorter answer (max_tokens), or give the engine a larger cache (cache_tokens)."
            )
        if sampling.guide is not None:
            if self._guides is None:
                size = self.model.config.vocabulary
                self._guides = Guides(self.tokenizer, size, sorted(self.stop_ids))
            self._guides.start(sampling.guide)  # refuses a wrong one now, and has it compiled for later
        number, self._next = self._next, self._next + 1
        seed = seed_of(sampling.seed)
        for index in range(sampling.n):
            text = Text(
                number,
                index,
                sampling,
                seed_of(seed, index),
                len(prompt),
                list(prompt),
                self.tokenizer.stream_decoder(),
                counts=TokenCounts(prompt) if penalised(sampling) else None,
                guide=self._guides.start(sampling.guide) if self._guides and sampling.guide else None,
            )
            self.waiting.append(text)
        return number

    def cancel(self, request: int) -> None:
        """Forget a request; what it held is free at once."""
        for text in [t for t in self.running if t.request == request]:
            self._leave(text)
        self.waiting = deque(t for t in self.waiting if t.request != request)

    @property
    def busy(self) -> bool:
        """Whether any text is under way or waits."""
        return bool(self.running or self.waiting)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Run the model once over what is due; returns what that added to each text."""
        outputs = [self._end(t, "length") for t in self.waiting if t.sampling.max_tokens <= 0]
        self.waiting = deque(t for t in self.waiting if t.finish is None)
        self._admit()
        due = self._due()
        if not due:
            return outputs
        writing = [d for d in due if d.text.read + d.new == len(d.text.ids)]
        masks = self._masks(writing)
        logits_BV = self._logits(due)
        for text, new, _ in due:
            text.read += new
            self._name_blocks(text)
        if writing:
            outputs += self._write(logits_BV, writing, masks.result() if masks else None)
        return outputs

    def _logits(self, due: list[Due]) -> Tensor:
        """Run the model over what is due: a row of logits for each text that has been read to its end and one
        for each token guessed behind it. Log-probabilities of prompts are noted on the way."""
        ids = [i for d in due for i in (*d.text.ids[d.text.read : d.text.read + d.new], *d.guess)]
        spans = [Span(d.text.read, d.new + len(d.guess), tuple(d.text.blocks)) for d in due]
        ends = list(accumulate(span.count for span in spans))
        rows = [
            row
            for (text, new, guess), end in zip(due, ends, strict=True)
            if text.read + new == len(text.ids)
            for row in range(end - len(guess) - 1, end)
        ]
        noted = [
            (text, end - new - len(guess), end - len(guess))
            for (text, new, guess), end in zip(due, ends, strict=True)
            if text.read + 1 < text.prompt and text.sampling.prompt_log_probs is not None
        ]
        if self._native is not None and not noted and len(ids) <= self._native.most_rows:
            return self._native(ids, spans, rows)
        if self._graph is not None and not noted and (shape := self._graph.shape(spans)) is not None:
            logits_BV = self._graph(ids, spans, shape)
            return logits_BV if len(rows) == len(due) else logits_BV[rows]
        ids_1N = torch.tensor([ids], device=self.device)
        states_ND = self.model.hidden(ids_1N, self.cache.layout(spans))[0]
        for text, begin, end in noted:
            self._note_prompt(text, states_ND[begin:end])
        return self.model.logits(states_ND[rows]) if rows else states_ND[:0]

    def _masks(self, due: list[Due]) -> Future[Tensor] | None:
        """What the forms of these texts allow next, a row for each row of logits, worked out while the model
        computes; None where none has a form."""
        if self._guides is None or not any(d.text.guide for d in due):
            return None
        return self._guides.masks_soon(
            [state for d in due for state in (d.text.guide, *[None for _ in d.guess])]
        )

    def _write(self, logits_BV: Tensor, due: list[Due], masks: Tensor | None) -> list[Output]:
        """Choose the next token of these texts, and of those guessed ahead as many as are what would have
        been chosen; there is a row of logits for each and one for what follows."""
        texts = [d.text for d in due for _ in range(len(d.guess) + 1)]
        places = [place for d in due for place in range(len(d.guess) + 1)]
        samplings = [text.sampling for text in texts]
        token_B = sample(
            logits_BV,
            samplings,
            [text.seed for text in texts],
            [text.made + place for text, place in zip(texts, places, strict=True)],
            [text.counts or NO_COUNTS for text in texts],
            masks,
            tuple(self.stop_ids),
        )
        wanted = [row for row, s in enumerate(samplings) if s.log_probs is not None]
        about: dict[int, LogProbabilities] = {}
        if wanted:
            sizes = [samplings[row].log_probs or 0 for row in wanted]
            found = top_log_probs(logits_BV[wanted], token_B[wanted], sizes)
            about = dict(zip(wanted, found, strict=True))
        tokens: list[int] = token_B.tolist()
        outputs, at = list[Output](), 0
        for text, _, guess in due:
            stood = agreed(guess, tokens[at : at + len(guess)])
            self.guessed += len(guess)
            self.guessed_right += stood
            for row in range(at, at + stood + 1):
                if row in about:
                    text.held_log_probs.append(about[row])
                outputs += self._take(text, tokens[row])
                if text.finish is not None:
                    break
                if row < at + stood:  # a guess that stands has been read already
                    text.read += 1
                    self._name_blocks(text)
            at += len(guess) + 1
        return outputs

    def _note_prompt(self, text: Text, states_TD: Tensor) -> None:
        """Log-probabilities of the prompt's tokens that follow those just read."""
        following = text.ids[text.read + 1 : min(text.read + len(states_TD) + 1, text.prompt)]
        n = text.sampling.prompt_log_probs or 0
        text.prompt_log_probs += following_log_probs(self.model, states_TD[: len(following)], following, n)

    def _admit(self) -> None:
        """Let waiting texts in, first come first served, as long as their prompts find room. A text that
        could take a block which another is about to fill waits for it instead of reading the same again."""
        size = self.settings.block_size
        for text in list(self.waiting):
            if len(self.running) >= self.settings.running:
                return
            keys = self._keys(text)
            shared = list[int]()
            for key in keys:
                block = self.blocks.find(key)
                if block is None:
                    break
                shared.append(block)
            if len(shared) < len(keys) and self._coming[keys[len(shared)]]:
                continue
            kept = sum(self.blocks.users(block) == 0 for block in shared)
            needed = -(-len(text.ids) // size) - len(shared)
            # a block for each text under way besides, or what is let in now would soon be sent out again
            if self.blocks.free - kept < needed + len(self.running):
                return
            self.waiting.remove(text)
            for block in shared:
                self.blocks.share(block)
            text.blocks, text.keys, text.read = shared, keys[: len(shared)], len(shared) * size
            text.coming = keys[len(shared) :]
            self._coming.update(text.coming)
            self.reused += text.read
            longest = min(text.prompt + text.sampling.max_tokens, self.context_length)
            text.home = self.blocks.settle(-(-longest // size) - len(shared))
            self.running.append(text)

    def _keys(self, text: Text) -> list[Key]:
        """Keys of the full blocks of what a text has to read; not of its last token, which is always read,
        for what comes next."""
        if not self.settings.prefixes or text.sampling.prompt_log_probs is not None:
            return []
        keys, size = list[Key](), self.settings.block_size
        for at in range(0, len(text.ids) - size, size):
            keys.append(key_of(keys[-1] if keys else b"", text.ids[at : at + size]))
        return keys

    def _name_blocks(self, text: Text) -> None:
        """Make full blocks known by what they hold."""
        size = self.settings.block_size
        while self.settings.prefixes and (len(text.keys) + 1) * size <= text.read:
            at = len(text.keys) * size
            key = key_of(text.keys[-1] if text.keys else b"", text.ids[at : at + size])
            self.blocks.name(text.blocks[len(text.keys)], key)
            text.keys.append(key)
            if text.coming:
                self._coming[text.coming.pop(0)] -= 1

    def _due(self) -> list[Due]:
        """Texts of this step and how many of their tokens it reads: those being written first, then prompts,
        piece by piece. Each has the blocks it needs."""
        left = self.settings.step_tokens
        due: list[Due] = []
        by_need = sorted(self.running, key=lambda text: len(text.ids) - text.read > 1)
        for text in by_need:
            count = min(len(text.ids) - text.read, left)
            if count <= 0 or text not in self.running or not self._house(text, text.read + count):
                continue
            left -= count
            guess = self._guess(text, min(self.settings.speculate, left)) if count == 1 else []
            left -= len(guess)
            due.append(Due(text, count, guess))
        return [d for d in due if d.text in self.running]

    def _guess(self, text: Text, most: int) -> list[int]:
        """Tokens that may follow, as many as there is room for. A text with penalties or a form goes on token
        by token, because each changes what may follow."""
        s = text.sampling
        room = min(s.max_tokens - text.made, self.context_length - len(text.ids)) - 1
        room = min(most, room, len(text.blocks) * self.settings.block_size - len(text.ids))
        if room <= 0 or text.counts is not None or text.guide is not None or text.made < s.min_tokens:
            return []
        return propose_ngram(text.ids, room)

    def _house(self, text: Text, length: int) -> bool:
        """Give a text blocks for so many tokens; where there are none left, whoever came last gives theirs
        back. False where that is the text itself."""
        while len(text.blocks) * self.settings.block_size < length:
            block = self.blocks.allot(text.home)
            if block is not None:
                text.blocks.append(block)
                continue
            last = self.running[-1]
            self._leave(last)
            last.blocks, last.keys, last.read = [], [], 0
            self.waiting.appendleft(last)
            self.preempted += 1
            if last is text:
                return False
        return True

    def _take(self, text: Text, token: int) -> list[Output]:
        """Add a token to a text and say what can be said of it."""
        s = text.sampling
        text.ids.append(token)
        text.held_ids.append(token)
        if text.counts is not None:
            text.counts.add(token)
        if token in s.stop_ids or (token in self.stop_ids and not s.ignore_end):
            text.held += text.decoder.finish()
            return [self._end(text, "stop")]
        if text.guide is not None:
            text.guide.accept(token)
        text.held += text.decoder.push(token)
        if text.guide is not None and text.guide.stopped:
            text.held += text.decoder.finish()
            return [self._end(text, "stop")]
        at = stopped_at(text.held, s.stop)
        if at is not None:
            text.held = text.held[:at]
            return [self._end(text, "stop")]
        if text.made >= s.max_tokens or len(text.ids) > self.context_length:
            text.held += text.decoder.finish()
            return [self._end(text, "length")]
        free = len(text.held) - possible_start(text.held, s.stop)
        if not free:
            return []
        said = Output(text.request, text.index, text.held[:free], text.held_ids, None, text.held_log_probs)
        text.held, text.held_ids, text.held_log_probs = text.held[free:], [], []
        return [said]

    def _end(self, text: Text, finish: str) -> Output:
        text.finish = finish
        self._leave(text)
        return Output(
            text.request,
            text.index,
            text.held,
            text.held_ids,
            finish,
            text.held_log_probs,
            text.prompt_log_probs,
        )

    def _leave(self, text: Text) -> None:
        """Take a text out of the batch and give its blocks back, the last first, so that beginnings, which
        others may share, are kept longest."""
        if text in self.running:
            self.running.remove(text)
            self._coming.subtract(text.coming)
            self._coming += Counter()  # what nobody fills any more is forgotten
            text.coming = []
            for block in reversed(text.blocks):
                self.blocks.release(block)
            self.blocks.leave(text.home)
            text.home = range(0)

    def complete(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, or n for each in a row. A seed means the same for every prompt."""
        first = self._next
        for prompt in prompts:
            self.submit(prompt, sampling)
        n = sampling.n
        texts, ids = [""] * (len(prompts) * n), [list[int]() for _ in range(len(prompts) * n)]
        finished = [""] * len(texts)
        while self.busy:
            for output in self.step():
                place = (output.request - first) * n + output.index
                texts[place] += output.text
                ids[place] += output.ids
                finished[place] = output.finish or ""
        return [Completion(*one) for one in zip(texts, ids, finished, strict=True)]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Output]:
        """The outputs of one request as they come; closing the iterator ends it."""
        request = self.submit(prompt, sampling)
        left = sampling.n
        try:
            while left:
                for output in self.step():
                    if output.request == request:
                        left -= output.finish is not None
                        yield output
        finally:
            self.cancel(request)
