"""A text under way: what was asked, what has been written, and where its keys and values lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sishu.generate.blocks import Key
from sishu.generate.log_probabilities import LogProbabilities
from sishu.generate.penalties import TokenCounts
from sishu.generate.sampling import Sampling
from sishu.generate.structured import GuideState
from sishu.tokenizer.tokenizer import StreamDecoder


@dataclass(frozen=True)
class BatchSettings:
    """How much is worked on at once."""

    running: int = 32
    """Texts written at the same time; others wait."""
    step_tokens: int = 512
    """Tokens that go through the model in one step, prompts included."""
    cache_tokens: int = 0
    """Positions that the cache holds; 0: as many as `running` texts of 1,024 tokens need, or one of the
    model's whole context where that is more."""
    block_size: int = 32
    prefixes: bool = True
    """Whether texts that begin alike share what is alike."""
    speculate: int = 0
    """Tokens that are guessed ahead, where the last words stood in the text before; the answer stays what it
    is, in fewer passes of the model."""


@dataclass(frozen=True)
class Output:
    """What a step added to a text; `finish` ("stop" or "length") is set on the last one."""

    request: int
    index: int
    """Which of the request's n samples."""
    text: str
    ids: list[int]
    finish: str | None = None
    log_probs: list[LogProbabilities] = field(default_factory=list)
    """Of `ids`, where the request asked for them."""
    prompt_log_probs: list[LogProbabilities] = field(default_factory=list)
    """Of the prompt's second token and those after it, told with the last output, where asked for."""


@dataclass
class Text:
    """A text under way: its prompt, what was written, and where its keys and values lie."""

    request: int
    index: int
    sampling: Sampling
    seed: int
    prompt: int
    """Tokens of `ids` that were given."""
    ids: list[int]
    decoder: StreamDecoder
    read: int = 0
    """Tokens of `ids` whose keys and values the cache holds."""
    blocks: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    """Of the full blocks, in order."""
    coming: list[Key] = field(default_factory=list)
    """Of the blocks that it will fill from what it has to read, in order."""
    home: range = range(0)
    held: str = ""
    """Text that may begin a stop string."""
    held_ids: list[int] = field(default_factory=list)
    held_log_probs: list[LogProbabilities] = field(default_factory=list)
    counts: TokenCounts | None = None
    guide: GuideState | None = None
    prompt_log_probs: list[LogProbabilities] = field(default_factory=list)
    """Of the prompt's second token and those after it."""
    finish: str | None = None

    @property
    def made(self) -> int:
        return len(self.ids) - self.prompt


class Due(NamedTuple):
    """What a step reads of a text: `new` tokens that stand, and a guess at those that follow."""

    text: Text
    new: int
    guess: list[int]
