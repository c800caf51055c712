"""What the scaling laws say about a model, its corpus and its training."""

from __future__ import annotations

import math

from sishu.models.decoder import DecoderConfig
from sishu.stages.facts import Facts, Road
from sishu.stages.forecast import StagePlan
from sishu.stages.shape import ModelSettings, derive_shape
from sishu.stages.units import si


def chinchilla(flops: float) -> tuple[float, float]:
    """Parameters and tokens that spend `flops` best: 20 tokens a parameter, so both grow with C^0.5
    (Hoffmann et al. 2022, arXiv:2203.15556, from C = 6·N·D)."""
    parameters = math.sqrt(flops / 120)
    return parameters, 20 * parameters


def effective_tokens(unique: float, passes: float) -> float:
    """New tokens that `passes` over `unique` ones are worth (Muennighoff et al. 2023, arXiv:2305.16264,
    with their R* = 15.39): four passes nearly four times, endless ones 16 times."""
    if passes <= 1:
        return unique * passes
    return unique * (1 + 15.39 * (1 - math.exp(-(passes - 1) / 15.39)))


def deepest(m: ModelSettings, vocabulary: int, tokens: float) -> int | None:
    """The largest depth whose model has 20 tokens a parameter, None when the smallest has not."""
    best = None
    for depth in range(1, 129):
        c, _ = derive_shape(m.model_copy(update={"depth": depth}), vocabulary)
        if 20 * c.parameters() > tokens:
            break
        best = depth
    return best


def advice(road: Road, f: Facts, c: DecoderConfig, stage: StagePlan) -> list[str]:
    """What the scaling laws say about a pretraining stage, each sentence with its source."""
    n, inner = c.parameters(), c.parameters(embedding=False)
    best, tokens = chinchilla(stage.flops.products + stage.flops.attention)
    said = [
        f"{stage.tokens / n:.1f} tokens per parameter; compute-optimal is about 20, that is {si(best)} "
        f"parameters on {si(tokens)} tokens for the same FLOPs; both grow with C^0.5 (Hoffmann et al. 2022, "
        "arXiv:2203.15556, fitted from 70M parameters up).",
        f"{stage.tokens / inner:.1f} tokens per parameter outside the embedding; nanochat trains on 12.",
    ]
    if f.corpus_tokens is None:
        said.append(
            f"The corpus is unknown: 20 tokens a parameter are {si(20 * n)}; with four passes {si(5 * n)} "
            "suffice. Give the run's folder when its tokenizer is made."
        )
        return said
    passes = stage.tokens / f.corpus_tokens
    worth = effective_tokens(f.corpus_tokens, passes)
    depth = deepest(road.pretrain.model, f.vocabulary, effective_tokens(f.corpus_tokens, 4))
    fitting = f"up to model.depth={depth}" if depth else "none, not even model.depth=1: find more text"
    said += [
        f"{passes:.1f} passes over {si(f.corpus_tokens)} tokens, worth {si(worth)} new ones: up to 4 "
        "passes are nearly as good as new text, beyond 16 little is gained (Muennighoff et al. 2023, "
        "arXiv:2305.16264).",
        f"Models with 20 tokens a parameter within 4 passes over this corpus: {fitting}.",
    ]
    return said
