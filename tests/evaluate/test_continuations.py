"""Likelihoods of continuations, against one whole pass for each."""

from __future__ import annotations

import pytest
import torch

from sishu.evaluate import continuations
from sishu.evaluate.continuations import Continued, common_length, continued, log_probs_of
from sishu.models.decoder import Decoder
from sishu.nn.layout import Layout
from sishu.tokenizer.tokenizer import Tokenizer


def plain(model: Decoder, text: Continued) -> list[float]:
    with torch.no_grad():
        log_p = model(torch.tensor([text.ids[:-1]]))[0].log_softmax(-1)
    return [float(log_p[at - 1, text.ids[at]]) for at in range(len(text.ids) - text.judged, len(text.ids))]


@pytest.mark.parametrize("positions", [1, 100, 8192])
def test_they_are_those_of_whole_passes(
    positions: int, tiny_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuations, "POSITIONS", positions)
    monkeypatch.setattr(continuations, "PIECE", 7)
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return torch.randint(3, 320, (count,), generator=generator).tolist()

    header = some(30)
    texts = [
        *(Continued([*header, *some(n), *some(3)], 3) for n in (1, 9, 40)),
        *(Continued([*header, 5, 6, 7], n) for n in (1, 2, 3, 10)),
        Continued([*header, *some(99)], 4),  # the last token of the context is judged, not read
    ]
    for told, text in zip(log_probs_of(tiny_decoder, texts), texts, strict=True):
        assert told == pytest.approx(plain(tiny_decoder, text), abs=2e-4)
    assert log_probs_of(tiny_decoder, [Continued(header, 0), *texts[:1]])[0] == []
    alone = [Continued(some(12), 4), Continued(some(5), 4)]  # nothing alike
    for told, text in zip(log_probs_of(tiny_decoder, alone), alone, strict=True):
        assert told == pytest.approx(plain(tiny_decoder, text), abs=2e-4)
    assert log_probs_of(tiny_decoder, []) == []


def test_a_prompt_is_read_once_for_all_answers_of_one_token(
    tiny_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, hidden = list[int](), tiny_decoder.hidden

    def counted(ids: torch.Tensor, layout: Layout | None = None) -> torch.Tensor:
        read.append(ids.numel())
        return hidden(ids, layout)

    monkeypatch.setattr(tiny_decoder, "hidden", counted)
    header = list(range(10, 60))
    texts = [Continued([*header, question, label], 1) for question in (5, 6) for label in (7, 8, 9)]
    told = log_probs_of(tiny_decoder, texts)
    assert read == [50, 2], "the header, and two questions of a token each"
    monkeypatch.undo()
    for one, text in zip(told, texts, strict=True):
        assert one == pytest.approx(plain(tiny_decoder, text), abs=2e-4)


def test_what_cannot_be_judged_is_refused(tiny_decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="130 tokens exceeds the context of 128"):
        log_probs_of(tiny_decoder, [Continued([5] * 130, 1)])
    with pytest.raises(ValueError, match="at least one token before"):
        log_probs_of(tiny_decoder, [Continued([5, 6], 2)])


def test_prompt_and_continuation_are_encoded_together(tiny_tokenizer: Tokenizer) -> None:
    ids, judged = continued(tiny_tokenizer, "What is ", "json")
    assert ids == tiny_tokenizer.begin(tiny_tokenizer.encode("What is json"))
    assert tiny_tokenizer.decode(ids[-judged:]).endswith("json")
    assert 0 < judged < len(ids)


def test_what_rows_begin_with() -> None:
    assert common_length([[1, 2, 3], [1, 2], [1, 2, 9]]) == 2
    assert common_length([[1, 2], [3]]) == 0
    assert common_length([[1, 2]]) == 2
