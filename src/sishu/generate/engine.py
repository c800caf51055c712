"""The engine: prompts in, text out, with a key-value cache and rows of different lengths in one batch."""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sishu.generate.sampling import Sampling, choose
from sishu.generate.stops import possible_start, stopped_at
from sishu.models.decoder import Decoder
from sishu.models.open import open_decoder
from sishu.nn.cache import StaticCache
from sishu.nn.device import best_device
from sishu.tokenizer.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "Piece", "Sampling"]


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer as it is made; `finish` ("stop" or "length") is set on the last one."""

    text: str
    ids: list[int]
    finish: str | None = None


@dataclass(frozen=True)
class Completion:
    """A whole answer. `ids` holds what was generated, with the token that ended it, if one did."""

    text: str
    ids: list[int]
    finish: str


class Engine:
    """A decoder with its tokenizer, ready to generate. Not thread-safe: one call at a time."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context_length = model.config.context_length
        self.stop_ids = tokenizer.stop_ids

    @classmethod
    def load(cls, path: Path) -> Engine:
        """Open a model's folder or GGUF file on the best device; raises UserError when it is missing or
        broken."""
        model, tokenizer = open_decoder(path)
        return cls(model.to(best_device()), tokenizer)

    def complete(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, all in one batch; a row ends with the token that completes one of its
        stop strings."""
        ids: list[list[int]] = [[] for _ in prompts]
        decoders = [self.tokenizer.stream_decoder() for _ in prompts]
        texts = [""] * len(prompts)
        stopped: set[int] = set()
        for row, token in self._tokens(prompts, sampling, stopped):
            ids[row].append(token)
            if sampling.stop:
                texts[row] += decoders[row].push(token)
                if stopped_at(texts[row], sampling.stop) is not None:
                    stopped.add(row)
        return [self._complete_one(row, sampling) for row in ids]

    def _complete_one(self, ids: list[int], sampling: Sampling) -> Completion:
        ended = bool(ids) and ids[-1] in self.stop_ids
        text = self.tokenizer.decode(ids)
        at = stopped_at(text, sampling.stop)
        if at is not None:
            return Completion(text[:at], ids, "stop")
        return Completion(text, ids, "stop" if ended else "length")

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """Pieces of one answer as they are made; text that may begin a stop string is held back until it
        is known not to. Closing the iterator stops the work."""
        decoder = self.tokenizer.stream_decoder()
        held = ""
        ids: list[int] = []
        for _, token in self._tokens([prompt], sampling):
            if token in self.stop_ids:
                yield Piece(held + decoder.finish(), [*ids, token], "stop")
                return
            held += decoder.push(token)
            ids.append(token)
            at = stopped_at(held, sampling.stop)
            if at is not None:
                yield Piece(held[:at], ids, "stop")
                return
            free = len(held) - possible_start(held, sampling.stop)
            if free:
                yield Piece(held[:free], ids)
                held, ids = held[free:], []
        yield Piece(held + decoder.finish(), ids, "length")

    @torch.inference_mode()
    def _tokens(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stopped: Container[int] = ()
    ) -> Iterator[tuple[int, int]]:
        """(row, token) as they are drawn. A row ends with a stop token, at `max_tokens`, at the end of the
        context, or when the caller, given a token, has put it into `stopped`."""
        longest = max(map(len, prompts))
        if not all(prompts):
            raise ValueError("a prompt needs at least one token")
        if longest > self.context_length:
            raise ValueError(f"a prompt of {longest} tokens exceeds the context of {self.context_length}")
        device = self.model.embedding.weight.device
        generator = torch.Generator().manual_seed(
            secrets.randbits(63) if sampling.seed is None else sampling.seed
        )
        B, V = len(prompts), self.model.config.vocabulary
        length = min(self.context_length, longest + sampling.max_tokens)
        lengths_B = torch.tensor([len(p) for p in prompts], device=device)
        seen_BV: Tensor | None = None
        if sampling.repetition_penalty != 1.0:
            seen_BV = torch.zeros(B, V, dtype=torch.bool, device=device)
            for row, prompt in enumerate(prompts):  # row by row: padding is not part of the text
                seen_BV[row, torch.tensor(list(prompt), device=device)] = True
        last_BD, cache = self._read(prompts, length)
        alive = [sampling.max_tokens > 0 and len(p) < length + 1 for p in prompts]
        made = [0] * B
        rows = list(range(B))  # prompts still in the batch
        while any(alive):
            # one draw for every prompt, so that a seed means the same whichever rows have ended
            draws = torch.rand(B, generator=generator, dtype=torch.float64)[rows]
            token_B = choose(self.model.logits(last_BD), sampling, draws.to(device), seen_BV)
            for row, token in zip(rows, token_B.tolist(), strict=True):
                if not alive[row]:
                    continue
                made[row] += 1
                full = len(prompts[row]) + made[row] >= self.context_length + 1
                alive[row] = token not in self.stop_ids and made[row] < sampling.max_tokens and not full
                yield row, token
                if row in stopped:
                    alive[row] = False
            if not any(alive):
                return
            if seen_BV is not None:
                seen_BV.scatter_(1, token_B[:, None], True)
            if 2 * sum(alive) <= len(rows):  # let go of the rows that have ended
                kept = torch.tensor([i for i, row in enumerate(rows) if alive[row]], device=device)
                rows = [row for row in rows if alive[row]]
                token_B, lengths_B = token_B[kept], lengths_B[kept]
                cache = cache.rows(kept)
                seen_BV = None if seen_BV is None else seen_BV[kept]
            position_B1 = lengths_B.clamp(max=length - 1)[:, None]
            last_BD = self.model.hidden(token_B[:, None], cache.layout(position_B1))[:, 0]
            lengths_B = lengths_B + torch.tensor([alive[row] for row in rows], device=device)

    def _read(self, prompts: Sequence[Sequence[int]], length: int) -> tuple[Tensor, StaticCache]:
        """What each prompt ends in, (B, D), and a cache of `length` that holds it. A prompt that is asked
        more than once is read once."""
        device = self.model.embedding.weight.device
        different = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        U, longest = len(different), max(map(len, different))
        ids_UT = torch.full((U, longest), self.tokenizer.pad, dtype=torch.long)
        for prompt, row in different.items():
            ids_UT[row, : len(prompt)] = torch.tensor(prompt)
        cache = self.model.new_cache(U, length)
        positions_UT = torch.arange(longest, device=device).expand(U, -1)
        x_UTD = self.model.hidden(ids_UT.to(device), cache.layout(positions_UT))
        of_B = torch.tensor([different[tuple(prompt)] for prompt in prompts], device=device)
        last_BD = x_UTD[of_B, torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)]
        if len(prompts) > U:
            cache = cache.rows(of_B)
        return last_BD, cache
