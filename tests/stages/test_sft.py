"""sft: groups stay on one side of the split, the loss is the answers', and the stage learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from warcio.warcwriter import WARCWriter

from sishu.batches.conversations import encode_all, read_conversations, write_conversations
from sishu.config import build
from sishu.console import UserError, set_quiet
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import load_decoder, save_model
from sishu.run import Run, external_input
from sishu.stages.sft import STAGE, SftSettings, answer_loss, split, work
from sishu.tokenizer.tokenizer import Tokenizer


def talk(number: int, group: str | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": f"It is {number}. 学而时习之 🙂"},
        ]
    }
    return item | ({"group": group} if group else {})


@pytest.fixture(autouse=True)
def _quiet() -> None:
    set_quiet(True)


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer
) -> Path:
    """A fresh model, as pretraining would leave it."""
    decoder = Decoder(tiny_config)
    decoder.initialise(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(decoder, tiny_tokenizer, folder)
    return folder


def test_a_group_stays_on_one_side() -> None:
    items = [talk(i, group=f"module{i % 40}") for i in range(400)]
    train, held_out = split(items, 0.2)
    assert sorted(map(json.dumps, train + held_out)) == sorted(map(json.dumps, items))
    assert not {x["group"] for x in train} & {x["group"] for x in held_out}
    assert 20 < len(held_out) < 160
    assert split(items, 0.2) == (train, held_out), "the split is a function of the items"
    more = split([*items, talk(999, group="another")], 0.2)
    assert all(x in more[1] for x in held_out), "and a group keeps its side when others come"


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_neither_side_is_empty(count: int, share: float) -> None:
    for group in (None, "one"):
        items = [talk(i, group) for i in range(count)]
        train, held_out = split(items, share)
        assert train and held_out and len(train) + len(held_out) == count


def test_one_conversation_is_not_enough() -> None:
    with pytest.raises(UserError, match="at least two"):
        split([talk(0)], 0.5)


@torch.no_grad()
def test_the_loss_is_of_the_answers_words_only(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    rows = encode_all([talk(i * 37) for i in range(5)], tiny_tokenizer, 128)
    nats = []
    for row in rows:
        log_p = tiny_decoder(torch.tensor([row.ids[:-1]]))[0].log_softmax(-1)
        nats += [-float(log_p[t, row.ids[t + 1]]) for t in range(len(row.ids) - 1) if row.mask[t + 1]]
    assert answer_loss(tiny_decoder, rows, tiny_tokenizer.pad, "fp32") == pytest.approx(
        sum(nats) / len(nats), abs=1e-4
    )


def run(folder: Path, data: Path, model: Path, from_pages: bool = False) -> tuple[dict[str, Any], Path]:
    train = {"steps": 12, "batch": 8, "micro_batch": 4, "learning_rate": 0.01, "precision": "fp32"}
    data_given = {} if from_pages else {"data": data}
    settings = build(SftSettings, {"model": model, "held_out": 0.2, "train": train} | data_given)
    inputs = {"data": external_input(data), "model": external_input(model)}
    with Run(folder).begin("sft", "key", settings, inputs, seed=0) as (context, figures):
        figures |= work(settings, context)
    return figures, folder / "sft"


def test_the_stage_learns_to_answer(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "talk.jsonl"
    too_long = [talk(7), talk(8)]
    for item in too_long:
        item["messages"][0]["content"] *= 60
    items = [talk(i) for i in range(40)] + too_long
    data.write_text(write_conversations(items), encoding="utf-8")
    figures, folder = run(tmp_path / "run", data, model)
    train = read_conversations(folder / "conversations-train.jsonl")
    held_out = read_conversations(folder / "conversations-validation.jsonl")
    assert len(train) + len(held_out) == 42
    assert figures["conversations"] + figures["held_out_conversations"] == 40
    assert figures["left_out_too_long"] == 2
    before, tokenizer = load_decoder(model)
    after, _ = load_decoder(folder / "model")
    rows = encode_all(held_out, tokenizer, 128)
    losses = [answer_loss(m, rows, tokenizer.pad, "fp32") for m in (before, after)]
    assert losses[1] < 0.7 * losses[0]
    assert figures["validation_loss"] == pytest.approx(losses[1], abs=1e-4)
    assert not (folder / "checkpoint").exists()
    theirs = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        assert (theirs(ids).logits - after(ids)).abs().max() < 1e-4
    again, second = run(tmp_path / "again", data, model)
    assert again == figures
    assert (second / "model" / "model.safetensors").read_bytes() == (
        folder / "model" / "model.safetensors"
    ).read_bytes()


def test_conversations_that_do_not_fit_are_named(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "talk.jsonl"
    items = [talk(i) for i in range(4)]
    for item in items:
        item["messages"][0]["content"] *= 60
    data.write_text(write_conversations(items), encoding="utf-8")
    with pytest.raises(UserError, match="context of 128 tokens"):
        run(tmp_path / "run", data, model)


def test_a_message_with_an_unknown_role_is_named(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "talk.jsonl"
    items = [talk(i) for i in range(4)]
    items[2]["messages"][0]["role"] = "tool"
    data.write_text(write_conversations(items), encoding="utf-8")
    with pytest.raises(UserError, match="role 'tool'"):
        run(tmp_path / "run", data, model)


def test_pages_without_lessons_are_named(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "pages.warc.gz"
    with data.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warcinfo_record("pages.warc.gz", {"software": "a test"}))
    with pytest.raises(UserError, match=r"no documentation.*sft\.data"):
        run(tmp_path / "run", data, model, from_pages=True)


def test_what_the_stage_needs_can_be_given_from_outside() -> None:
    assert {n.setting for n in STAGE.needs} <= set(SftSettings.model_fields)
