"""The vocabulary of a run: learnt, of characters, or a ready one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sishu.config import parse_overrides
from sishu.console import UserError
from sishu.corpus.document import Document, document_id
from sishu.corpus.table import write_documents
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.gguf.writing import save_gguf
from sishu.road import load_recipe, walk
from sishu.run import StageContext
from sishu.stages.facts import gather_facts
from sishu.stages.tokenizer import TokenizerSettings, first, ready_tokenizer, work
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.tokenizer.train import train_bpe

TEXTS = ["The school opens at seven.", "先生开门了。先生读书。", "naïve café, 42 €"]


def made(settings: dict[str, Any], folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """What the stage makes of the texts, and its figures."""

    def documents(texts: list[str]) -> list[Document]:
        return [Document(document_id(t), t, "", t) for t in texts]

    write_documents(
        folder / "documents.parquet", {"train": documents(TEXTS), "validation": documents(TEXTS[:1])}
    )
    inputs = {"documents": folder / "documents.parquet"}
    figures = work(
        TokenizerSettings(**settings), StageContext("tokenizer", folder / "made", 1, inputs, False)
    )
    return Tokenizer.load(folder / "made"), figures


def test_every_character_is_a_token(tmp_path: Path) -> None:
    tokenizer, figures = made({"kind": "characters"}, tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text) and tokenizer.decode(ids) == text
    beyond = {c for text in TEXTS for c in text if not c.isascii()}
    assert 262 + len(beyond) < tokenizer.vocabulary_size == figures["vocabulary"] < 262 + 2 * len(beyond)
    assert figures["bytes_per_token_validation"] == figures["baselines"]["characters"] == 1.0


def test_a_ready_tokenizer_is_taken_as_it_is(tmp_path: Path) -> None:
    ready = train_bpe(["what is a list? 列表是什么?"] * 20, 400)
    ready.save(tmp_path / "ready")
    config = DecoderConfig(ready.vocabulary_size, 16, 1, 2, 1, 8, 32, 64)
    plain = train_bpe(["what is a list? 列表是什么?"] * 20, 400, pattern="gpt-4o")
    save_gguf(Decoder(config), plain, tmp_path / "model.gguf")
    paths = {"ready": ready, "ready/tokenizer.json": ready, "model.gguf": plain}
    for name, wanted in paths.items():
        tokenizer, figures = made({"ready": tmp_path / name, "vocabulary": 300}, tmp_path)
        assert figures["vocabulary"] == wanted.vocabulary_size
        assert [tokenizer.encode(t) for t in TEXTS] == [wanted.encode(t) for t in TEXTS]
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        ready_tokenizer(tmp_path / "made" / "nothing")


def test_the_plan_knows_how_large_a_ready_vocabulary_is(tmp_path: Path) -> None:
    ready = train_bpe(["what is a list? 列表是什么?"] * 20, 400)
    ready.save(tmp_path)
    asked = f"tokenizer.ready={tmp_path}"
    facts = gather_facts(load_recipe("text", parse_overrides([asked, "tokenizer.vocabulary=9000"])), None)
    assert facts.vocabulary == ready.vocabulary_size and facts.assumed == ()
    letters = gather_facts(load_recipe("text", parse_overrides(["tokenizer.kind=characters"])), None)
    assert letters.vocabulary == 262 and "262" in letters.assumed[0]


def test_a_foreign_tokenizer_without_a_beginning_serves_pretraining(tmp_path: Path) -> None:
    """Such as Qwen's: documents are told apart by the token that ends a text."""
    ready = train_bpe(["what is a list? 列表是什么?"] * 20, 400)
    ready.save(tmp_path / "ready")
    config = tmp_path / "ready" / "tokenizer_config.json"
    config.write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": "x"}'
    )
    foreign = Tokenizer.load(tmp_path / "ready")
    assert foreign.bos_id is None and not foreign.own
    (tmp_path / "text.txt").write_text("What is a list? A list is a list. " * 60, encoding="utf-8")
    tiny = "{preset: qwen3-0.6b, depth: 1, width: 32, heads: 2, hidden: 64, context_length: 32}"
    words = [f"corpus.data={tmp_path / 'text.txt'}", f"tokenizer.ready={tmp_path / 'ready'}"]
    words += [f"pretrain.model={tiny}"]
    words += ["stages=[corpus,tokenizer,pretrain,eval]", "pretrain.train.steps=4", "pretrain.train.batch=4"]
    recipe = load_recipe("text", parse_overrides([*words, "eval.samples=1", "eval.max_tokens=4"]))
    run = walk(recipe, tmp_path / "run", recipe.stages)
    manifest = run.manifest("eval")
    assert manifest is not None and manifest["figures"]["bits_per_byte"]["base"] > 0


def test_the_beginning_of_many_texts() -> None:
    assert first(["aaa", "bb", "c"], 4) == ["aaa", "bb"] and first(iter(["aaa"]), 9) == ["aaa"]
