"""Answers with a form: whatever a model of random weights says, the form holds."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from sishu.console import UserError
from sishu.generate import guide, structured
from sishu.generate.guide import Guide
from sishu.generate.sampler import sample
from sishu.generate.sampling import Sampling
from sishu.generate.structured import Guides, GuideState
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.tokenizer.tokenizer import Tokenizer

VOCABULARY = 333
"""Above the tokenizer's 320, as in models whose tables are padded."""

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "colour": {"enum": ["red", "green", "蓝色"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "inner": {
            "type": "object",
            "properties": {
                "ok": {"type": "boolean"},
                "x": {"type": ["number", "null"], "maximum": 9, "minimum": -9},
            },
            "required": ["ok"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "colour", "inner"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def guides(tiny_tokenizer: Tokenizer) -> Any:
    made = Guides(tiny_tokenizer, VOCABULARY, (tiny_tokenizer.end, tiny_tokenizer.pad))
    yield made
    made.close()


def answers(
    guides: Guides, tokenizer: Tokenizer, orders: list[Guide], sampling: Sampling, most: int = 400
) -> list[str | None]:
    """One answer per order from random logits, all in one batch; None for one that came to no end."""
    generator = torch.Generator().manual_seed(0)
    states = [guides.start(order) for order in orders]
    ids: list[list[int]] = [[] for _ in orders]
    live = list(range(len(orders)))
    soon = guides.masks_soon(states)
    for step in range(most):
        logits = 2 * torch.randn(len(live), VOCABULARY, generator=generator)
        tokens = sample(logits, [sampling] * len(live), live, [step] * len(live), None, soon.result())
        going = []
        for row, token in zip(live, tokens.tolist(), strict=True):
            if token in (tokenizer.end, tokenizer.pad):
                assert states[row].complete
                states[row].accept(token)
                assert states[row].stopped
                continue
            states[row].accept(token)
            ids[row].append(token)
            going.append(row)
        live = going
        if not live:
            break
        soon = guides.masks_soon([states[row] for row in live])
    return [None if row in live else tokenizer.decode(row_ids) for row, row_ids in enumerate(ids)]


def test_whatever_is_said_is_valid_json(guides: Guides, tiny_tokenizer: Tokenizer) -> None:
    """200 answers at temperature 1, Chinese among them, all of which end by themselves."""
    told = answers(guides, tiny_tokenizer, [Guide.of_schema(SCHEMA)] * 200, Sampling())
    for text in told:
        assert text is not None
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(told)) == 200
    assert any("蓝色" in json.loads(text)["colour"] for text in told if text)
    assert any(ord(c) > 0x2E80 for text in told if text for c in json.loads(text)["name"])


def test_a_model_can_be_guided_to_the_end(tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer) -> None:
    """A real model of random weights, whose answers are cut off at its context's end."""
    torch.manual_seed(0)
    model = Decoder(replace(tiny_config, tied=False)).eval()
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
    own = Guides(tiny_tokenizer, tiny_config.vocabulary)
    whole = 0
    for seed in range(20):
        state, text = own.start(Guide.of_schema(schema)), [0]
        while not state.stopped and len(text) < tiny_config.context_length:
            with torch.no_grad():
                logits = model(torch.tensor([text]))[:, -1]
            token = int(sample(logits, [Sampling()], [seed], [len(text)], None, own.masks([state])))
            state.accept(token)
            text.append(token)
        if state.complete:
            whole += 1
            jsonschema.validate(json.loads(tiny_tokenizer.decode(text[1:])), schema)
    own.close()
    assert whole > 10


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-f]{3}-[0-9]{2,4}",
        r"(ja|nein)!?",
        r"[一-龥]{2,5}。",
        r"[a-z]{1,20}@[^@.]{1,9}\.org",
        r"(a|bc)*d",
    ],
)
def test_a_regular_expression_matches_the_whole_answer(
    guides: Guides, tiny_tokenizer: Tokenizer, pattern: str
) -> None:
    told = answers(guides, tiny_tokenizer, [Guide("regex", pattern)] * 40, Sampling())
    assert [text for text in told if text is None or not re.fullmatch(pattern, text)] == []
    assert len(set(told)) > 1


def test_a_choice_a_grammar_and_any_object(guides: Guides, tiny_tokenizer: Tokenizer) -> None:
    choices = ["yes", "no", 'maybe "so"', "也许", "yes, indeed", "line\nbreak", "\\"]
    sums = Guide("lark", 'start: sum\nsum: NUMBER | NUMBER "+" sum\nNUMBER: /[1-9][0-9]?/')
    orders = [Guide.of_choices(choices)] * 60 + [sums] * 20 + [Guide("json_object")] * 20
    told = answers(guides, tiny_tokenizer, orders, Sampling(), most=250)
    assert set(told[:60]) == set(choices)
    assert all(text is None or re.fullmatch(r"[1-9]\d?(\+[1-9]\d?)*", text) for text in told[60:80])
    objects = [json.loads(text) for text in told[80:] if text is not None]
    assert len(objects) > 5 and all(isinstance(one, dict) for one in objects)


def test_rows_without_a_form_are_free_and_special_tokens_are_no_text(
    guides: Guides, tiny_tokenizer: Tokenizer
) -> None:
    state = guides.start(Guide("regex", "(.|\n)*"))
    masks = guides.masks([None, state, None])
    assert masks.shape == (3, 11) and masks.dtype == torch.int32
    assert (masks[0] == -1).all() and (masks[2] == -1).all()
    free = allowed(masks[1])
    special = set(tiny_tokenizer.special.values())
    assert free & special == {tiny_tokenizer.end, tiny_tokenizer.pad}
    assert max(free) < tiny_tokenizer.vocabulary_size
    whole = {i for i in range(320) if tiny_tokenizer.bytes_of(i).isascii() and i not in special}
    assert whole <= free


def allowed(row: Tensor) -> set[int]:
    return {32 * w + i for w, word in enumerate(row.tolist()) for i in range(32) if word >> i & 1}


def spoken(state: GuideState, tokenizer: Tokenizer, ids: list[int]) -> None:
    for token in ids:
        state.accept(token)


def test_forced_tokens_are_those_of_the_unguided_text(guides: Guides, tiny_tokenizer: Tokenizer) -> None:
    for text in ("The quick brown fox", "你好，世界 and more", '{"a": 1}', "x"):
        state = guides.start(Guide.of_choices([text]))
        said: list[int] = []
        while not state.complete:
            forced = state.forced()
            assert forced
            spoken(state, tiny_tokenizer, forced)
            said += forced
        assert said == tiny_tokenizer.encode(text)
        assert state.stopped
    fork = guides.start(Guide.of_choices(["The red one", "The blue one"]))
    first = fork.forced()
    assert first and "The ".startswith(tiny_tokenizer.decode(first))


def test_a_proposal_is_followed_as_far_as_the_form_allows(guides: Guides, tiny_tokenizer: Tokenizer) -> None:
    state = guides.start(Guide("regex", "[ab]{4}"))
    a, b, c = (tiny_tokenizer.encode(letter)[0] for letter in "abc")
    before = guides.masks([state])
    assert state.allowed([a, b, c, a]) == 2 and state.allowed([c]) == 0
    assert torch.equal(guides.masks([state]), before)
    spoken(state, tiny_tokenizer, [a, b, a, b])
    assert state.complete and state.stopped
    state.back(3)
    assert not state.complete and state.allowed([b, a, a]) == 3
    with pytest.raises(ValueError, match=f"does not allow token {c}"):
        state.accept(c)


def test_states_of_one_form_go_their_own_ways(guides: Guides, tiny_tokenizer: Tokenizer) -> None:
    one, two = (guides.start(Guide("regex", "a[xy]|b[yz]")) for _ in range(2))
    a, b = (tiny_tokenizer.encode(letter)[0] for letter in "ab")
    one.accept(a)
    two.accept(b)
    first, second = (allowed(row) for row in guides.masks([one, two]))
    x, y, z = (tiny_tokenizer.encode(letter)[0] for letter in "xyz")
    assert (first, second) == ({x, y}, {y, z})


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Guide("json_schema", '{"type": "wat"}'), "The JSON schema is not usable: .*wat"),
        (Guide("json_schema", '{"not": {"type": "string"}}'), "The JSON schema is not usable: .*not"),
        (Guide("json_schema", '{"type": '), "The JSON schema is not usable: "),
        (Guide("json_schema", "[1]"), "The JSON schema is not usable: it must be an object"),
        (Guide("regex", "a(b"), "The regular expression is not usable: unclosed group"),
        (Guide("regex", "a(?=b)"), "The regular expression is not usable: look-around"),
        (Guide("lark", "start: nothing"), "The grammar is not usable: .*nothing"),
        (Guide("lark", "what is this"), "The grammar is not usable: "),
        (Guide("choice", "[]"), "The list of choices is not usable: a choice needs"),
        (Guide("choice", '"abc"'), "The list of choices is not usable: a choice needs"),
        (Guide("regex", "(" * 300 + "a" + "{1,900}){1,900}" * 300), "The regular expression is not usable: "),
    ],
)
def test_a_form_that_is_wrong_is_named(guides: Guides, order: Guide, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        guides.start(order)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_form_has_a_bounded_size() -> None:
    with pytest.raises(ValueError, match="longer than"):
        Guide("regex", "a" * (guide.LONGEST + 1))
    for wrong in ([], [""], "abc"):
        with pytest.raises(ValueError, match="choice"):
            Guide.of_choices(wrong)


def test_forms_are_compiled_once_and_forgotten_in_time(
    guides: Guides, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Guide] = []
    compiling = guides._compile

    def noted(order: Guide) -> Any:
        compiled.append(order)
        return compiling(order)

    monkeypatch.setattr(guides, "_compile", noted)
    monkeypatch.setattr(structured, "REMEMBERED", 3)
    several = [Guide("regex", f"once{i}") for i in range(4)]
    for order in (
        several[0],
        several[0],
        several[1],
        several[2],
        several[0],
        several[3],
        several[0],
        several[1],
    ):
        guides.start(order)
    assert [int(order.text[-1]) for order in compiled] == [0, 1, 2, 3, 1]


def test_threads_may_share_the_forms(guides: Guides, tiny_tokenizer: Tokenizer) -> None:
    def one(place: int) -> bool:
        state = guides.start(Guide("regex", f"thread{place % 3}[xy]"))
        spoken(state, tiny_tokenizer, tiny_tokenizer.encode(f"thread{place % 3}"))
        x, y = (tiny_tokenizer.encode(letter)[0] for letter in "xy")
        return allowed(guides.masks([state])[0]) == {x, y}

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(60)))
