"""Do transformers and sishu see the same models in a run? Logits, ids, and rendered conversations.

Claims: `AutoModelForCausalLM` loads base, SFT and PPO with logits within 1e-4 of ours in float32, and
`AutoModelForSequenceClassification` the reward model; `AutoTokenizer` gives our ids, `apply_chat_template`
our rendering, on the run's own held-out conversations.

    python benchmarks/same_as_transformers.py runs/quickstart
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from sishu.batches.conversations import read_conversations
from sishu.models.folder import load_decoder, load_scorer
from sishu.tokenizer.tokenizer import Tokenizer


def contexts(talks: list[dict[str, Any]], tokenizer: Tokenizer) -> list[torch.Tensor]:
    """Eight conversations and eight rows of chance, (1, T) each."""
    encoded = [tokenizer.encode_conversation(talk["messages"]).ids for talk in talks[:8]]
    drawn = torch.Generator().manual_seed(0)
    noise = torch.randint(0, tokenizer.vocabulary_size, (8, 200), generator=drawn)
    return [torch.tensor([ids]) for ids in encoded] + list(noise[:, None])


@torch.no_grad()
def logits_apart(folder: Path, talks: list[dict[str, Any]]) -> float:
    ours, tokenizer = load_decoder(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = contexts(talks, tokenizer)
    return max(float((theirs(ids).logits - ours(ids)).abs().max()) for ids in rows)


@torch.no_grad()
def rewards_apart(folder: Path, talks: list[dict[str, Any]]) -> float:
    ours, tokenizer = load_scorer(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = [ids for ids in contexts(talks, tokenizer) if not (ids == tokenizer.pad).any()]
    return max(float((theirs(ids).logits[0, 0] - ours(ids)[0, -1]).abs()) for ids in rows)


def texts_apart(folder: Path, talks: list[dict[str, Any]]) -> tuple[int, int]:
    """Messages with other ids, conversations rendered otherwise."""
    tokenizer, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    messages = [message["content"] for talk in talks for message in talk["messages"]]
    ids = sum(theirs.encode(m, add_special_tokens=False) != tokenizer.encode(m) for m in messages)
    rendered = sum(
        theirs.apply_chat_template(talk["messages"], return_dict=False)
        != tokenizer.encode_conversation(talk["messages"]).ids
        for talk in talks
    )
    return ids, rendered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    talks = read_conversations(run / "sft" / "conversations-validation.jsonl")[:200]
    print("| model | largest difference | messages with other ids | other renderings |\n|---|---|---|---|")
    for stage in ("pretrain", "sft", "ppo"):
        folder = run / stage / "model"
        ids, rendered = texts_apart(folder, talks)
        print(f"| {stage} | {logits_apart(folder, talks):.1e} | {ids} | {rendered} |")
    ids, rendered = texts_apart(run / "reward" / "model", talks)
    print(f"| reward | {rewards_apart(run / 'reward' / 'model', talks):.1e} | {ids} | {rendered} |")


if __name__ == "__main__":
    main()
