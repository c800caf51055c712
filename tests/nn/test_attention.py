"""Attention against torch's own, and with a cache against without one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sishu.nn.attention import Attention, LayerCache
from sishu.nn.rotary import rotary_table

WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, LONGEST = 24, 4, 2, 6, 12
COS, SIN = rotary_table(LONGEST, HEAD_WIDTH, 10_000.0)


def attention() -> Attention:
    torch.manual_seed(0)
    module = Attention(WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, 1e-6)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return module.eval()


def inputs(rows: int, length: int) -> Tensor:
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(1))


def slow(module: Attention, x_TD: Tensor) -> Tensor:
    """One row, head by head and position by position, with complex numbers for the rotation."""
    T = len(x_TD)
    angles = torch.outer(
        torch.arange(T).double(), 10_000.0 ** (-torch.arange(0, HEAD_WIDTH, 2).double() / HEAD_WIDTH)
    )

    def turned(x_TK: Tensor, weight: Tensor) -> Tensor:
        x_TK = x_TK / (x_TK.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight
        half = HEAD_WIDTH // 2
        z = torch.complex(x_TK[:, :half].double(), x_TK[:, half:].double()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.cat((z.real, z.imag), -1).float()

    heads = []
    for h in range(HEADS):
        g = h // (HEADS // KV_HEADS)
        rows, group = slice(h * HEAD_WIDTH, (h + 1) * HEAD_WIDTH), slice(g * HEAD_WIDTH, (g + 1) * HEAD_WIDTH)
        q = turned(x_TD @ module.query.weight[rows].T, module.query_norm.weight)
        k = turned(x_TD @ module.key.weight[group].T, module.key_norm.weight)
        v = x_TD @ module.value.weight[group].T
        outs = []
        for t in range(T):
            p = (k[: t + 1] @ q[t] / HEAD_WIDTH**0.5).softmax(0)
            outs.append(p @ v[: t + 1])
        heads.append(torch.stack(outs))
    return torch.cat(heads, -1) @ module.output.weight.T


@torch.no_grad()
def test_it_is_the_textbook_attention() -> None:
    module, x = attention(), inputs(2, 9)
    ours = module(x, (COS[None, :9], SIN[None, :9]))
    for row in range(2):
        torch.testing.assert_close(ours[row], slow(module, x[row]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_later_position_changes_no_earlier_one() -> None:
    module, x = attention(), inputs(1, 9)
    rotary = (COS[None, :9], SIN[None, :9])
    before = module(x, rotary)
    x[:, 6] += 1.0
    after = module(x, rotary)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=0)
    assert (before[:, 6:] - after[:, 6:]).abs().min() > 1e-6


@torch.no_grad()
def test_the_cache_holds_each_row_at_its_own_positions() -> None:
    """Rows of 7 and 4 positions are prefilled together and then go on one by one."""
    module, x = attention(), inputs(2, LONGEST)
    lengths = torch.tensor([7, 4])
    shape = (2, KV_HEADS, LONGEST, HEAD_WIDTH)
    cache = LayerCache(torch.zeros(shape), torch.zeros(shape))
    garbage = x[:, :7].clone()
    garbage[1, 4:] = 99.0  # right padding: written to the cache, overwritten before it is seen
    at = torch.arange(7).expand(2, -1)
    first = module(garbage, (COS[at], SIN[at]), at, cache)
    whole = module(x, (COS[None], SIN[None]))
    torch.testing.assert_close(first[0], whole[0, :7], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first[1, :4], whole[1, :4], atol=1e-5, rtol=1e-5)
    for step in range(5):
        at = (lengths + step)[:, None]
        new = torch.stack([x[row, at[row, 0]] for row in range(2)])[:, None]
        y = module(new, (COS[at], SIN[at]), at, cache)
        for row in range(2):
            torch.testing.assert_close(y[row, 0], whole[row, at[row, 0]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_relative_positions_matter() -> None:
    """Rotary positions: the same states three places later give the same output."""
    module, x = attention(), inputs(1, 5)
    here = module(x, (COS[None, :5], SIN[None, :5]))
    there = module(x, (COS[None, 3:8], SIN[None, 3:8]))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    assert F.cosine_similarity(COS[0], COS[5], dim=0) < 0.99
