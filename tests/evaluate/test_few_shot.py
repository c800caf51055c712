"""Few-shot prompts, answers written and ranked, calibration, and the curve, on real small models."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sishu.console import UserError
from sishu.evaluate import few_shot
from sishu.evaluate.few_shot import (
    CONTENT_FREE,
    Answering,
    Example,
    Examples,
    answers,
    few_shot_prompt,
    label_scores,
    learning_curve,
    read_examples,
    right,
)
from sishu.generate.batching import BatchingEngine
from sishu.models.decoder import Decoder
from sishu.models.longer import longer
from sishu.stages.lengthen import stretched
from sishu.tokenizer.tokenizer import Tokenizer

COLOURS = Examples(
    (Example("sky", "blue"), Example("grass", "green"), Example("sea", "blue"), Example("leaf", "green")),
    "Name the colour.",
    "Thing",
    "Colour",
)


@pytest.fixture(scope="module")
def engine(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> BatchingEngine:
    """Random weights, room for prompts."""
    return BatchingEngine(stretched(tiny_decoder, longer(tiny_decoder.config, 4)), tiny_tokenizer)


# --- files


def test_examples_from_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    lines = [
        {"instruction": "Name the colour.", "input_name": "Thing", "output_name": "Colour"},
        *({"input": item.input, "output": item.output} for item in COLOURS.items),
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    assert read_examples(path) == COLOURS


def test_examples_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text('Thing,Colour\nsky,blue\n"a ""big"" sea, wide","blue\nor green"\n', encoding="utf-8-sig")
    found = read_examples(path)
    assert found.input_name == "Thing" and found.output_name == "Colour"
    assert found.items == (Example("sky", "blue"), Example('a "big" sea, wide', "blue\nor green"))
    path.write_text("input,output\na,b\n")
    assert (read_examples(path).input_name, read_examples(path).output_name) == ("Input", "Output")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.jsonl", '{"input": "a"}', "Line 1 of .*lacks input or output"),
        ("e.jsonl", '{"input": "a", "output": "b"}\n{', "Line 2 of .*is not JSON"),
        ("e.jsonl", '{"input": "a", "output": 1}', "Line 1 of .*not an object of texts"),
        ("e.jsonl", "[1]", "Line 1 of .*not an object of texts"),
        ("e.jsonl", "\n", "holds no examples"),
        ("e.csv", "a,b\n1,2,3\n", "Row 2 of .*has 3 columns"),
        ("e.csv", 'a,b\n"1,2\n', "not a table in CSV"),
        ("e.csv", "a,b\n", "holds no examples"),
        ("e.csv", "", "holds no examples"),
    ],
)
def test_files_that_hold_no_examples_are_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_examples(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as examples"):
        read_examples(tmp_path / "none.jsonl")


# --- prompts


def test_the_prompt_ends_where_the_answer_begins() -> None:
    two = replace(COLOURS, items=COLOURS.items[:2])
    assert few_shot_prompt(two, "snow") == (
        "Name the colour.\n\nThing: sky\nColour: blue\n\nThing: grass\nColour: green\n\nThing: snow\nColour:"
    )
    assert few_shot_prompt(Examples(()), "x") == "Input: x\nOutput:"
    assert COLOURS.labels == ("blue", "green")


def test_an_answer_ends_with_its_line_or_with_the_next_question() -> None:
    assert COLOURS.stop == "\n"
    assert replace(COLOURS, items=(Example("a", "b\nc"),)).stop == "\n\nThing:"


# --- answers


def test_right_answers_differ_in_spaces_and_capitals_alone() -> None:
    assert right(" Blue  sky\n", "blue sky") and not right("blue", "blue sky")


def taught(start: Decoder, tokenizer: Tokenizer, texts: list[str]) -> BatchingEngine:
    """A model that knows these texts by heart."""
    model = stretched(copy.deepcopy(start), longer(start.config, 4)).train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    rows = [torch.tensor([tokenizer.begin(tokenizer.encode(text))]) for text in texts]
    for _ in range(60):
        for row in rows:
            torch.nn.functional.cross_entropy(model(row[:, :-1])[0], row[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return BatchingEngine(model, tokenizer)


def test_written_answers_end_with_their_line(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    shown = replace(COLOURS, items=COLOURS.items[:1])
    texts = [few_shot_prompt(shown, thing) + f" {colour}\n\nThing: x" for thing, colour in _TWO]
    engine = taught(tiny_decoder, tiny_tokenizer, texts)
    assert answers(engine, shown, [thing for thing, _ in _TWO]) == [colour for _, colour in _TWO]
    assert answers(engine, shown, ["grass"], Answering(max_tokens=1))[0] in (
        "",
        "g",
        "gr",
        "gre",
        "gree",
        "green",
    )
    chosen = answers(engine, shown, [thing for thing, _ in _TWO], Answering(("green", "blue")))
    assert chosen == [colour for _, colour in _TWO]


_TWO = (("grass", "green"), ("sea", "blue"))


def test_labels_are_scored_by_their_probability(engine: BatchingEngine, tiny_tokenizer: Tokenizer) -> None:
    labels = ("blue", "green and long")
    scores = label_scores(engine, COLOURS, ["snow", "coal"], Answering(labels))
    means = label_scores(engine, COLOURS, ["snow", "coal"], Answering(labels, normalised=True))
    for question, row, mean in zip(("snow", "coal"), scores, means, strict=True):
        prompt = few_shot_prompt(COLOURS, question)
        for label, score, per_token in zip(labels, row, mean, strict=True):
            ids = tiny_tokenizer.begin(tiny_tokenizer.encode(f"{prompt} {label}"))
            alone = tiny_tokenizer.begin(tiny_tokenizer.encode(prompt))
            assert ids[: len(alone)] == alone
            with torch.no_grad():
                log_p = engine.model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
            told = [float(log_p[at - 1, ids[at]]) for at in range(len(alone), len(ids))]
            assert score == pytest.approx(sum(told), abs=1e-3)
            assert per_token == pytest.approx(sum(told) / len(told), abs=1e-3)


def test_calibration_divides_by_what_the_labels_get_for_nothing(
    engine: BatchingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ("blue", "green", "red")
    plain = torch.tensor(label_scores(engine, COLOURS, ["snow", *CONTENT_FREE], Answering(labels)))
    (found,) = label_scores(engine, COLOURS, ["snow"], Answering(labels, calibrated=True))
    shares = plain.softmax(1)
    expected = shares[0] / shares[1:].mean(0)
    assert torch.tensor(found).softmax(0).tolist() == pytest.approx(
        (expected / expected.sum()).tolist(), abs=1e-5
    )
    monkeypatch.setattr(few_shot, "CONTENT_FREE", ("N/A",))
    (even,) = label_scores(engine, COLOURS, ["N/A"], Answering(labels, calibrated=True))
    assert even == pytest.approx([0, 0, 0], abs=1e-5), "nothing said, nothing preferred"


def test_examples_that_do_not_fit_are_refused(engine: BatchingEngine) -> None:
    many = replace(COLOURS, items=COLOURS.items * 30)
    for how in (Answering(), Answering(("blue", "green"))):
        with pytest.raises(
            UserError, match=r"120 examples and a question are [\d,]+ tokens and the model reads 512"
        ):
            answers(engine, many, ["snow"], how)


# --- the curve


def test_the_curve_counts_right_answers(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    none = replace(COLOURS, items=())
    texts = [few_shot_prompt(none, thing) + f" {colour}\n\nThing: x" for thing, colour in _TWO]
    engine = taught(tiny_decoder, tiny_tokenizer, texts)
    questions = [Example("grass", "green"), Example("sea", "green")]
    points = learning_curve(engine, COLOURS, questions, (2, 0, 1), repeats=3, seed=5)
    assert [p.shots for p in points] == [0, 1, 2]
    assert [len(p.accuracies) for p in points] == [1, 3, 3]
    assert points[0].mean == 0.5 and points[0].spread == 0
    assert points == learning_curve(engine, COLOURS, questions, (0, 1, 2), repeats=3, seed=5)


def test_a_curve_needs_questions_and_enough_examples(engine: BatchingEngine) -> None:
    with pytest.raises(UserError, match="There are 4 examples and 5 were asked for"):
        learning_curve(engine, COLOURS, COLOURS.items, (5,))
    with pytest.raises(UserError, match="no questions"):
        learning_curve(engine, COLOURS, [], (1,))
