"""Sinusoids and ALiBi are those of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

from sishu.nn.layout import Layout, attend
from sishu.nn.positions import alibi_slopes, sinusoids


@pytest.mark.parametrize("width", [4, 64, 130])
def test_sinusoids(width: int) -> None:
    table = torch.empty(300, width)
    create_sinusoidal_embeddings(300, width, table)
    positions = torch.tensor([[0, 1, 299], [7, 100, 8]])
    # theirs is worked out in float64 and ours in float32, whose angles are of up to 300 radians
    torch.testing.assert_close(sinusoids(positions, width), table.detach()[positions], atol=3e-5, rtol=0)


def test_sinusoids_of_an_odd_width() -> None:
    positions = torch.arange(5)[None]
    torch.testing.assert_close(sinusoids(positions, 7)[..., :2], sinusoids(positions, 8)[..., :2])
    assert sinusoids(positions, 7).shape == (1, 5, 7)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 20])
def test_alibi_weighs_distances_as_bloom_does(heads: int) -> None:
    """Bloom adds slope · position of the key, which is the same after the softmax."""
    T, K = 7, 4
    theirs = build_alibi_tensor(torch.ones(1, T), heads, torch.float32).view(1, heads, 1, T)
    q, k, v = torch.randn(3, 1, heads, T, K, generator=torch.Generator().manual_seed(0)).unbind()
    causal = torch.full((T, T), -torch.inf).triu(1)
    expected = (q @ k.mT / K**0.5 + theirs + causal).softmax(-1) @ v
    layout = Layout.plain(T, q.device)
    torch.testing.assert_close(layout.attend(0, q, k, v, slopes_H=alibi_slopes(heads)), expected)
    assert (attend(q, k, v, None, causal=True) - expected).abs().max() > 1e-3


def test_alibi_and_a_window() -> None:
    T, K, heads = 7, 4, 2
    q, k, v = torch.randn(3, 1, heads, T, K, generator=torch.Generator().manual_seed(0)).unbind()
    distance = torch.arange(T)[:, None] - torch.arange(T)[None]
    bias = -distance * alibi_slopes(heads)[:, None, None]
    bias = bias.masked_fill((distance < 0) | (distance >= 3), -torch.inf)
    expected = (q @ k.mT / K**0.5 + bias).softmax(-1) @ v
    layout = Layout.plain(T, q.device)
    torch.testing.assert_close(layout.attend(0, q, k, v, 3, alibi_slopes(heads)), expected)
    # and the same layout still answers a layer without either
    torch.testing.assert_close(layout.attend(1, q, k, v), attend(q, k, v, None, causal=True))
