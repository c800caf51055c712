"""What is said of a stage's speed, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sishu.batches.batch import Batch
from sishu.batches.conversations import in_micro_batches, ranking_batch
from sishu.batches.tokens import Windows
from sishu.models.decoder import Decoder, DecoderConfig, Experts, Scorer
from sishu.objectives.ppo import ActorCritic
from sishu.tokenizer.chat import Conversation
from sishu.train import throughput
from sishu.train.throughput import Throughput, peak, products_per_second

CPU = torch.device("cpu")


@pytest.fixture
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "peak", lambda *_: 1e9)


def flops(c: DecoderConfig, tokens: int, length: float, learnt: int) -> float:
    """6·N + 12·L·H·K·T for each token, N without the tables, whose head works for learnt tokens alone."""
    inner = 6 * c.parameters(embedding=False) * tokens + 6 * c.vocabulary * c.width * learnt
    return inner + 12 * c.layers * c.heads * c.head_width * length * tokens


@pytest.mark.usefixtures("known_peak")
def test_windows(tiny_decoder: Decoder) -> None:
    speed, c = Throughput(tiny_decoder, "fp32"), tiny_decoder.config
    batches = Windows(np.arange(300, dtype=np.uint16), 16, 6, 4, seed=0).batches(0)
    speed.count(batches, passes=1)
    speed.begin(10, 100.0)
    found = speed.figures(0.5, step=11, steps=31, seconds=103.0)
    assert found["tokens_per_second"] == 6 * 16 / 0.5
    assert found["model_flops_utilisation"] == pytest.approx(flops(c, 96, 16, 96) / 0.5 / 1e9)
    assert flops(c, 96, 16, 96) == 96 * (6 * c.parameters() + 12 * c.layers * 32 * 16), "tied: all weights"
    assert found["eta_seconds"] == 20 * 3.0
    found = speed.figures(0.5, step=12, steps=31, seconds=104.0)
    assert found["eta_seconds"] == 19 * 2.0, "the mean of both steps"


@pytest.mark.usefixtures("known_peak")
def test_padding_and_what_is_not_learnt_do_not_count(tiny_decoder: Decoder) -> None:
    rows = [Conversation([7] * 5, [False] * 3 + [True] * 2), Conversation([7] * 11, [False] * 4 + [True] * 7)]
    speed, c = Throughput(tiny_decoder, "fp32"), tiny_decoder.config
    speed.count(in_micro_batches(rows, 1, 2), passes=1)
    found = speed.figures(2.0, step=1, steps=1, seconds=2.0)
    assert found["tokens_per_second"] == (4 + 10) / 2.0
    assert found["model_flops_utilisation"] == pytest.approx(flops(c, 14, 7, 9) / 2e9)
    assert found["eta_seconds"] == 0


@pytest.mark.usefixtures("known_peak")
def test_scorers_have_no_head_and_ppo_learns_twice_in_every_pass(tiny_config: DecoderConfig) -> None:
    scorer = Scorer(tiny_config)
    speed = Throughput(scorer, "fp32")
    speed.count([ranking_batch([[[7] * 4, [7] * 8]], 1, 1.0)], passes=1)
    assert speed.figures(1.0, 1, 1, 1.0)["model_flops_utilisation"] == pytest.approx(
        flops(tiny_config, 12, 6, 0) / 1e9
    )
    speed = Throughput(ActorCritic(Decoder(tiny_config), scorer), "fp32")
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[:, 4:7] = True
    speed.count([Batch({"ids": torch.zeros(2, 10, dtype=torch.long), "mask": mask}, 1.0)], passes=3)
    wanted = 3 * (flops(tiny_config, 20, 10, 6) + flops(tiny_config, 20, 10, 0))
    assert speed.figures(1.0, 1, 1, 1.0)["model_flops_utilisation"] == pytest.approx(wanted / 1e9)


@pytest.mark.usefixtures("known_peak")
def test_of_experts_those_count_that_work(tiny_config: DecoderConfig) -> None:
    from dataclasses import replace

    def used(experts: Experts) -> float:
        speed = Throughput(Decoder(replace(tiny_config, experts=experts)), "fp32")
        speed.count([Batch({"ids": torch.zeros(2, 8, dtype=torch.long)}, 1.0)], passes=1)
        return speed.figures(1.0, 1, 1, 1.0)["model_flops_utilisation"]

    assert used(Experts(8, 2, 16)) == used(Experts(4, 2, 16)) < used(Experts(4, 3, 16))


def test_the_peak_is_measured_without_touching_the_random_state() -> None:
    products_per_second.cache_clear()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    rate = peak(CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert rate > 1e8 and peak(CPU, torch.float32) == rate, "measured once"


def test_known_gpus_have_their_makers_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    gpu = torch.device("cuda")
    assert peak(gpu, torch.bfloat16) == peak(gpu, torch.float16) == 312e12
    assert peak(gpu, torch.float32) == 19.5e12
