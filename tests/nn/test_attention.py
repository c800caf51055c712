"""Attention against the textbook's, and what its masks let through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sishu.nn.attention import Attention
from sishu.nn.cache import StaticCache
from sishu.nn.layout import Layout
from sishu.nn.rotary import rotary_angles, rotary_frequencies

WIDTH, HEADS, HEAD_WIDTH, LONGEST = 24, 4, 6, 12
FREQUENCIES = rotary_frequencies(HEAD_WIDTH, 10_000.0)


def attention(kv_heads: int = 2, **more: object) -> Attention:
    torch.manual_seed(0)
    module = Attention(WIDTH, HEADS, kv_heads, HEAD_WIDTH, 1e-6, **({"qk_norm": True} | more))
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return module.eval()


def inputs(rows: int, length: int) -> Tensor:
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(1))


def run(module: Attention, x_BTD: Tensor, layout: Layout | None = None) -> Tensor:
    layout = layout or Layout.plain(x_BTD.shape[1], x_BTD.device)
    return module(x_BTD, 0, layout, rotary_angles(layout.positions_BT, FREQUENCIES))


def slow(module: Attention, x_TD: Tensor) -> Tensor:
    """One row, head by head and position by position, with complex numbers for the rotation."""
    T = len(x_TD)
    angles = torch.outer(
        torch.arange(T).double(), 10_000.0 ** (-torch.arange(0, HEAD_WIDTH, 2).double() / HEAD_WIDTH)
    )

    def turned(x_TK: Tensor, norm: torch.nn.Module | None) -> Tensor:
        if norm is not None:
            x_TK = x_TK / (x_TK.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
        half = HEAD_WIDTH // 2
        z = torch.complex(x_TK[:, :half].double(), x_TK[:, half:].double()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.cat((z.real, z.imag), -1).float()

    def bias(linear: torch.nn.Linear, rows: slice) -> Tensor | float:
        return 0.0 if linear.bias is None else linear.bias[rows]

    heads = []
    for h in range(HEADS):
        g = h // (HEADS // module.kv_heads)
        rows, group = slice(h * HEAD_WIDTH, (h + 1) * HEAD_WIDTH), slice(g * HEAD_WIDTH, (g + 1) * HEAD_WIDTH)
        q = turned(x_TD @ module.query.weight[rows].T + bias(module.query, rows), module.query_norm)
        k = turned(x_TD @ module.key.weight[group].T + bias(module.key, group), module.key_norm)
        v = x_TD @ module.value.weight[group].T + bias(module.value, group)
        outs = []
        for t in range(T):
            first = 0 if module.window is None else max(0, t + 1 - module.window)
            p = (k[first : t + 1] @ q[t] / HEAD_WIDTH**0.5).softmax(0)
            outs.append(p @ v[first : t + 1])
        heads.append(torch.stack(outs))
    return torch.cat(heads, -1) @ module.output.weight.T + bias(module.output, slice(None))


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    "more", [{}, {"qk_norm": False, "bias": True, "output_bias": True}, {"window": 4}], ids=str
)
def test_it_is_the_textbook_attention(kv_heads: int, more: dict[str, object]) -> None:
    module, x = attention(kv_heads, **more), inputs(2, 9)
    ours = run(module, x)
    for row in range(2):
        torch.testing.assert_close(ours[row], slow(module, x[row]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_later_position_changes_no_earlier_one() -> None:
    module, x = attention(), inputs(1, 9)
    before = run(module, x)
    x[:, 6] += 1.0
    after = run(module, x)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=0)
    assert (before[:, 6:] - after[:, 6:]).abs().min() > 1e-6


@torch.no_grad()
def test_the_cache_holds_each_row_at_its_own_positions() -> None:
    """Rows of 7 and 4 positions are prefilled together and then go on one by one; what pads the second is
    once written where it is overwritten before it is seen, and once at -1, where nobody sees it."""
    module, x = attention(), inputs(2, LONGEST)
    lengths = torch.tensor([7, 4])
    garbage = x[:, :7].clone()
    garbage[1, 4:] = 99.0
    whole = run(module, x)
    for padding in (None, -1):
        cache = StaticCache.empty(1, 2, 2, LONGEST, HEAD_WIDTH, x.device)
        at = torch.arange(7).expand(2, -1).clone()
        if padding is not None:
            at[1, 4:] = padding
        first = run(module, garbage, cache.layout(at))
        assert first.isfinite().all()
        torch.testing.assert_close(first[0], whole[0, :7], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(first[1, :4], whole[1, :4], atol=1e-5, rtol=1e-5)
        for step in range(5):
            at = (lengths + step)[:, None]
            new = torch.stack([x[row, at[row, 0]] for row in range(2)])[:, None]
            y = run(module, new, cache.layout(at))
            for row in range(2):
                torch.testing.assert_close(y[row, 0], whole[row, at[row, 0]], atol=1e-5, rtol=1e-5)


def test_padding_in_a_cache_sees_something() -> None:
    """Of nothing at all there is no mean: not every kernel answers with a number."""
    cache = StaticCache.empty(1, 1, 2, LONGEST, HEAD_WIDTH, torch.device("cpu"))
    seen = cache.layout(torch.tensor([[-1, 0, 3]])).seen
    assert seen is not None and seen[0, 0].sum(-1).tolist() == [1, 1, 4]


def test_a_cache_has_no_room_beyond_its_length() -> None:
    module, x = attention(), inputs(1, 1)
    cache = StaticCache.empty(1, 1, 2, LONGEST, HEAD_WIDTH, x.device)
    assert cache.length == LONGEST
    run(module, x, cache.layout(torch.tensor([[LONGEST - 1]])))
    with pytest.raises(IndexError):
        run(module, x, cache.layout(torch.tensor([[LONGEST]])))


@torch.no_grad()
def test_rows_of_a_cache_are_taken_in_any_order() -> None:
    module, x = attention(), inputs(3, 6)
    cache = StaticCache.empty(1, 3, 2, LONGEST, HEAD_WIDTH, x.device)
    run(module, x[:, :5], cache.layout(torch.arange(5).expand(3, -1)))
    whole = run(module, x)
    order = torch.tensor([2, 0, 2])
    some = cache.rows(order)
    y = run(module, x[order, 5:], some.layout(torch.full((3, 1), 5)))
    torch.testing.assert_close(y[:, 0], whole[order, 5], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_relative_positions_matter() -> None:
    """Rotary positions: the same states three places later give the same output."""
    module, x = attention(), inputs(1, 5)
    here = run(module, x)
    there = run(module, x, Layout(torch.arange(3, 8)[None]))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    spread = run(module, x, Layout(torch.arange(0, 15, 3)[None]))
    assert (here - spread).abs().max() > 1e-3
