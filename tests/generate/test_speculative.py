"""Speculative decoding changes no answer: plain decoding's tokens when greedy, else its distribution."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sishu.generate.draws import Draws
from sishu.generate.engine import Engine
from sishu.generate.guide import Guide
from sishu.generate.penalties import TokenCounts
from sishu.generate.sampler import distribution, sample
from sishu.generate.sampling import Sampling
from sishu.generate.speculative import SpeculativeDecoder, agreed, propose_ngram, verify
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.tokenizer.tokenizer import Tokenizer

END = (2, 1, 0)


def decoder(config: DecoderConfig, seed: int, likeness: Decoder | None = None, noise: float = 0.1) -> Decoder:
    """Random weights; with a likeness, its weights and some noise."""
    torch.manual_seed(seed)
    made = Decoder(config)
    if likeness is not None:
        made.load_state_dict(likeness.state_dict())
    with torch.no_grad():
        if likeness is None and made.head is not None:
            made.head.weight.mul_(4)  # as sure of itself as a trained model
        for weight in made.parameters():
            weight.add_(noise * torch.randn_like(weight))
    return made.eval()


@pytest.fixture(scope="module")
def model(tiny_config: DecoderConfig) -> Decoder:
    """With a head of its own: one that shares the embedding would repeat itself for ever."""
    return decoder(replace(tiny_config, tied=False), 4)


@pytest.fixture(scope="module")
def drafts(tiny_config: DecoderConfig, model: Decoder) -> list[Decoder | None]:
    """None: n-grams; a stranger; something like the model; the model itself."""
    return [None, decoder(model.config, 5), decoder(model.config, 6, model, 0.02), model]


def prompts(count: int, longest: int = 30) -> list[list[int]]:
    rng = random.Random(1)
    return [[0, *(rng.randrange(6, 320) for _ in range(rng.randrange(longest)))] for _ in range(count)]


@pytest.mark.parametrize("ahead", [1, 4, 9])
def test_greedy_answers_are_plain_ones(
    model: Decoder, tiny_tokenizer: Tokenizer, drafts: list[Decoder | None], ahead: int
) -> None:
    engine = Engine(model, tiny_tokenizer)
    some = [*prompts(8), [0] * 100, [0] * 128, [0, 9, 10, 11, 9, 10, 11, 9, 10]]
    plain = [answer.ids for answer in engine.complete(some, Sampling(max_tokens=40, temperature=0))]
    shares = []
    for draft in drafts:
        guess = SpeculativeDecoder(model, draft, ahead)
        answers = [guess.complete(prompt, Sampling(max_tokens=40, temperature=0), END) for prompt in some]
        assert [answer.ids for answer in answers] == plain
        proposed, accepted = (sum(getattr(a, n) for a in answers) for n in ("proposed", "accepted"))
        assert 0 <= accepted <= proposed and proposed > 0
        shares.append(accepted / proposed)
        passes = sum(answer.passes for answer in answers)
        assert passes <= sum(map(len, plain))
        if draft is model:
            assert passes < 0.6 * sum(map(len, plain)) or ahead == 1
    assert shares[3] > 0.95 > shares[1] and shares[2] > shares[1]


def plainly(model: Decoder, prompt: list[int], sampling: Sampling, count: int) -> list[int]:
    """Token after token, each from a pass over the whole text."""
    text, counts = list(prompt), TokenCounts(prompt)
    for step in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([text]))[:, -1]
        token = int(sample(logits, [sampling], [sampling.seed or 0], [step], [counts], None, END))
        text.append(token)
        counts.add(token)
        if token in END:
            break
    return text[len(prompt) :]


@pytest.mark.parametrize(
    "way",
    [
        {"temperature": 0.3},
        {"temperature": 1.0, "top_p": 0.8, "min_tokens": 5},
        {"temperature": 0.2, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.0, "presence_penalty": 1.5, "min_tokens": 20},
    ],
)
def test_with_ngrams_a_seed_gives_the_plain_answer(tiny_decoder: Decoder, way: dict[str, float]) -> None:
    """… though guesses are accepted on the way: this model repeats itself."""
    accepted = 0
    for seed, prompt in enumerate(prompts(6)):
        s = Sampling(max_tokens=30, seed=seed + 1, **way)  # type: ignore[arg-type]  # all are numbers
        answer = SpeculativeDecoder(tiny_decoder).complete(prompt * 2, s, END)
        assert answer.ids == plainly(tiny_decoder, prompt * 2, s, 30)
        accepted += answer.accepted
    assert accepted > 0


def unlikely(counts: Tensor, p: Tensor) -> bool:
    """Whether a sample at least this far from the distribution turns up less than once in 1,000 times."""
    expected = counts.sum() * p
    rare = expected < 5
    both = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    both, wanted = both[wanted > 0], wanted[wanted > 0]
    chi_square = ((both - wanted) ** 2 / wanted).sum()
    return bool(torch.special.gammaincc(torch.tensor((len(both) - 1) / 2).double(), chi_square / 2) < 1e-3)


def distributions(rows: int, size: int, seed: int, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(rows, size, generator=generator, dtype=torch.float64)).softmax(-1)


@pytest.mark.parametrize("spread", [0.3, 1.5, 4.0])
def test_verified_tokens_follow_the_models_distribution(spread: float) -> None:
    """Two proposed tokens and what follows: the joint frequencies of the first two tokens are the model's,
    whatever the draft, and acceptance is what the paper says it is."""
    V, draws = 5, 8000
    p, q = distributions(3, V, 0, spread), distributions(2, V, 1)
    q[0, 2] = 0  # a token that the draft never proposes
    q[0] /= q[0].sum()
    counts = torch.zeros(V, V).double()
    stood = 0
    for seed in range(draws):
        one = Draws(seed)
        proposed = [int(torch.searchsorted(q[k].cumsum(0), one.at(k, 1), right=True)) for k in range(2)]
        number, follows = verify(p, q, proposed, one, 0)
        stood += number > 0
        tokens = [*proposed[:number], follows]
        if len(tokens) == 1:  # the next pass would draw the second
            tokens.append(int(torch.searchsorted(p[1].cumsum(0), Draws(seed + draws).at(0), right=True)))
        counts[tokens[0], tokens[1]] += 1
    assert not unlikely(counts.flatten(), (p[0][:, None] * p[1]).flatten())
    wanted = float(torch.minimum(p[0], q[0]).sum())
    assert stood / draws == pytest.approx(wanted, abs=0.02)
    assert unlikely(counts.flatten(), (q[0][:, None] * p[1]).flatten())  # the test can fail


def test_verify_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 proposed tokens with 2 and 2"):
        verify(distributions(2, 5, 0), distributions(2, 5, 0), [1, 2], Draws(0), 0)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_sampled_answers_follow_the_models_distribution(top_p: float) -> None:
    """Whole answers of two tokens from real models of a small vocabulary, all of them counted."""
    config = DecoderConfig(
        vocabulary=6,
        width=16,
        layers=1,
        heads=2,
        kv_heads=1,
        head_width=8,
        hidden=16,
        context_length=16,
        tied=False,
    )
    small = decoder(config, 0)
    draft = decoder(config, 1, small, 0.2)
    guess = SpeculativeDecoder(small, draft, ahead=3)
    way = Sampling(temperature=0.9, top_p=top_p)
    p = torch.zeros(6, 6).double()
    with torch.no_grad():
        first = distribution(small(torch.tensor([[3, 4]]))[:, -1], [way], [0])[0]
        for token in range(6):
            after = distribution(small(torch.tensor([[3, 4, token]]))[:, -1], [way], [1])[0]
            p[token] = first[token] * after
    counts = torch.zeros(6, 6).double()
    accepted = proposed = 0
    for seed in range(1500):
        s = Sampling(max_tokens=2, temperature=0.9, top_p=top_p, seed=seed)
        answer = guess.complete([3, 4], s)
        counts[answer.ids[0], answer.ids[1]] += 1
        accepted, proposed = accepted + answer.accepted, proposed + answer.proposed
    assert not unlikely(counts.flatten(), p.flatten())
    assert (counts[p == 0] == 0).all()
    assert 0 < accepted < proposed


def test_answers_end_where_they_must(model: Decoder) -> None:
    for draft, longest in itertools.product((None, model), (0, 1, 2, 7)):
        guess = SpeculativeDecoder(model, draft)
        answer = guess.complete([0] * 5, Sampling(max_tokens=longest, temperature=0), ())
        assert len(answer.ids) == longest
    plain = SpeculativeDecoder(model, model).complete([0, 8], Sampling(temperature=0, max_tokens=20))
    stop = plain.ids[3]
    ended = SpeculativeDecoder(model, model).complete(
        [0, 8], Sampling(temperature=0, max_tokens=20, stop_ids=(stop,))
    )
    assert ended.ids == plain.ids[: plain.ids.index(stop) + 1]
    with pytest.raises(ValueError, match="prompt"):
        guess.complete([], Sampling())
    with pytest.raises(ValueError, match="guides"):
        guess.complete([0], Sampling(guide=Guide("regex", "a")))


def test_a_draft_of_another_vocabulary_is_refused(model: Decoder) -> None:
    other = DecoderConfig(
        vocabulary=6, width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=16, context_length=16
    )
    with pytest.raises(ValueError, match="the draft has 6 tokens, the model 320"):
        SpeculativeDecoder(model, Decoder(other))


def test_what_followed_before_is_proposed() -> None:
    assert propose_ngram([1, 2, 3, 9, 1, 2, 3], 2) == [9, 1]
    assert propose_ngram([1, 2, 7, 1, 2, 8, 1, 2], 1) == [8]  # the latest
    assert propose_ngram([5, 1, 2, 3, 6, 2, 3, 8, 1, 2, 3], 1) == [6]  # the longest
    assert propose_ngram([4, 4, 4], 5) == [4]
    assert propose_ngram([1, 2, 3], 4) == [] == propose_ngram([], 4) == propose_ngram([1], 4)
    assert propose_ngram([1, 2, 1], 4, shortest=2) == []
    assert propose_ngram([1, 2, 1], 0) == []


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_a_proposal_is_a_piece_of_the_text_behind_its_own_ending(ids: list[int], count: int) -> None:
    proposed = propose_ngram(ids, count)
    assert len(proposed) <= count
    if proposed:
        size = max(n for n in (1, 2, 3) if n < len(ids) and _stands_before(ids, n))
        pieces = [
            ids[i + size : i + size + count]
            for i in range(len(ids) - size)
            if ids[i : i + size] == ids[-size:]
        ]
        assert proposed == pieces[-1]
    else:
        assert not ids or ids[-1] not in ids[:-1]


def _stands_before(ids: list[int], size: int) -> bool:
    return any(ids[i : i + size] == ids[-size:] for i in range(len(ids) - size))


def test_agreement_ends_at_the_first_difference() -> None:
    assert agreed([1, 2, 3], [1, 2, 3, 4]) == 3
    assert agreed([1, 2, 3], [1, 9, 3, 4]) == 1
    assert agreed([], [5]) == 0
