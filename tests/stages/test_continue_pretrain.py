"""continue_pretrain: learns the field, keeps the rest by replay, tells both truly, and survives a kill."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sishu.batches.tokens import read_documents, read_tokens
from sishu.config import merge, parse_overrides
from sishu.console import UserError, set_quiet
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import load_decoder, save_model
from sishu.models.open import open_config
from sishu.road import Recipe, load_recipe, needed, stage_overrides, walk
from sishu.run import Run
from sishu.stages import continue_pretrain as stage
from sishu.stages.continue_pretrain import general_texts, spread
from sishu.stages.facts import gather_facts
from sishu.stages.forecast import plan_stages
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train import trainer as trainer_module

CALMLY = ("train.batch=16", "train.evaluate_every=100", "train.checkpoint_seconds=100")
TRAIN = {"steps": 3, "batch": 5, "evaluate_every": 2, "checkpoint_seconds": 0, "precision": "fp32"}
FIELD = ["json", "object", "text", "turns", "def", "list", "return", "x + 1"]
GENERAL = ["school", "opens", "eight", "What", "is", "it", "学而", "时习之"]


def sentences(words: Sequence[str], count: int, seed: int) -> list[str]:
    """Sentences in which every word has its own two successors, so that there is something to learn."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        place, line = rng.randrange(len(words)), []
        for _ in range(12):
            line.append(words[place])
            place = (place * 3 + 1 + rng.randrange(2)) % len(words)
        made.append(" ".join(line) + ".")
    return made


@pytest.fixture(autouse=True)
def _quiet() -> None:
    set_quiet(True)


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("field") / "field.txt"
    path.write_text("\n".join(sentences(FIELD, 400, 0)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of ten sentences."""
    path = tmp_path_factory.mktemp("general") / "general.jsonl"
    lines = sentences(GENERAL, 400, 1)
    rows = ({"text": " ".join(lines[i : i + 10])} for i in range(0, 400, 10))
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def recipe(model: Path, field: Path, general: Path | None, *words: str) -> Recipe:
    usual: dict[str, Any] = {"model": str(model), "data": str(field), "context_length": 32, "train": TRAIN}
    if general is not None:
        usual["replay"] = {"data": str(general)}
    chosen = merge(usual, parse_overrides(words))
    return load_recipe("text", stage_overrides("continue_pretrain", chosen))


@pytest.fixture(autouse=True, scope="module")
def corpora(field: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose corpus of the field is made, for all others to begin with."""
    CORPUS.append(tmp_path_factory.mktemp("corpus"))
    walk(recipe(tiny_model_folder, field, None), CORPUS[-1], ["corpus"])
    return CORPUS[-1]


CORPUS: list[Path] = []


def continued(folder: Path, chosen: Recipe) -> Run:
    if not folder.exists() or not any(folder.iterdir()):
        shutil.copytree(CORPUS[-1], folder, dirs_exist_ok=True)
    return walk(chosen, folder, needed("continue_pretrain", chosen, Run(folder)))


def figures_of(run: Run) -> dict[str, Any]:
    manifest = run.manifest("continue_pretrain")
    assert manifest is not None
    found: dict[str, Any] = manifest["figures"]
    return found


def weights(run: Path) -> bytes:
    return (run / "continue_pretrain" / "model" / "model.safetensors").read_bytes()


def test_it_needs_a_model_and_the_text_alone(
    tiny_model_folder: Path, field: Path, general: Path, tmp_path: Path
) -> None:
    chosen = recipe(tiny_model_folder, field, general)
    assert needed("continue_pretrain", chosen, Run(tmp_path)) == ["corpus", "continue_pretrain"]


def naive_bits(model: Decoder, tokenizer: Tokenizer, rows: list[list[int]]) -> float:
    nats, size = 0.0, 0
    for row in rows:
        log_p = model(torch.tensor([row[:-1]])).log_softmax(-1)[0].detach()
        for at, token in enumerate(row[1:]):
            if tokenizer.bytes_of(token):
                nats -= float(log_p[at, token])
                size += len(tokenizer.bytes_of(token))
    return nats / math.log(2) / size


def test_the_figures_are_those_of_the_held_out_texts_before_and_after(
    tiny_model_folder: Path, field: Path, general: Path, tmp_path: Path
) -> None:
    run = continued(tmp_path, recipe(tiny_model_folder, field, general, "train.learning_rate=0.01"))
    figures, folder = figures_of(run), tmp_path / "continue_pretrain"
    before, tokenizer = load_decoder(tiny_model_folder)
    after, _ = load_decoder(folder / "model")
    for name in ("domain", "general"):
        ids = read_tokens(folder / f"{name}-validation.bin", 320).tolist()
        rows = [ids[i : i + 33] for i in range(0, len(ids) - 32, 32)]  # all of it: it is little
        for key, model in (("bits_per_byte_before", before), ("bits_per_byte", after)):
            expected = naive_bits(model.eval(), tokenizer, rows)
            assert figures[key][name] == pytest.approx(expected, abs=2e-5)
        ratio = figures["bits_per_byte"][name] / figures["bits_per_byte_before"][name]
        assert figures["change"][name] == pytest.approx(ratio - 1, abs=2e-5)
    assert figures["bits_per_byte"]["domain"] < figures["bits_per_byte_before"]["domain"]
    # 15 rows, a fifth of them general
    assert figures["tokens_seen"] == {"domain": 12 * 32, "general": 3 * 32}
    assert figures["general_text"] == "given"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    looked = [line for line in lines if "general_bits_per_byte" in line]
    assert [line["step"] for line in looked] == [1, 2], "while training too"
    assert looked[-1]["domain_bits_per_byte"] == pytest.approx(figures["bits_per_byte"]["domain"], abs=2e-5)


def test_with_a_share_of_0_general_text_is_measured_and_not_read(
    tiny_model_folder: Path, field: Path, general: Path, tmp_path: Path
) -> None:
    with_replay, measured, without = (tmp_path / name for name in ("replay", "measured", "without"))
    continued(with_replay, recipe(tiny_model_folder, field, general))
    run = continued(measured, recipe(tiny_model_folder, field, general, "replay.share=0"))
    continued(without, recipe(tiny_model_folder, field, None))
    assert weights(measured) == weights(without) != weights(with_replay)
    assert figures_of(run)["tokens_seen"]["general"] == 0
    assert set(figures_of(run)["change"]) == {"domain", "general"}


def test_without_general_text_it_says_what_is_lost(
    tiny_model_folder: Path, field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_quiet(False)
    run = continued(tmp_path, recipe(tiny_model_folder, field, None))
    told = " ".join(capsys.readouterr().out.split())
    assert "no general text is given: nothing keeps what the model knew" in told
    assert "replay.generated=50000" in told
    assert set(figures_of(run)["change"]) == {"domain"} and figures_of(run)["general_text"] == "none"


def test_how_long_follows_from_the_passes_over_the_field(
    tiny_model_folder: Path, field: Path, general: Path, tmp_path: Path
) -> None:
    words = (*CALMLY[1:], "train.steps=null", "passes=0.2", "replay.share=0.25")
    figures = figures_of(continued(tmp_path, recipe(tiny_model_folder, field, general, *words)))
    rows = -(-figures["train_tokens"]["domain"] // 32)
    seen = figures["tokens_seen"]
    assert figures["steps"] == math.ceil(0.2 * rows / 0.75 / 5)
    assert seen["domain"] + seen["general"] == figures["steps"] * 5 * 32
    assert seen["general"] / (seen["domain"] + seen["general"]) == pytest.approx(
        0.25, abs=4 / (figures["steps"] * 5)
    )


def test_killed_and_resumed_is_the_same_bytes_and_what_it_wrote_itself_is_kept(
    tiny_model_folder: Path, field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train.steps=4", "train.learning_rate=0.003", "replay.generated=1500")
    chosen = recipe(tiny_model_folder, field, None, *words)
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    continued(calm, chosen)
    steps, wrote = [], []
    real, really_wrote = trainer_module.Trainer._step, stage.rehearse

    def fall(self: Any, step: int) -> dict[str, float]:
        steps.append(step)
        if len(steps) in (1, 3, 6):
            raise KeyboardInterrupt
        return real(self, step)

    def write(*given: Any) -> list[str]:
        wrote.append(given)
        return really_wrote(*given)

    monkeypatch.setattr(trainer_module.Trainer, "_step", fall)
    monkeypatch.setattr(stage, "rehearse", write)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            continued(stormy, chosen)
    run = continued(stormy, chosen)
    assert steps == [0, 0, 1, 1, 2, 3, 3], "it went on where it was"
    assert len(wrote) == 1
    assert weights(stormy) == weights(calm)
    assert figures_of(run) == figures_of(Run(calm))
    assert figures_of(run)["general_text"] == "generated"
    assert figures_of(run)["tokens_seen"]["general"] == 4 * 32


def test_a_second_phase_goes_on_where_the_first_ended(
    tiny_model_folder: Path, field: Path, general: Path, tmp_path: Path
) -> None:
    first = continued(tmp_path / "first", recipe(tiny_model_folder, field, general))
    model = tmp_path / "first" / "continue_pretrain" / "model"
    second = continued(tmp_path / "second", recipe(model, field, general))
    assert figures_of(second)["bits_per_byte_before"] == figures_of(first)["bits_per_byte"]
    assert weights(tmp_path / "second") != weights(tmp_path / "first")


def test_replay_keeps_what_would_be_forgotten(
    tiny_tokenizer: Tokenizer, field: Path, general: Path, tmp_path: Path
) -> None:
    """A model that was taught the general text loses less of it when a third of what it reads is that text,
    and learns the field nonetheless."""
    base = Decoder(DecoderConfig(320, 32, 2, 4, 2, 8, 64, 64))
    base.initialise(0)
    save_model(base, tiny_tokenizer, tmp_path / "base")
    taught = continued(
        tmp_path / "taught",
        recipe(tmp_path / "base", general, None, *CALMLY, "train.steps=50", "train.learning_rate=0.01"),
    )
    model = tmp_path / "taught" / "continue_pretrain" / "model"
    assert figures_of(taught)["change"]["domain"] < -0.5
    change = {}
    for share in (0, 0.34):
        words = (*CALMLY, f"replay.share={share}", "train.steps=30", "train.learning_rate=0.005")
        run = continued(tmp_path / f"share-{share}", recipe(model, field, general, *words))
        change[share] = figures_of(run)["change"]
    assert change[0]["general"] > 0.5, "the test forgets something to begin with"
    assert change[0.34]["general"] < change[0]["general"] / 3
    assert change[0.34]["domain"] < -0.4


# --- the texts


def test_general_documents_are_held_out_whole(general: Path) -> None:
    sides = {side: list(texts) for side, texts in general_texts(general).items()}
    assert set(sides) == {"train", "validation"}
    assert 1 <= len(sides["validation"]) <= 16 and not set(sides["train"]) & set(sides["validation"])
    rows = [json.loads(line)["text"] for line in general.read_text("utf-8").splitlines()]
    assert sorted(sides["train"] + sides["validation"]) == sorted(rows)


def test_of_a_single_text_the_end_is_held_out(field: Path) -> None:
    sides = {side: list(texts) for side, texts in general_texts(field).items()}
    [train], [held_out] = sides["train"], sides["validation"]
    assert train + "\n" + held_out == field.read_text("utf-8")
    assert len(held_out) / len(train + held_out) == pytest.approx(0.2, abs=0.02)


def test_a_run_s_documents_keep_their_sides(
    tiny_model_folder: Path, field: Path, general: Path, tmp_path: Path
) -> None:
    other = load_recipe("text", parse_overrides([f"corpus.data={general}"]))
    walk(other, tmp_path / "other", ["corpus"])
    documents = tmp_path / "other" / "corpus" / "documents.parquet"
    continued(tmp_path / "run", recipe(tiny_model_folder, field, documents))
    _, tokenizer = load_decoder(tiny_model_folder)
    for side, texts in general_texts(documents).items():
        written = read_documents(tmp_path / "run" / "continue_pretrain" / f"general-{side}.bin", 320)
        assert [tokenizer.decode(one[1:].tolist()) for one in written] == list(texts)


def test_windows_lie_at_even_distances() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    rows = spread(tokens, 50, 200, "domain")
    assert rows[:, 0].tolist() == [0, 200, 450, 700] and rows.shape == (4, 51)
    assert torch.equal(rows - rows[:, :1], torch.arange(51).expand(4, 51))
    assert len(spread(tokens, 50, 10_000, "domain")) == 19, "all there are"
    assert len(spread(tokens, 999, 1, "domain")) == 1, "at least one"


# --- what cannot be done is said in a sentence


def test_too_little_held_out_text_is_refused_before_training(
    tiny_model_folder: Path, field: Path, tmp_path: Path
) -> None:
    little = tmp_path / "little.txt"
    little.write_text("The school opens at eight. " * 12, encoding="utf-8")
    chosen = recipe(tiny_model_folder, field, little, "context_length=128")
    with pytest.raises(UserError, match=r"held-out general text has \d+ tokens, less than a row of 128"):
        continued(tmp_path / "run", chosen)


def test_web_pages_are_not_text_yet(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>The school opens at eight.</p>", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds web pages: make text of them with `sishu corpus data="):
        general_texts(tmp_path)


def test_a_share_that_comes_to_nothing_is_refused(tiny_model_folder: Path, field: Path) -> None:
    with pytest.raises(UserError, match=r"replay\.share.*must be 0 or at least 1/1000"):
        recipe(tiny_model_folder, field, None, "replay.share=0.00001")


def test_general_text_that_is_not_there_is_missed_before_any_work(
    tiny_model_folder: Path, field: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="There is no file or folder"):
        continued(tmp_path / "run", recipe(tiny_model_folder, field, tmp_path / "nowhere.txt"))
    assert not (tmp_path / "run" / "continue_pretrain").exists()


# --- on the road


def test_the_stages_behind_start_from_the_last_model(field: Path, tmp_path: Path) -> None:
    words = [
        f"corpus.data={field}",
        "tokenizer.vocabulary=300",
        "pretrain.model={depth: 1, width: 32, context_length: 32}",
        "pretrain.train={steps: 2, batch: 2}",
        "continue_pretrain={context_length: 16, train: {steps: 1, batch: 2}}",
        "lengthen={factor: 2, train: {steps: 1, batch: 2}}",
        "stages=[corpus, tokenizer, pretrain, continue_pretrain, lengthen, eval]",
        *("eval.samples=1", "eval.max_tokens=4"),
    ]
    chosen = load_recipe("text", parse_overrides(words))
    run = walk(chosen, tmp_path, chosen.stages)

    def came_from(stage: str, need: str) -> str:
        manifest = run.manifest(stage)
        assert manifest is not None
        path: str = manifest["inputs"][need]["path"]
        return path

    assert came_from("continue_pretrain", "model") == "pretrain/model"
    assert came_from("lengthen", "model") == "continue_pretrain/model"
    assert came_from("eval", "pretrain") == "lengthen/model"
    shorter = load_recipe("text", parse_overrides(["stages=[corpus, continue_pretrain]"]))
    assert "continue_pretrain" in needed("sft", shorter, Run(tmp_path / "none"))


def test_the_plan_knows_it_from_the_shape_of_the_open_model(
    tiny_model_folder: Path, field: Path, tmp_path: Path
) -> None:
    words = ("stages=[corpus, continue_pretrain]", f"continue_pretrain.model={tiny_model_folder}")
    road = load_recipe("text", parse_overrides(words))
    facts = gather_facts(road, None)
    assert ["1,000,000 tokens of text to go on with" in told for told in facts.assumed] == [True]
    c, [plan] = plan_stages(road, facts)
    assert c == open_config(tiny_model_folder) == load_decoder(tiny_model_folder)[0].config
    assert plan.parameters == c.parameters()
    rows = math.ceil(1_000_000 / 128)  # the model's own context is the shorter one
    assert plan.steps == math.ceil(rows / 16) and plan.tokens == plan.steps * 16 * 128
    given = merge(road.model_dump(mode="json"), {"continue_pretrain": {"replay": {"generated": 6400}}})
    written = plan_stages(Recipe.model_validate(given), facts)[1][0]
    assert written.steps == math.ceil(rows / 0.8 / 16), "a fifth of the rows is general text"
    assert written.flops.generation > 0 == plan.flops.generation
    # … and what a finished run tells takes the place of what was assumed
    run = continued(tmp_path, recipe(tiny_model_folder, field, None))
    known = gather_facts(road, run)
    assert known.assumed == ()
    assert known.domain_tokens == figures_of(run)["train_tokens"]["domain"]
