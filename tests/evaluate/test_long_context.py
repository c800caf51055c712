"""Losses by position and hidden numbers, against what is known of models that can and cannot look back."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from sishu.console import UserError
from sishu.evaluate.long_context import (
    ANSWER,
    NEEDLE,
    QUESTION,
    Needle,
    binned,
    hidden,
    loss_by_position,
    needle_grid,
)
from sishu.generate.batching import BatchingEngine
from sishu.models.decoder import Decoder
from sishu.models.longer import longer
from sishu.stages.lengthen import stretched
from sishu.tokenizer.tokenizer import Tokenizer

HAY = "Nothing of note happened at the school that day, and the teacher went home early. "


def test_the_loss_at_a_position_is_the_mean_over_the_rows(tiny_decoder: Decoder) -> None:
    rows = torch.randint(3, 320, (5, 33), generator=torch.Generator().manual_seed(0))
    got = loss_by_position(tiny_decoder, rows)
    assert got.shape == (32,)
    with torch.no_grad():
        log_p = tiny_decoder(rows[:, :-1]).log_softmax(-1)
    expected = -log_p.gather(2, rows[:, 1:, None])[..., 0].mean(0)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_long_rows_are_read_in_pieces_and_beyond_the_context(
    tiny_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sishu.train import held_out

    rows = torch.randint(3, 320, (3, 301), generator=torch.Generator().manual_seed(0))
    whole = loss_by_position(tiny_decoder, rows)  # of a model whose context is 128
    wide = stretched(tiny_decoder, longer(tiny_decoder.config, 4, "ntk"))
    assert not torch.allclose(whole, loss_by_position(wide, rows))
    monkeypatch.setattr(held_out, "TOGETHER", 300)
    monkeypatch.setattr(held_out, "CHUNK", 77)
    torch.testing.assert_close(whole, loss_by_position(tiny_decoder, rows))


def test_bins_cover_every_position_once() -> None:
    losses = torch.arange(10.0)
    assert binned(losses, 5) == [(0, 2, 0.5), (2, 4, 2.5), (4, 6, 4.5), (6, 8, 6.5), (8, 10, 8.5)]
    spans = binned(losses, 3)
    assert [s[0] for s in spans] == [0, 3, 6] and spans[-1][1] == 10
    assert [s[:2] for s in binned(losses[:2], 5)] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_number_is_hidden_where_it_should_be(depth: float, tiny_tokenizer: Tokenizer) -> None:
    hay = tiny_tokenizer.encode(HAY * 3)
    one = hidden(tiny_tokenizer, hay, 400, depth, 4, random.Random(0))
    longest = max(ANSWER, *map(len, one.answers))
    assert len(one.prompt) == 400 - longest, "with room for the answer"
    text = tiny_tokenizer.decode(one.prompt)
    assert text.endswith(QUESTION) and len(set(one.numbers)) == 5
    assert text.count(one.numbers[0]) == 2 and not any(number in text for number in one.numbers[1:])
    needle = NEEDLE.format(number=one.numbers[0])
    hay_characters = len(text) - len(needle) - len(QUESTION)
    assert text.index(needle) / hay_characters == pytest.approx(depth, abs=0.05)
    said = [tiny_tokenizer.decode(ids) for ids in one.answers]
    assert said == [f" {number}." for number in one.numbers]
    assert hidden(tiny_tokenizer, hay, 400, depth, 4, random.Random(0)) == one


def learnt_by_heart(start: Decoder, tokenizer: Tokenizer, hay: list[int], number: int) -> BatchingEngine:
    """A model that has learnt to answer the texts of a grid with their `number`-th number, the right one or a
    wrong one."""
    model = stretched(copy.deepcopy(start), longer(start.config, 2)).train()
    rng = random.Random("0/200/0.5")
    texts = [hidden(tokenizer, hay, 200, 0.5, 3, rng) for _ in range(2)]
    rows = [[*text.prompt, *text.answers[number]] for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(60):
        for row, text in zip(rows, texts, strict=True):
            logits = model(torch.tensor([row[:-1]]))[0, len(text.prompt) - 1 :]
            torch.nn.functional.cross_entropy(logits, torch.tensor(row[len(text.prompt) :])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return BatchingEngine(model, tokenizer)


def test_the_grid_tells_right_answers_from_wrong_ones(
    tiny_decoder: Decoder, tiny_tokenizer: Tokenizer
) -> None:
    hay = tiny_tokenizer.encode(HAY * 9)
    right, wrong = (learnt_by_heart(tiny_decoder, tiny_tokenizer, hay, number) for number in (0, 1))
    (good,) = needle_grid(right, hay, [200], (0.5,), trials=2, others=3)
    assert good == Needle(200, 0.5, 2, 1.0, 1.0, pytest.approx(1, abs=0.1))
    (bad,) = needle_grid(wrong, hay, [200], (0.5,), trials=2, others=3)
    assert bad == Needle(200, 0.5, 2, 0.0, 0.0, pytest.approx(0, abs=0.1))


def test_a_model_with_random_weights_is_at_chance(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    engine = BatchingEngine(stretched(tiny_decoder, longer(tiny_decoder.config, 4)), tiny_tokenizer)
    told: list[int] = []
    grid = needle_grid(
        engine,
        tiny_tokenizer.encode(HAY * 9),
        [256, 400],
        (0.0, 1.0),
        trials=4,
        others=3,
        advance=told.append,
    )
    assert [(n.length, n.depth) for n in grid] == [(256, 0.0), (256, 1.0), (400, 0.0), (400, 1.0)]
    assert told == [4, 4, 4, 4]
    assert all(n.trials == 4 and n.hits == 0 and n.share < 0.75 for n in grid)
    again = needle_grid(engine, tiny_tokenizer.encode(HAY * 9), [256], (0.0,), trials=4, others=3)
    assert again == grid[:1], "the same seed hides the same numbers"


def test_lengths_that_cannot_be_are_refused(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    engine, hay = BatchingEngine(tiny_decoder, tiny_tokenizer), tiny_tokenizer.encode(HAY)
    with pytest.raises(UserError, match="129 tokens exceeds the model's context of 128"):
        needle_grid(engine, hay, [129])
    with pytest.raises(UserError, match="20 tokens has no room"):
        needle_grid(engine, hay, [20])
    with pytest.raises(UserError, match="no text to hide"):
        needle_grid(engine, [], [128])
