"""Mixtures of experts are those of transformers, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from sishu.nn.experts import MixtureOfExperts

WIDTH, HIDDEN = 12, 20


def theirs(kind: str, experts: int, chosen: int, normalised: bool) -> nn.Module:
    sizes = {"hidden_size": WIDTH, "num_experts_per_tok": chosen}
    if kind == "mixtral":
        block = MixtralSparseMoeBlock(
            MixtralConfig(**sizes, num_local_experts=experts, intermediate_size=HIDDEN)
        )
    else:
        config = Qwen3MoeConfig(
            **sizes, num_experts=experts, moe_intermediate_size=HIDDEN, norm_topk_prob=normalised
        )
        block = Qwen3MoeSparseMoeBlock(config)
    with torch.no_grad():
        for weight in block.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return block


def copied(block: nn.Module, experts: int, chosen: int, normalised: bool) -> MixtureOfExperts:
    ours = MixtureOfExperts(WIDTH, HIDDEN, experts, chosen, normalised)
    with torch.no_grad():
        ours.router.weight.copy_(block.gate.weight)
        gate, up = block.experts.gate_up_proj.chunk(2, dim=1)
        ours.gate.copy_(gate)
        ours.up.copy_(up)
        ours.down.copy_(block.experts.down_proj)
    return ours


def states() -> Tensor:
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "normalised"), [("mixtral", True), ("qwen3_moe", True), ("qwen3_moe", False)]
)
@pytest.mark.parametrize(("experts", "chosen"), [(5, 2), (4, 1), (3, 3), (40, 2)])
def test_outputs_and_gradients(kind: str, experts: int, chosen: int, normalised: bool) -> None:
    block = theirs(kind, experts, chosen, normalised)
    ours = copied(block, experts, chosen, normalised)
    x, y = states().requires_grad_(), states().requires_grad_()
    found, expected = ours(x), block(y)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-6, rtol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    gate, up = block.experts.gate_up_proj.grad.chunk(2, dim=1)
    pairs = {
        "input": (x.grad, y.grad),
        "router": (ours.router.weight.grad, block.gate.weight.grad),
        "gate": (ours.gate.grad, gate),
        "up": (ours.up.grad, up),
        "down": (ours.down.grad, block.experts.down_proj.grad),
    }
    for name, (a, b) in pairs.items():
        size = float(b.abs().max())
        if name == "router" and chosen == 1 and normalised:
            continue  # one share that is 1 whatever the router says: there is nothing to learn
        assert size > 1e-3, name
        torch.testing.assert_close(
            a / size, b / size, atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_an_expert_that_no_token_is_sent_to_learns_nothing() -> None:
    ours = copied(theirs("qwen3_moe", 40, 1, False), 40, 1, False)
    ours(states()).sum().backward()
    sent = ours.router(states().flatten(0, 1)).argmax(-1).unique().tolist()
    assert 1 < len(sent) < 40
    for expert in range(40):
        assert (ours.gate.grad[expert].abs().max() > 0) == (expert in sent)


@torch.no_grad()
def test_it_runs_in_bfloat16_and_under_autocast() -> None:
    ours = copied(theirs("mixtral", 5, 2, True), 5, 2, True)
    exact = ours(states())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ours(states())
    assert mixed.dtype == torch.float32
    half = ours.to(torch.bfloat16)(states().to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    # a token whose choice is near a tie may be sent elsewhere: most are not
    for other in (mixed, half.float()):
        off = (other - exact).norm(dim=-1) / exact.norm(dim=-1)
        assert off.median() < 0.02
