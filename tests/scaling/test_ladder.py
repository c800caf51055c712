"""A ladder of real models: what it says is what its runs hold, nothing is trained twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sishu.console import UserError
from sishu.road import load_recipe, walk
from sishu.run import Run
from sishu.scaling.ladder import FACTOR, Prediction, Scaling, scaling
from sishu.scaling.law import fit
from sishu.scaling.page import allocation_table, law_words, rung_table, scaling_page, verdict_table
from tests.scaling.texts import LADDER, TINY, write_rows

WORDS = [*LADDER, *TINY]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose corpus and tokenizer are made."""
    folder = tmp_path_factory.mktemp("scaling")
    rows = write_rows(folder / "rows.jsonl")
    recipe = load_recipe("text", {"corpus": {"data": str(rows)}, "tokenizer": {"vocabulary": 420}})
    walk(recipe, folder / "run", ["corpus", "tokenizer"])
    return folder / "run"


@pytest.fixture(scope="module")
def found(run: Path) -> Scaling:
    """The ladder of that run."""
    folder, found = scaling(str(run), WORDS, None)
    assert folder == run / "scaling"
    return found


def test_what_is_said_is_what_was_trained(run: Path, found: Scaling) -> None:
    assert [(r.width, r.tokens) for r in found.rungs] == [
        (w, steps * 16 * 32) for steps in (12, 23, 47) for w in (8, 12, 16, 24)
    ]
    for rung in found.rungs:
        made = Run(run / "scaling" / f"width-{rung.width:04d}-steps-{rung.tokens // 512:06d}")
        manifest = made.manifest("pretrain")
        assert manifest
        config = json.loads((made.folder / "pretrain" / "model" / "config.json").read_text())
        assert config["hidden_size"] == rung.width and config["num_hidden_layers"] == found.depth == 1
        assert rung.loss == manifest["figures"]["validation_bits_per_byte"]
        tables = manifest["figures"]["parameters"] - rung.weights
        assert tables == 420 * rung.width
        assert found.corpus_tokens == manifest["figures"]["train_tokens"]
    assert found.law == fit([r.measured for r in found.rungs])
    assert min(r.loss for r in found.rungs) == found.rungs[-1].loss < found.rungs[0].loss / 2


def test_the_model_of_the_test_is_four_times_larger_and_was_trained(run: Path, found: Scaling) -> None:
    test, largest = found.test, found.rungs[-1]
    assert test.weights >= FACTOR * largest.weights and test.tokens == largest.tokens
    assert test.predicted == found.law.loss(test.weights, test.tokens) and test.low < test.high
    manifest = Run(run / "scaling" / f"width-{test.width:04d}-steps-000047").manifest("pretrain")
    assert manifest and test.measured == manifest["figures"]["validation_bits_per_byte"]
    assert test.error == test.measured / test.predicted - 1
    assert abs(test.error) < 0.3, "models of a few thousand weights are no law, but near"
    assert found.backtest and (found.backtest.width, found.backtest.measured) == (24, largest.loss)
    narrower = [r.measured for r in found.rungs if r.width < 24]
    assert found.backtest.predicted == fit(narrower).loss(largest.weights, largest.tokens)


def test_operations_are_spent_within_the_budget(found: Scaling) -> None:
    first = found.allocations[0]
    assert [a.flops / first.flops for a in found.allocations] == pytest.approx([1, 10, 100])
    assert [a.predicted for a in found.allocations] == sorted(
        (a.predicted for a in found.allocations), reverse=True
    )
    assert first.predicted <= found.test.predicted, "the model of the test is one way to spend them"
    for one in found.allocations:
        assert one.predicted == found.law.loss(one.weights, one.tokens)
        assert one.flops > 6 * one.weights * one.tokens, "the head and the attention cost as well"


def test_asked_again_it_trains_nothing_and_says_the_same(run: Path, found: Scaling) -> None:
    path = run / "scaling" / "scaling.json"
    before, made = path.read_bytes(), {p: p.stat().st_mtime_ns for p in run.rglob("model.safetensors")}
    assert len(made) == 13
    assert scaling(str(run), WORDS, None)[1] == found
    assert path.read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in run.rglob("model.safetensors")} == made
    data = json.loads(before)
    assert data["test"]["error"] == found.test.error and data["law"]["alpha"] == found.law.alpha
    assert data["rungs"][3]["loss"] == found.rungs[3].loss


def test_page_and_tables_say_what_was_found(found: Scaling) -> None:
    page = scaling_page("<run>", found)
    assert "<script" not in page and "&lt;run&gt;" in page and page.count("<svg") == 6
    assert not re.search(r"(?:src|href)\s*=|url\(\s*['\"]?http|@import", page)
    assert found.test.measured is not None and found.test.error is not None
    assert f"<td>{found.test.predicted:.4f}</td>" in page and f"<td>{found.test.measured:.4f}</td>" in page
    assert f"{found.test.error:+.2%}".replace("-", "−") in page
    off = found.test.measured / found.rungs[-1].loss - 1
    assert f"{found.rungs[-1].loss:.4f}, would have been off by {off:+.2%}".replace("-", "−") in page
    assert [row[4] for row in rung_table(found).rows] == [f"{r.loss:.4f}" for r in found.rungs]
    assert [row[0] for row in verdict_table(found).rows] == ["in the ladder", "beyond it"]
    assert len(allocation_table(found).rows) == 3


def test_a_law_without_a_floor_is_told(found: Scaling) -> None:
    """The words of one and the same ladder, with the E of its law replaced."""
    for rest, told in ((1e-9, True), (found.rungs[-1].loss / 2, False)):
        words = law_words(replace(found, law=replace(found.law, E=rest)))
        assert ("E is next to nothing" in words) is told and f"L = {rest:.4f} + " in words


def test_a_prediction_without_its_model_has_no_error() -> None:
    assert Prediction(8, 1, 1, predicted=1.0, low=0.9, high=1.1).error is None
    assert Prediction(8, 1, 1, predicted=2.0, low=0.9, high=1.1, measured=1.0).error == -0.5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["width=[1,2,3]"], "unknown key 'width' (did you mean 'widths'?)"),
        (["widths=[16,32]"], "widths"),
        (["widths=[16,16,32]"], "give different numbers"),
        (["tokens=[0,5,9]"], "tokens.0"),
        (["tokens=[10,11,12]", *TINY], "are [1, 1, 1] steps of 512 tokens, which are not all different"),
        (["widths=[2,16,32]"], "widths.0"),
        (["corpus.min_characters=9"], "corpus cannot be changed in a run that is made"),
        (["pretrain.model.dpeth=2"], "did you mean"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(run: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        scaling(str(run), words, None)


def test_a_run_that_is_not_that_far_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no recipe"):
        scaling(str(tmp_path), [], None)
    with pytest.raises(UserError, match="--run is for a recipe"):
        scaling(str(run), [], tmp_path)
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    with pytest.raises(UserError, match="no finished corpus stage"):
        scaling(str(tmp_path), [], None)


def test_what_no_law_fits_is_told(run: Path) -> None:
    """Models that hardly learn: their losses scatter more than they fall with size."""
    words = ["widths=[8,9,10]", "tokens=[512,1024,1536]", *TINY, "pretrain.train.learning_rate=1e-6"]
    with pytest.raises(UserError, match="so that they predict nothing"):
        scaling(str(run), [*words, "pretrain.train.matrix_learning_rate=1e-6"], None)
