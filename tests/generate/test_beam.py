"""Beam search: sequences and scores are those of transformers' generate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu.generate.beam import Beam, beam_search
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import save_model
from sishu.tokenizer.tokenizer import Tokenizer

END = tuple(range(2, 320, 16))
"""Several tokens end an answer, so that many of them do within a few steps of a random model."""


@pytest.fixture(scope="module")
def undecided(tiny_config: DecoderConfig) -> Decoder:
    """Random weights with a head of its own: one that shares the embedding would repeat itself for ever."""
    torch.manual_seed(3)
    decoder = Decoder(replace(tiny_config, tied=False))
    assert decoder.head is not None
    with torch.no_grad():
        decoder.head.weight.mul_(4)
    return decoder.eval()


@pytest.fixture(scope="module")
def theirs(undecided: Decoder, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undecided")
    save_model(undecided, tiny_tokenizer, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[0, *(rng.randrange(6, 320) for _ in range(rng.randrange(40)))] for _ in range(count)]


def compared(model: Decoder, theirs: Any, prompt: list[int], ends: Sequence[int], **way: Any) -> list[Beam]:
    """Our four answers, having seen that transformers gives the same with the same scores."""
    out = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=16,
        num_beams=4,
        num_return_sequences=4,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=1,
        return_dict_in_generate=True,
        output_scores=True,
        **way,
    )
    ours = beam_search(model, prompt, max_tokens=16, end_ids=ends, **way)
    assert len(ours) == 4
    for beam, ids, score in zip(ours, out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        padded = ids[len(prompt) :]
        assert beam.ids == padded[: len(beam.ids)]
        assert set(padded[len(beam.ids) :]) <= {1}
        assert beam.score == pytest.approx(score, abs=1e-4)
    return ours


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_answers_and_scores_are_transformers(
    undecided: Decoder,
    theirs: Any,
    early_stopping: bool | Literal["never"],
    length_penalty: float,
) -> None:
    way = {"early_stopping": early_stopping, "length_penalty": length_penalty}
    found = [beam for prompt in prompts(12) for beam in compared(undecided, theirs, prompt, END, **way)]
    ended = sum(beam.ids[-1] in END for beam in found)
    assert ended > (2 if length_penalty > 1 else 10)
    if early_stopping is False and length_penalty == 2.0:
        assert ended < len(found)  # some are as long as may be


def test_never_goes_on_where_false_stops(undecided: Decoder, theirs: Any) -> None:
    """… and finds better answers for it."""
    ends = tuple(range(2, 320, 3))
    better = 0
    for prompt in prompts(12):
        both = [
            compared(undecided, theirs, prompt, ends, early_stopping=how, length_penalty=1.5)
            for how in (False, "never")
        ]
        better += both[1][0].score > both[0][0].score + 1e-3
    assert better > 0


@pytest.mark.parametrize("beams", [1, 3])
def test_the_score_is_that_of_the_answer(undecided: Decoder, beams: int) -> None:
    for prompt in prompts(5):
        for beam in beam_search(undecided, prompt, beams=beams, max_tokens=9, end_ids=END):
            with torch.no_grad():
                log_p = undecided(torch.tensor([prompt + beam.ids]))[0].log_softmax(-1)
            said = [float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(beam.ids)]
            assert beam.score == pytest.approx(sum(said) / len(said), abs=1e-4)


def test_it_ends_at_the_end_of_the_context(undecided: Decoder) -> None:
    prompt = [0] * 125
    found = beam_search(undecided, prompt, max_tokens=50)
    assert {len(beam.ids) for beam in found} == {4}  # the last of them need not be read
    assert len(beam_search(undecided, [0] * 128, max_tokens=50)[0].ids) == 1
    for wrong in ([], [0] * 129):
        with pytest.raises(ValueError, match="prompt"):
            beam_search(undecided, wrong)
    with pytest.raises(ValueError, match="0 beams"):
        beam_search(undecided, [0], beams=0)
