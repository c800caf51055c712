"""Generating: greedy answers are transformers', batches change nothing, stops and the context's end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu.generate.engine import Completion, Engine, Piece, Sampling
from sishu.generate.sampling import choose
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.tokenizer.tokenizer import Tokenizer

CONTEXT = 128


@pytest.fixture(scope="module")
def engine(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> Engine:
    return Engine(tiny_decoder, tiny_tokenizer)


@pytest.fixture
def endless(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> Engine:
    """The same, but no token ends an answer."""
    engine = Engine(tiny_decoder, tiny_tokenizer)
    engine.stop_ids = frozenset()
    return engine


def prompts(count: int, longest: int = 40) -> list[list[int]]:
    rng = random.Random(0)
    return [[0, *(rng.randrange(6, 320) for _ in range(rng.randrange(longest)))] for _ in range(count)]


def streamed(engine: Engine, prompt: list[int], sampling: Sampling) -> tuple[Completion, list[Piece]]:
    pieces = list(engine.stream(prompt, sampling))
    assert [p.finish is None for p in pieces] == [True] * (len(pieces) - 1) + [False]
    assert all(p.text for p in pieces[:-1])
    whole = Completion(
        "".join(p.text for p in pieces), [i for p in pieces for i in p.ids], pieces[-1].finish or ""
    )
    return whole, pieces


def test_greedy_answers_are_transformers(tiny_model_folder: Path) -> None:
    engine = Engine.load(tiny_model_folder)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    some = prompts(20)
    ours = engine.complete(some, Sampling(max_tokens=24, temperature=0))
    for prompt, answer in zip(some, ours, strict=True):
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=sorted(engine.stop_ids),
        )
        assert answer.ids == out[0, len(prompt) :].tolist()
    assert len({tuple(a.ids) for a in ours}) > 10
    penalised = engine.complete(some[:3], Sampling(max_tokens=24, temperature=0, repetition_penalty=1.7))
    for prompt, answer in zip(some, penalised, strict=False):
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            repetition_penalty=1.7,
            eos_token_id=sorted(engine.stop_ids),
        )
        assert answer.ids == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.8])
def test_a_batch_changes_no_greedy_answer(endless: Engine, penalty: float) -> None:
    sampling = Sampling(max_tokens=20, temperature=0, repetition_penalty=penalty)
    some = [*prompts(8, longest=115), [0] * CONTEXT]
    together = endless.complete(some, sampling)
    for prompt, answer in zip(some, together, strict=True):
        assert endless.complete([prompt], sampling) == [answer]


def test_a_prompt_asked_again_is_answered_as_if_alone(
    endless: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… though it is read once: the same words as from an engine that reads every row."""
    some = prompts(4)
    again = [some[i] for i in (2, 0, 2, 1, 2, 3, 0)]
    how = Sampling(max_tokens=12, temperature=1.0, seed=5)
    together = endless.complete(again, how)
    read: list[int] = []
    hidden = endless.model.hidden

    def noted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(len(ids))
        return hidden(ids, *rest)

    monkeypatch.setattr(endless.model, "hidden", noted)
    endless.complete(again, how)
    assert read[:2] == [4, 7]
    monkeypatch.undo()
    ids = torch.full((7, max(map(len, again))), endless.tokenizer.pad)
    for row, prompt in enumerate(again):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    first = [answer.ids[0] for answer in together]
    draws = torch.rand(7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        logits = endless.model(ids)[torch.arange(7), torch.tensor([len(p) - 1 for p in again])]
    assert first == choose(logits, how, draws).tolist()
    greedy = Sampling(max_tokens=12, temperature=0)
    alone = [endless.complete([prompt], greedy)[0].ids for prompt in again]
    assert [answer.ids for answer in endless.complete(again, greedy)] == alone


def test_padding_is_not_text_to_the_repetition_penalty(
    tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer
) -> None:
    """A model that would say the padding token says it in a batch as it does alone."""
    pad = tiny_tokenizer.pad
    engine = reciting(tiny_tokenizer, [7, pad, 9])
    sampling = Sampling(max_tokens=3, temperature=0, repetition_penalty=1e6)
    alone = engine.complete([[7]], sampling)[0]
    assert alone.ids == [pad]
    assert engine.complete([[7], [30, 31, 32, 33, 34]], sampling)[0] == alone


def test_seeds(engine: Engine) -> None:
    some, hot = prompts(4), {"max_tokens": 16, "temperature": 3.0}
    one, two, other = (engine.complete(some, Sampling(seed=s, **hot)) for s in (5, 5, 6))
    assert one == two != other
    assert engine.complete(some, Sampling(**hot)) != engine.complete(some, Sampling(**hot))
    assert engine.complete(some, Sampling(max_tokens=4, seed=-(2**63)))


@pytest.mark.parametrize("length", [1, 60, CONTEXT - 4, CONTEXT - 1, CONTEXT])
def test_the_end_of_the_context(endless: Engine, length: int) -> None:
    """The last token that fits is predicted from a context that is full, and never fed back."""
    prompt = [0, *(6 + i % 300 for i in range(length - 1))]
    room = CONTEXT + 1 - length
    expected = list(prompt)
    with torch.no_grad():
        for _ in range(room):
            expected.append(int(endless.model(torch.tensor([expected]))[0, -1].argmax()))
    for asked in (room - 1, room, room + 1, 10_000):
        answer = endless.complete([prompt], Sampling(max_tokens=asked, temperature=0))[0]
        assert answer.ids == expected[length : length + min(asked, room)]
        assert answer.finish == "length"
        assert streamed(endless, prompt, Sampling(max_tokens=asked, temperature=0))[0] == answer


def test_rows_reach_the_end_of_the_context_one_by_one(endless: Engine) -> None:
    some = [[0] * n for n in (CONTEXT, CONTEXT - 1, CONTEXT - 30, 3)]
    answers = endless.complete(some, Sampling(max_tokens=60, temperature=0))
    assert [len(a.ids) for a in answers] == [1, 2, 31, 60]


def test_nothing_may_be_asked_for(engine: Engine) -> None:
    assert engine.complete([[0, 9]], Sampling(max_tokens=0)) == [Completion("", [], "length")]
    assert list(engine.stream([0, 9], Sampling(max_tokens=0))) == [Piece("", [], "length")]


def test_a_prompt_that_cannot_be_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="129 tokens exceeds the context of 128"):
        engine.complete([[0], [0] * (CONTEXT + 1)], Sampling())
    with pytest.raises(ValueError, match="at least one token"):
        engine.complete([[0], []], Sampling())
    with pytest.raises(ValueError, match="exceeds"):
        next(engine.stream([0] * (CONTEXT + 1), Sampling()))


def test_a_stream_says_what_complete_says(engine: Engine) -> None:
    finishes = set()
    for seed, prompt in enumerate(prompts(12)):
        sampling = Sampling(max_tokens=40, temperature=9.0, seed=seed)
        whole, _ = streamed(engine, prompt, sampling)
        assert whole == engine.complete([prompt], sampling)[0]
        finishes.add(whole.finish)
    assert finishes == {"stop", "length"}


def test_any_part_of_the_answer_can_stop_it(endless: Engine) -> None:
    """Stop strings of every length from every place, most of them across the borders of tokens."""
    rng, prompt = random.Random(0), [0, 50]
    sampling = {"max_tokens": 40, "temperature": 2.0, "seed": 7}
    free = endless.complete([prompt], Sampling(**sampling))[0].text
    for _ in range(40):
        start = rng.randrange(len(free) - 1)
        stop = free[start : start + rng.randint(1, 6)]
        s = Sampling(stop=(stop, "never said"), **sampling)
        expected = free[: free.find(stop)]
        whole, _ = streamed(endless, prompt, s)
        assert whole.text == expected and whole.finish == "stop"
        again = endless.complete([prompt], s)[0]
        assert again.text == expected and again.finish == "stop"
        assert again.ids == whole.ids


def reciting(tokenizer: Tokenizer, ids: list[int]) -> Engine:
    """A real decoder whose weights make it say `ids`, each token deciding the next: identity blocks, one
    direction a token, and a head that maps each to its follower."""
    size = tokenizer.vocabulary_size
    decoder = Decoder(DecoderConfig(size, size, 1, 1, 1, 2, 2, 32, tied=False))
    decoder.initialise(0)
    assert decoder.head is not None and len(set(ids)) == len(ids)
    with torch.no_grad():
        decoder.embedding.weight.copy_(torch.eye(size))
        decoder.head.weight.zero_()
        for now, following in zip(ids, [*ids[1:], tokenizer.end], strict=True):
            decoder.head.weight[following, now] = 10.0
    return Engine(decoder, tokenizer)


def recited(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...]
) -> tuple[Completion, list[Piece], Completion]:
    """What comes after a first token when a model recites `text` byte by byte."""
    ids = [next(i for i in range(300) if tokenizer.bytes_of(i) == bytes([b])) for b in text.encode()]
    engine = reciting(tokenizer, [tokenizer.bos, *ids])
    sampling = Sampling(max_tokens=30, temperature=0, stop=stop)
    whole, pieces = streamed(engine, [tokenizer.bos], sampling)
    return whole, pieces, engine.complete([[tokenizer.bos]], sampling)[0]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcdefg", (), "abcdefg"),
        ("abcdefg", ("cd",), "ab"),
        ("abcdefg", ("bcdx", "de"), "abc"),  # a false start that another stop string ends
        ("abcdefg", ("bcde", "cd"), "ab"),  # the one complete first, though it begins later
        ("abcdefg", ("bcd", "cd"), "a"),  # both complete at once: the longer
        ("abcdefg", ("fgh",), "abcdefg"),  # what was held back comes out at the end
        ("abcdefg", ("g",), "abcdef"),
        ("abcdefg", ("a",), ""),
        ("学x", ("x",), "学"),
        ("x🦉", ("🦉",), "x"),
    ],
)
def test_stop_strings(tiny_tokenizer: Tokenizer, text: str, stop: tuple[str, ...], expected: str) -> None:
    whole, _, complete = recited(tiny_tokenizer, text, stop)
    assert whole.text == complete.text == expected
    assert whole.finish == complete.finish == "stop"
    assert whole.ids == complete.ids


def test_a_row_that_met_its_stop_string_ends_and_the_others_go_on(tiny_tokenizer: Tokenizer) -> None:
    bos, *ids = [tiny_tokenizer.bos, *map(tiny_tokenizer.encode, "abcdefgh")]
    letters = [index for (index,) in ids]
    engine = reciting(tiny_tokenizer, [bos, *letters])
    sampling = Sampling(max_tokens=30, temperature=0, stop=("cd",))
    first, second = engine.complete([[bos], [letters[2]]], sampling)
    assert first == Completion("ab", letters[:4], "stop")  # with the token that completed it, and no more
    assert second == Completion("defgh", [*letters[3:], tiny_tokenizer.end], "stop")


def test_text_is_held_back_only_while_it_may_be_a_stop_string(tiny_tokenizer: Tokenizer) -> None:
    _, pieces, _ = recited(tiny_tokenizer, "abcdefg", ("bcdx",))
    assert [p.text for p in pieces] == ["a", "bcde", "f", "g", ""]
    _, pieces, _ = recited(tiny_tokenizer, "学a", ())
    assert [p.text for p in pieces] == ["学", "a", ""] and [len(p.ids) for p in pieces] == [3, 1, 1]


def test_closing_a_stream_early_leaves_the_engine_ready(engine: Engine) -> None:
    sampling = Sampling(max_tokens=30, temperature=0)
    before = engine.complete([[0, 60]], sampling)
    stream = engine.stream([0, 60], sampling)
    next(stream)
    stream.close()
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert engine.complete([[0, 60]], sampling) == before


def test_streams_may_take_turns(engine: Engine) -> None:
    """Two half-read answers do not disturb each other, nor training beside them."""
    s = Sampling(max_tokens=10, temperature=0)
    one, two = engine.stream([0, 60], s), engine.stream([0, 99, 100], s)
    texts = ["", ""]
    for a, b in zip(one, two, strict=False):
        texts[0] += a.text
        texts[1] += b.text
        assert torch.zeros(1, requires_grad=True).sum().requires_grad
    texts[0] += "".join(p.text for p in one)
    texts[1] += "".join(p.text for p in two)
    alone = [engine.complete([p], s)[0].text for p in ([0, 60], [0, 99, 100])]
    assert [alone[i].startswith(texts[i]) for i in range(2)] == [True, True] and texts[0]


def test_generating_does_not_touch_the_global_generator(engine: Engine) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    engine.complete([[0, 9]], Sampling(max_tokens=5, seed=1))
    assert torch.equal(torch.rand(3), expected)
