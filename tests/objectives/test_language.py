"""Next-token loss and log-probabilities against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sishu.batches.batch import IGNORED, Batch
from sishu.models.decoder import Decoder
from sishu.objectives.language import log_probabilities, next_token, token_losses


def some_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(6, 320, (rows, length), generator=torch.Generator().manual_seed(4))


def test_next_token_is_torchs_cross_entropy(tiny_decoder: Decoder) -> None:
    ids = some_ids(3, 21)
    targets = ids[:, 1:].clone()
    targets[0, :7] = targets[2, 3:] = IGNORED
    batch = Batch({"ids": ids[:, :-1], "targets": targets}, 1.0)
    loss = next_token(tiny_decoder, batch)
    expected = F.cross_entropy(tiny_decoder(ids[:, :-1]).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss.total, expected, atol=1e-5, rtol=1e-6)
    assert loss.total.requires_grad and not loss.figures["loss"].requires_grad
    assert float(loss.figures["loss"]) == float(loss.total.detach())


@torch.no_grad()
def test_ignored_targets_do_not_count(tiny_decoder: Decoder) -> None:
    ids = some_ids(2, 11)
    targets = torch.full((2, 10), IGNORED)
    assert token_losses(tiny_decoder, ids[:, :-1], targets).numel() == 0
    targets[1, 4] = 17
    one = token_losses(tiny_decoder, ids[:, :-1], targets)
    expected = -tiny_decoder(ids[:, :-1]).log_softmax(-1)[1, 4, 17]
    torch.testing.assert_close(one, expected[None], atol=1e-5, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_log_probabilities_are_those_of_the_distribution(tiny_decoder: Decoder, temperature: float) -> None:
    ids = some_ids(2, 15)
    log_p, entropy = log_probabilities(tiny_decoder, ids, temperature)
    distribution = torch.distributions.Categorical(logits=tiny_decoder(ids)[:, :-1] / temperature)
    torch.testing.assert_close(log_p, distribution.log_prob(ids[:, 1:]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, distribution.entropy(), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_positions_outside_the_mask_are_zero_and_change_nothing(tiny_decoder: Decoder) -> None:
    ids = some_ids(2, 15)
    mask = torch.zeros(2, ids.shape[1] - 1, dtype=torch.bool)
    mask[0, 3:9] = mask[1, 1] = True
    for whole, masked in zip(
        log_probabilities(tiny_decoder, ids, 0.7),
        log_probabilities(tiny_decoder, ids, 0.7, mask),
        strict=True,
    ):
        torch.testing.assert_close(masked, whole * mask, atol=1e-6, rtol=1e-5)


def test_the_entropy_is_only_a_figure(tiny_decoder: Decoder) -> None:
    log_p, entropy = log_probabilities(tiny_decoder, some_ids(1, 5))
    assert log_p.requires_grad and not entropy.requires_grad
