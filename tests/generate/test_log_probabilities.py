"""Log-probabilities: of the raw distribution, against log_softmax and a whole forward pass."""

from __future__ import annotations

import pytest
import torch

from sishu.generate import log_probabilities
from sishu.generate.log_probabilities import following_log_probs, top_log_probs
from sishu.models.decoder import Decoder


def test_they_are_those_of_log_softmax() -> None:
    logits = 3 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([0, 5, 49, 7, 7, int(logits[5].argmax())])
    sizes = [0, 1, 5, 50, 99, 3]
    told = top_log_probs(logits, chosen, sizes)
    for row, one in enumerate(told):
        wanted = logits[row].log_softmax(-1)
        assert one.chosen == pytest.approx(float(wanted[chosen[row]]), abs=1e-5)
        ordered = sorted(range(50), key=lambda i: -float(wanted[i]))
        assert one.rank == ordered.index(int(chosen[row])) + 1
        assert [token for token, _ in one.top] == ordered[: sizes[row]]
        assert [value for _, value in one.top] == pytest.approx(
            wanted[ordered[: sizes[row]]].tolist(), abs=1e-5
        )
    assert told[5].rank == 1 and told[5].chosen == told[5].top[0][1]
    assert top_log_probs(logits, chosen, 2)[2].top == told[2].top[:2]
    assert top_log_probs(logits.bfloat16(), chosen, 2)[2].chosen == pytest.approx(told[2].chosen, abs=0.1)
    with pytest.raises(ValueError, match="6 rows"):
        top_log_probs(logits, chosen[:3], 1)


def test_those_of_a_prompt_are_those_of_one_pass(
    tiny_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probabilities, "CHUNK", 7)
    ids = torch.randint(0, 320, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = tiny_decoder.hidden(ids)[0]
        wanted = tiny_decoder(ids)[0].log_softmax(-1)
    told = [None, *following_log_probs(tiny_decoder, hidden[:-1], ids[0, 1:].tolist(), 2)]
    assert len(told) == 30
    for place in range(1, 30):
        one = told[place]
        assert one is not None
        assert one.chosen == pytest.approx(float(wanted[place - 1, ids[0, place]]), abs=1e-5)
        assert [token for token, _ in one.top] == wanted[place - 1].topk(2).indices.tolist()
    assert following_log_probs(tiny_decoder, hidden[:0], [], 2) == []
    with pytest.raises(ValueError, match="1 states"):
        following_log_probs(tiny_decoder, hidden[:1], [5, 6], 2)
