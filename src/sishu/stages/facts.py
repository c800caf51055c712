"""What a plan starts from: the recipe's settings, and what only the data tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sishu.batches.conversations import encode_all, read_conversations
from sishu.run import Run
from sishu.stages.continue_pretrain import ContinuePretrainSettings
from sishu.stages.ppo import PpoSettings
from sishu.stages.pretrain import PretrainSettings
from sishu.stages.reward import RewardSettings
from sishu.stages.sft import SftSettings
from sishu.stages.tokenizer import TokenizerSettings, ready_tokenizer
from sishu.tokenizer.characters import BYTES_AND_SPECIAL
from sishu.tokenizer.tokenizer import Tokenizer


class Road(Protocol):
    """The part of a recipe that decides the work."""

    @property
    def stages(self) -> list[str]: ...
    @property
    def price_per_hour(self) -> float | None: ...
    @property
    def tensor_parallel(self) -> int: ...
    @property
    def tokenizer(self) -> TokenizerSettings: ...
    @property
    def pretrain(self) -> PretrainSettings: ...
    @property
    def continue_pretrain(self) -> ContinuePretrainSettings: ...
    @property
    def sft(self) -> SftSettings: ...
    @property
    def reward(self) -> RewardSettings: ...
    @property
    def ppo(self) -> PpoSettings: ...


@dataclass(frozen=True)
class Facts:
    """What only the data tells; measured where a run has it, else assumed. Lengths in tokens."""

    vocabulary: int = 32_768
    corpus_tokens: int | None = None
    domain_tokens: int = 1_000_000
    """Of the text that a model goes on with, in its own tokens."""
    conversations: int = 10_000
    """Conversations to learn from."""
    prompt: int = 24
    """Mean length of a question."""
    row: int = 50
    """Mean length of a conversation."""
    longest: int = 100
    """Length of the longest conversation."""
    assumed: tuple[str, ...] = ()
    """What of all this was assumed."""
    seconds: Mapping[str, float] | None = None
    """Measured working time of the run's finished stages."""


def gather_facts(road: Road, run: Run | None) -> Facts:
    """What a run's finished stages tell of the data; the rest assumed, and said so."""
    made = {name: run.manifest(name) if run else None for name in (*road.stages, "corpus", "tokenizer")}
    figures = {name: m["figures"] for name, m in made.items() if m is not None}
    f, assumed, wanted = Facts(), [], road.tokenizer
    vocabulary = figures.get("tokenizer", {}).get("vocabulary")
    if wanted.ready is not None:
        vocabulary = ready_tokenizer(wanted.ready).vocabulary_size
    elif wanted.vocabulary is not None:
        vocabulary = wanted.vocabulary
    elif vocabulary is None and wanted.kind == "characters":
        vocabulary = BYTES_AND_SPECIAL
        assumed.append(f"a vocabulary of {vocabulary:,}, that of ASCII's characters (tokenizer.vocabulary)")
    elif vocabulary is None and open_model(road) is None:
        assumed.append(f"a vocabulary of {f.vocabulary:,}, the largest derived (tokenizer.vocabulary)")
    corpus = figures.get("pretrain", {}).get("train_tokens")
    if corpus is None and "tokenizer" in figures and "corpus" in figures:
        per_token, each = figures["tokenizer"]["bytes_per_token"], figures["tokenizer"]["baselines"]
        corpus = round(figures["corpus"]["train"]["characters"] * each["characters"] / per_token)
    if "continue_pretrain" in road.stages:
        f, told = _domain(road, f, figures)
        assumed += told
    if run is not None and "sft" in figures and "tokenizer" in figures:
        tokenizer = Tokenizer.load(run.folder / "tokenizer")
        items = read_conversations(run.folder / "sft" / "conversations-train.jsonl")[:256]
        rows = [len(r.ids) for r in encode_all(items, tokenizer, road.pretrain.model.context_length)]
        asked = [len(tokenizer.encode_conversation(i["messages"][:-1], True).ids) for i in items]
        f = replace(
            f,
            conversations=figures["sft"]["conversations"],
            prompt=round(sum(asked) / len(asked)),
            row=round(sum(rows) / max(1, len(rows))),
            longest=max(rows, default=f.longest),
        )
    elif {"sft", "reward", "ppo"} & set(road.stages):
        assumed.append(
            f"{f.conversations:,} conversations of {f.row} tokens, at most {f.longest}, questions {f.prompt}"
        )
    seconds = {name: m["seconds"] for name, m in made.items() if m is not None}
    return replace(
        f,
        vocabulary=vocabulary or f.vocabulary,
        corpus_tokens=corpus,
        assumed=tuple(assumed),
        seconds=seconds,
    )


def open_model(road: Road) -> Path | None:
    """Where the model is that the road goes on with, if it begins with one from outside."""
    return road.continue_pretrain.model if "continue_pretrain" in road.stages else None


def _domain(road: Road, f: Facts, figures: Mapping[str, dict[str, Any]]) -> tuple[Facts, list[str]]:
    """How much text there is to go on with, and what of that was assumed."""
    if "continue_pretrain" in figures:
        return replace(f, domain_tokens=figures["continue_pretrain"]["train_tokens"]["domain"]), []
    if road.continue_pretrain.train.steps is not None:
        return f, []
    if "corpus" not in figures:
        return f, [f"{f.domain_tokens:,} tokens of text to go on with (continue_pretrain.train.steps)"]
    tokens = figures["corpus"]["train"]["characters"] // 4
    return replace(f, domain_tokens=tokens), ["four characters a token of the text to go on with"]
