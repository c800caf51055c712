"""lengthen: the model reads further, other software agrees, and a kill changes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from sishu.batches.tokens import Windows, read_tokens
from sishu.config import merge, parse_overrides
from sishu.console import UserError, set_quiet
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import load_decoder, save_model
from sishu.models.longer import Stretch, longer
from sishu.nn.device import autocast
from sishu.objectives.language import next_token
from sishu.road import ASKED_FOR, STAGES, USUAL, Recipe, load_recipe, needed, stage_overrides, walk
from sishu.run import Run
from sishu.stages.lengthen import bits_from, byte_sizes, stretched, windows
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train import trainer as trainer_module

TRAIN = {"steps": 3, "batch": 2, "evaluate_every": 1, "checkpoint_seconds": 0, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    set_quiet(True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences that no other repeats, enough for some long windows on either side."""
    words = ["school", "opens", "eight", "json", "object", "text", "turns", "def", "list", "学而", "之"]
    rng = random.Random(0)
    lines = [" ".join(rng.choices(words, k=12)) + "." for _ in range(600)]
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def recipe(model: Path, text: Path, *words: str) -> Recipe:
    usual = {"model": str(model), "data": str(text), "factor": 2, "train": TRAIN}
    return load_recipe("text", stage_overrides("lengthen", merge(usual, parse_overrides(words))))


def lengthened(folder: Path, chosen: Recipe) -> Run:
    return walk(chosen, folder, needed("lengthen", chosen, Run(folder)))


def test_it_needs_a_model_and_the_text_alone(tiny_model_folder: Path, text: Path, tmp_path: Path) -> None:
    assert needed("lengthen", recipe(tiny_model_folder, text), Run(tmp_path)) == ["corpus", "lengthen"]


@pytest.mark.parametrize("kind", get_args(Stretch))
def test_the_folder_is_that_of_a_longer_model_which_transformers_reads_alike(
    kind: Stretch, tiny_model_folder: Path, text: Path, tmp_path: Path
) -> None:
    run = lengthened(tmp_path, recipe(tiny_model_folder, text, f"kind={kind}", "train.learning_rate=0.01"))
    decoder, _ = load_decoder(tmp_path / "lengthen" / "model")
    before, _ = load_decoder(tiny_model_folder)
    assert decoder.config.context_length == 256
    assert not torch.equal(decoder.embedding.weight, before.embedding.weight), "it was trained"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "lengthen" / "model").eval()
    ids = torch.randint(3, 320, (2, 256), generator=torch.Generator().manual_seed(1))
    for length in (100, 200, 256):  # upwards: transformers keeps the dynamic angles of the longest text
        with torch.no_grad():
            ours, other = decoder(ids[:, :length]), theirs(ids[:, :length]).logits
        torch.testing.assert_close(ours, other, atol=2e-4, rtol=2e-4)
    figures = run.manifest("lengthen")["figures"]  # type: ignore[index]
    assert (figures["old_context"], figures["context"]) == (128, 256)
    assert figures["tokens_seen"] == 3 * 2 * 256


def test_the_figures_are_those_of_the_models_they_name(
    tiny_model_folder: Path, text: Path, tmp_path: Path
) -> None:
    run = lengthened(tmp_path, recipe(tiny_model_folder, text))
    figures: dict[str, Any] = run.manifest("lengthen")["figures"]  # type: ignore[index]
    held_out = read_tokens(tmp_path / "lengthen" / "validation.bin", 320)
    rows = windows(held_out, 256, 65_536)
    before, tokenizer = load_decoder(tiny_model_folder)
    after, _ = load_decoder(tmp_path / "lengthen" / "model")
    sizes = byte_sizes(tokenizer, 320)
    for name, model in (
        ("bits_per_byte_before", before),
        ("bits_per_byte_untrained", stretched(before, longer(before.config, 2))),
        ("bits_per_byte", after),
    ):
        expected = bits_from(model.eval(), rows, sizes, 192, "fp32")
        assert figures[name]["last_quarter"] == pytest.approx(expected, abs=2e-5)
    assert len({str(figures[n]) for n in figures if n.startswith("bits")}) == 3


def test_bits_are_counted_from_a_position_on(tiny_decoder: Decoder, tiny_tokenizer: Tokenizer) -> None:
    text = "学而时习之 What is a list? " * 8
    ids = [tiny_tokenizer.bos, *tiny_tokenizer.encode(text)][:101]
    ids[50] = tiny_tokenizer.bos  # context, not counted
    rows = torch.tensor([ids])
    log_p = tiny_decoder(rows[:, :-1]).log_softmax(-1).detach()
    nats, size = 0.0, 0
    for at in range(40, 100):
        if ids[at + 1] != tiny_tokenizer.bos:
            nats -= float(log_p[0, at, ids[at + 1]])
            size += len(tiny_tokenizer.bytes_of(ids[at + 1]))
    got = bits_from(tiny_decoder, rows, byte_sizes(tiny_tokenizer, 320), 40, "fp32")
    assert got == pytest.approx(nats / size / 0.6931471805599453, rel=1e-5)


def test_killed_and_resumed_is_the_same_bytes(
    tiny_model_folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(tiny_model_folder, text, "train.steps=4", "train.learning_rate=0.003")
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    lengthened(calm, chosen)
    steps, real = [], trainer_module.Trainer._step

    def fall(self: Any, step: int) -> dict[str, float]:
        steps.append(step)
        if len(steps) in (1, 3, 6):
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(trainer_module.Trainer, "_step", fall)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            lengthened(stormy, chosen)
    run = lengthened(stormy, chosen)
    assert steps == [0, 0, 1, 1, 2, 3, 3], "it went on where it was"
    for file in ("model/model.safetensors", "model/config.json"):
        assert (stormy / "lengthen" / file).read_bytes() == (calm / "lengthen" / file).read_bytes()
    manifest = run.manifest("lengthen")
    assert manifest is not None and manifest["resumed"] == 3
    assert manifest["figures"] == Run(calm).manifest("lengthen")["figures"]  # type: ignore[index]
    assert not list(stormy.rglob("checkpoint"))


def test_it_learns_what_stands_far_behind(tiny_tokenizer: Tokenizer) -> None:
    """A model of random sentences that come again after 60 tokens, trained at a window of 40, where they do
    not, learns by longer windows to look that far back, which stretching alone does not give it."""
    torch.manual_seed(0)
    rng = random.Random(1)
    tokens: list[int] = []
    for _ in range(60):
        sentence = [rng.randrange(3, 320) for _ in range(60)]
        tokens += sentence * 2
    data = torch.tensor(tokens).numpy().astype("uint16")
    config = DecoderConfig(320, 64, 2, 4, 4, 16, 128, 40)
    model = Decoder(config)
    model.initialise(0)

    def train(one: Decoder, steps: int, rate: float) -> None:
        source = Windows(data, one.config.context_length, 16, 16, 0)
        optimizer = torch.optim.AdamW(one.parameters(), rate)
        for step in range(steps):
            with autocast(torch.device("cpu"), "fp32"):
                loss = next_token(one, source.batches(step)[0]).total
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    train(model, 30, 3e-3)
    far = windows(data, 160, 4000)
    sizes = torch.ones(320, dtype=torch.long)
    long = stretched(model, longer(config, 4))
    untrained = bits_from(long.eval(), far, sizes, 120, "fp32")
    train(long.train(), 30, 3e-3)
    assert bits_from(long.eval(), far, sizes, 120, "fp32") < untrained - 0.3


def test_a_text_shorter_than_the_window_is_refused_before_training(
    tiny_model_folder: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"held-out text has [\d,]+ tokens and the longer window 128,000"):
        lengthened(tmp_path, recipe(tiny_model_folder, text, "factor=1000"))


def test_positions_that_cannot_be_stretched_are_refused(
    tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer, text: Path, tmp_path: Path
) -> None:
    gpt2 = DecoderConfig(
        **{"vocabulary": 320, "width": 32, "layers": 1, "heads": 4, "kv_heads": 4, "head_width": 8},
        **{"hidden": 64, "context_length": 128, "family": "gpt2", "norm": "layer", "positions": "learned"},
        **{"qk_norm": False, "attention_bias": True, "output_bias": True, "gated": False, "mlp_bias": True},
        activation="gelu_tanh",
        norm_eps=1e-5,
    )
    save_model(Decoder(gpt2), tiny_tokenizer, tmp_path / "gpt2")
    with pytest.raises(UserError, match="learned positions cannot be made longer"):
        lengthened(tmp_path / "run", recipe(tmp_path / "gpt2", text))


# --- on the road


def test_only_a_recipe_that_names_it_walks_it(tmp_path: Path) -> None:
    assert "lengthen" in STAGES and "lengthen" not in USUAL
    assert Recipe().stages == USUAL == [name for name in STAGES if name not in ASKED_FOR]
    run = Run(tmp_path)
    plain, named = Recipe(), Recipe(stages=[*USUAL, "lengthen"])
    assert named.stages.index("lengthen") == named.stages.index("pretrain") + 1
    assert "lengthen" not in needed("ppo", plain, run)
    assert "lengthen" in needed("sft", named, run), "fine-tuning starts from the longer model"


def test_the_stages_behind_it_start_from_the_longer_model(text: Path, tmp_path: Path) -> None:
    words = [
        f"corpus.data={text}",
        "tokenizer.vocabulary=300",
        "pretrain.model={depth: 1, width: 32, context_length: 32}",
        "pretrain.train={steps: 2, batch: 2}",
        "lengthen={factor: 2, train: {steps: 1, batch: 2}}",
        "stages=[corpus, tokenizer, pretrain, lengthen, eval]",
        *("eval.samples=1", "eval.max_tokens=4"),
    ]
    chosen = load_recipe("text", parse_overrides(words))
    run = walk(chosen, tmp_path, chosen.stages)
    manifest = run.manifest("eval")
    assert manifest is not None and manifest["inputs"]["pretrain"]["path"] == "lengthen/model"
    assert load_decoder(tmp_path / "lengthen" / "model")[0].config.context_length == 64
