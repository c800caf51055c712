"""How fast a model writes on this machine, and how fast it could at most."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sishu.generate.batching import BatchingEngine, BatchSettings
from sishu.generate.quantise import Weights, ready, weight_bytes
from sishu.generate.sampling import Sampling
from sishu.models.decoder import Decoder
from sishu.tokenizer.tokenizer import Tokenizer

LOOKED_AT = 1 << 28
"""Bytes that are read to measure the memory: more than any processor's caches hold."""


@dataclass(frozen=True)
class Speed:
    """What was measured of one model; tokens a second."""

    weights: Weights
    megabytes: float
    """Read for every token."""
    seconds_to_load: float
    prefill: float
    decode: float
    bound: float
    """What decoding could reach if it did nothing but read the weights."""
    together: float
    """Of all texts when several are written at once."""


def memory_bandwidth(tries: int = 5) -> float:
    """Bytes a second that torch's threads read from memory: the best of a few sums over a large tensor."""
    numbers = torch.ones(LOOKED_AT // 4)
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - started)
    return LOOKED_AT / best


def measure(
    load: Callable[[], tuple[Decoder, Tokenizer]],
    weights: Weights,
    prompt: int = 512,
    new: int = 64,
    texts: int = 8,
    tries: int = 3,
) -> Speed:
    """Measure a model that `load` opens: the best of a few tries each. Prompts are random tokens, of which
    none shares its beginning with another."""
    started = time.perf_counter()
    model, tokenizer = load()
    ready(model, weights)
    loaded = time.perf_counter() - started
    bytes_a_token = weight_bytes(model)
    new = min(new, model.config.context_length // 2)
    prompt = min(prompt, model.config.context_length - new)

    def engine(running: int) -> BatchingEngine:
        room = running * (prompt + new + 32)
        settings = BatchSettings(running=running, step_tokens=prompt, cache_tokens=room, prefixes=False)
        return BatchingEngine(model, tokenizer, settings)

    prefills, decodes, both = list[float](), list[float](), list[float]()
    for number in range(tries):
        prefills.append(prompt / _seconds(engine(1), [_random(prompt, model, number)], 1))
        decodes.append(_rate(engine(1), [_random(8, model, number)], new))
        some = [_random(8, model, 100 * number + text) for text in range(texts)]
        both.append(_rate(engine(texts), some, new))
    bound = memory_bandwidth() / bytes_a_token if model.embedding.weight.device.type == "cpu" else 0.0
    return Speed(weights, bytes_a_token / 1e6, loaded, max(prefills), max(decodes), bound, max(both))


def _random(length: int, model: Decoder, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(model.config.vocabulary) for _ in range(length)]


def _seconds(engine: BatchingEngine, prompts: Sequence[Sequence[int]], new: int) -> float:
    started = time.perf_counter()
    engine.complete(prompts, Sampling(max_tokens=new, temperature=0.0, ignore_end=True))
    return time.perf_counter() - started


def _rate(engine: BatchingEngine, prompts: Sequence[Sequence[int]], new: int) -> float:
    """Tokens a second once all prompts have been read."""
    for prompt in prompts:
        engine.submit(prompt, Sampling(max_tokens=new + 1, temperature=0.0, ignore_end=True))
    engine.step()
    made, started = 0, time.perf_counter()
    while engine.busy:
        made += sum(len(output.ids) for output in engine.step())
    return made / (time.perf_counter() - started)
