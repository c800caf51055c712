"""Held-out loss against one forward pass per token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sishu.models.decoder import Decoder, DecoderConfig
from sishu.train.held_out import bits_per_byte, held_out_nats

CONTEXT, BOS = 8, 0


@pytest.fixture(scope="module")
def short_decoder(tiny_config: DecoderConfig) -> Decoder:
    torch.manual_seed(1)
    config = DecoderConfig(50, 16, 1, 2, 1, 8, 32, CONTEXT)
    decoder = Decoder(config)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return decoder.eval()


def row(length: int) -> np.ndarray:
    tokens = np.random.default_rng(length).integers(1, 50, length).astype(np.uint16)
    tokens[0] = BOS
    tokens[5::7] = BOS
    return tokens


@torch.no_grad()
def slow(model: Decoder, tokens: np.ndarray, stride: int) -> tuple[float, int]:
    """Each token from the first window that reaches it, one forward pass each."""
    nats, count, n = 0.0, 0, len(tokens)
    length = min(CONTEXT, n - 1)
    for at in range(1, n):
        if tokens[at] == BOS:
            continue
        start = 0
        while start + length < at:
            start += stride
        start = min(start, n - 1 - length)
        past = torch.from_numpy(tokens[start:at].astype(np.int64))[None]
        nats -= float(model(past)[0, -1].log_softmax(-1)[int(tokens[at])])
        count += 1
    return nats, count


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("length", [2, 5, 8, 9, 10, 17, 33, 40])
@pytest.mark.parametrize("batch", [3])
def test_every_token_counts_once(short_decoder: Decoder, stride: int, length: int, batch: int) -> None:
    tokens = row(length)
    nats, count = held_out_nats(short_decoder, tokens, BOS, stride=stride, precision="fp32", batch=batch)
    expected, expected_count = slow(short_decoder, tokens, stride)
    assert count == expected_count == int((tokens[1:] != BOS).sum())
    assert nats == pytest.approx(expected, abs=1e-3 * max(1, count) ** 0.5)


def test_the_batch_size_changes_nothing(short_decoder: Decoder) -> None:
    one, many = (
        held_out_nats(short_decoder, row(60), BOS, stride=4, precision="fp32", batch=b) for b in (1, 16)
    )
    assert one[1] == many[1] and one[0] == pytest.approx(many[0], rel=1e-6)


@pytest.mark.parametrize("tokens", [np.array([], np.uint16), np.array([BOS], np.uint16)])
def test_nothing_to_predict_is_nothing(short_decoder: Decoder, tokens: np.ndarray) -> None:
    assert held_out_nats(short_decoder, tokens, BOS, stride=4, precision="fp32") == (0.0, 0)


def test_bits_per_byte() -> None:
    assert bits_per_byte(math.log(2) * 24, 3) == pytest.approx(8.0)
    uniform = 5 * math.log(256)  # five bytes under a uniform model of bytes
    assert bits_per_byte(uniform, 5) == pytest.approx(8.0)


def test_separate_documents_are_read_as_each_alone(tiny_decoder: Decoder) -> None:
    rng = np.random.default_rng(1)
    documents = [np.array([BOS, *rng.integers(6, 320, size)], dtype=np.uint16) for size in (9, 1, 40, 25)]
    whole = np.concatenate(documents)
    nats, count = held_out_nats(tiny_decoder, whole, BOS, stride=64, precision="fp32", separate=True)
    alone = [held_out_nats(tiny_decoder, d, BOS, stride=64, precision="fp32") for d in documents]
    assert nats == pytest.approx(sum(n for n, _ in alone), rel=1e-5)
    assert count == sum(c for _, c in alone) == len(whole) - 4
    across, same = held_out_nats(tiny_decoder, whole, BOS, stride=64, precision="fp32")
    assert same == count and abs(across - nats) > 1e-2
