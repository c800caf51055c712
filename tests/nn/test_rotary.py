"""Rotary angles and their scalings are those of transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sishu.nn.rotary import RopeScaling, rotary_angles, rotary_frequencies

CONTEXT, LONGER = 512, 4096
CASES: list[tuple[RopeScaling, dict[str, Any]]] = [
    (RopeScaling("linear", 8.0, CONTEXT), {}),
    (RopeScaling("dynamic", 4.0, CONTEXT), {}),
    (RopeScaling("yarn", 8.0, CONTEXT), {}),
    (RopeScaling("yarn", 8.0, CONTEXT, truncate=False), {"truncate": False}),
    (RopeScaling("yarn", 1.0, CONTEXT), {}),
    (RopeScaling("yarn", 8.0, CONTEXT, fast=4.0, slow=0.5), {"beta_fast": 4.0, "beta_slow": 0.5}),
    (RopeScaling("yarn", 8.0, CONTEXT, attention_factor=1.7), {"attention_factor": 1.7}),
    (RopeScaling("llama3", 8.0, CONTEXT), {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    (
        RopeScaling("llama3", 3.0, CONTEXT, low_frequency_factor=2.0, high_frequency_factor=9.0),
        {"low_freq_factor": 2.0, "high_freq_factor": 9.0},
    ),
]


@pytest.mark.parametrize("head_width", [8, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(("scaling", "fields"), CASES, ids=lambda case: str(getattr(case, "kind", "")))
def test_scalings(scaling: RopeScaling, fields: dict[str, Any], theta: float, head_width: int) -> None:
    parameters = {"rope_type": scaling.kind, "rope_theta": theta, "factor": scaling.factor} | fields
    if scaling.kind in ("yarn", "llama3"):
        parameters["original_max_position_embeddings"] = CONTEXT
    config = LlamaConfig(
        hidden_size=4 * head_width,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT if scaling.kind == "dynamic" else LONGER,
        rope_parameters=parameters,
    )
    plain = rotary_frequencies(head_width, theta)
    for length in (100, 2000):
        expected, grown = ROPE_INIT_FUNCTIONS[scaling.kind](config, torch.device("cpu"), seq_len=length)
        ours = rotary_frequencies(head_width, theta, scaling, length)
        torch.testing.assert_close(ours, expected, atol=0, rtol=2e-6)
        assert scaling.grown() == pytest.approx(grown, rel=1e-9)
    assert torch.allclose(ours, plain, atol=0, rtol=1e-5) == (scaling.factor == 1)


def test_ntk_keeps_the_fastest_angle_and_interpolates_the_slowest() -> None:
    plain = rotary_frequencies(64, 10_000.0)
    ours = rotary_frequencies(64, 10_000.0, RopeScaling("ntk", 4.0, CONTEXT))
    assert ours[0] == plain[0] and ours[-1] * 4 == pytest.approx(float(plain[-1]), rel=1e-5)
    assert (ours[1:] < plain[1:]).all()


def test_angles() -> None:
    frequencies = rotary_frequencies(8, 10_000.0)
    positions = torch.tensor([[0, 5], [1000, 3]])
    cos, sin = rotary_angles(positions, frequencies, grown=1.5)
    expected = positions[..., None].double() * 10_000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    torch.testing.assert_close(cos.double(), 1.5 * expected.cos(), atol=2e-4, rtol=0)
    torch.testing.assert_close(sin.double(), 1.5 * expected.sin(), atol=2e-4, rtol=0)
    assert cos.dtype == torch.float32


@pytest.mark.parametrize(
    "fields",
    [
        {"factor": 0.5},
        {"factor": 1e300},
        {"factor": math.nan},
        {"factor": math.inf},
        {"original_context": 0},
        {"fast": 1.0},
        {"slow": -1.0},
        {"slow": math.nan},
        {"high_frequency_factor": 1.0},
        {"low_frequency_factor": 0.0},
        {"attention_factor": 0.0},
        {"attention_factor": math.nan},
    ],
    ids=str,
)
def test_scalings_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rope scaling needs"):
        RopeScaling(**({"kind": "yarn", "factor": 2.0, "original_context": 64} | fields))
