"""Recipes, the stages a command needs, and walks that do only what is left to do."""

from __future__ import annotations

import inspect
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from sishu.config import merge, parse_overrides, parse_yaml, to_yaml
from sishu.console import UserError, set_quiet
from sishu.corpus.pipeline.split import TAIL
from sishu.road import STAGES, Recipe, load_recipe, needed, recipe_names, stage_overrides, walk
from sishu.run import Run

TINY = [
    "pretrain.model={depth: 1, width: 32, context_length: 32}",
    *("pretrain.train.steps=4", "pretrain.train.batch=4", "eval.samples=1", "eval.max_tokens=4"),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    set_quiet(True)
    yield
    set_quiet(False)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "statistics.txt"
    path.write_text(inspect.getsource(statistics)[:8000], encoding="utf-8")
    return path


def tiny(text: Path, *words: str) -> Recipe:
    overrides = parse_overrides([f"corpus.data={text}", *TINY])
    return load_recipe("text", merge(overrides, parse_overrides(words)))


# --- recipes


def test_the_recipes_that_come_with_sishu_can_be_loaded_and_written_out() -> None:
    assert {"quickstart", "text"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name, {})
        assert Recipe.model_validate(parse_yaml(to_yaml(recipe), name)) == recipe


def test_an_override_keeps_the_other_settings_of_its_stage() -> None:
    plain = load_recipe("quickstart", {})
    changed = load_recipe("quickstart", parse_overrides(["pretrain.train.steps=7", "sft.train.steps=7"]))
    for stage in ("pretrain", "sft"):
        before, after = (getattr(r, stage).train.model_dump() for r in (plain, changed))
        assert {name for name in before if before[name] != after[name]} == {"steps"}
    assert changed.pretrain.train.matrix_learning_rate == Recipe().pretrain.train.matrix_learning_rate


@pytest.mark.parametrize(("name", "near"), [("quickstrat", "'quickstart'"), ("txt", "'text'")])
def test_an_unknown_recipe_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"There is no recipe '{name}'.*did you mean {near}"):
        load_recipe(name, {})


def test_a_recipe_like_none_is_answered_with_all() -> None:
    with pytest.raises(UserError, match=r"quickstart.*text"):
        load_recipe("zzzzzz", {})


@pytest.mark.parametrize(("name", "near"), [("tokeniser", "'tokenizer'"), ("pretrian", "'pretrain'")])
def test_an_unknown_stage_in_a_recipe_is_answered_with_the_nearest(
    tmp_path: Path, name: str, near: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"stages: [corpus, {name}]\n")
    with pytest.raises(UserError, match=rf"mine\.yaml.*no stage '{name}' \(did you mean {near}\?\)"):
        load_recipe(str(path), {})


def test_stages_are_walked_in_the_roads_order_however_they_are_given() -> None:
    assert Recipe(stages=["report", "corpus", "crawl"]).stages == ["crawl", "corpus", "report"]


def test_a_run_folder_is_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", parse_overrides(["name=mine", "pretrain.model.depth=2"]))
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path), {}) == recipe
    assert load_recipe(str(tmp_path), {"seed": 9}) == recipe.model_copy(update={"seed": 9})


# --- single stages


def test_keys_of_a_single_stage_command_belong_to_it_unless_they_name_another() -> None:
    def given(stage: str, *words: str) -> dict[str, Any]:
        return stage_overrides(stage, parse_overrides(words))

    assert given("sft", "train.steps=3", "seed=2", "name=n", "pretrain.model.depth=1") == {
        "sft": {"train": {"steps": 3}},
        "seed": 2,
        "name": "n",
        "pretrain": {"model": {"depth": 1}},
    }
    assert given("pretrain", "data=x.txt", "corpus.held_out=0.1") == {
        "corpus": {"data": "x.txt", "held_out": 0.1},
    }
    assert given("corpus", "data=x.txt") == {"corpus": {"data": "x.txt"}}
    assert given("sft", "sft.epochs=1", "epochs=2") == {"sft": {"epochs": 2}}
    assert given("ppo", "reward=some/folder") == {"ppo": {"reward": "some/folder"}}
    assert given("ppo", "reward.prompts=9") == {"reward": {"prompts": 9}}


def test_a_stage_needs_all_before_it_but_not_what_comes_from_outside(tmp_path: Path) -> None:
    run, quickstart = Run(tmp_path), load_recipe("quickstart", {})
    assert needed("crawl", quickstart, run) == ["crawl"]
    assert needed("pretrain", quickstart, run) == ["crawl", "corpus", "tokenizer", "pretrain"]
    ppo = ["crawl", "corpus", "tokenizer", "pretrain", "sft", "reward", "ppo"]
    assert needed("ppo", quickstart, run) == ppo
    assert needed("eval", quickstart, run) == [*ppo[:4], "eval"]  # examines what there is

    def outside(stage: str, *words: str) -> list[str]:
        return needed(stage, load_recipe("quickstart", parse_overrides(words)), run)

    assert outside("pretrain", "corpus.data=x") == ["corpus", "tokenizer", "pretrain"]
    assert outside("sft", "sft.data=x", "sft.model=y") == ["sft"]
    assert outside("sft", "sft.data=x") == ["crawl", "corpus", "tokenizer", "pretrain", "sft"]
    assert outside("reward", "reward.model=y", "sft.data=x", "sft.model=y") == ["sft", "reward"]


def test_every_need_is_of_an_earlier_stage_and_every_setting_it_names_exists() -> None:
    names = list(STAGES)
    for name, stage in STAGES.items():
        assert name in Recipe.model_fields
        for need in stage.needs:
            assert names.index(need.stage) < names.index(name)
            assert need.setting is None or need.setting in stage.settings.model_fields


# --- walking


def keys(run: Run) -> dict[str, tuple[str, str]]:
    """Key and time of each finished stage: the time shows whether it was made again."""
    found = {name: run.manifest(name) for name in STAGES}
    stamps = {n: str((run.folder / n / "manifest.json").stat().st_mtime_ns) for n, m in found.items() if m}
    return {name: (str(m["key"]), stamps[name]) for name, m in found.items() if m}


def test_changing_a_setting_makes_again_only_what_depends_on_it(tmp_path: Path, text: Path) -> None:
    folder, done = tmp_path / "run", {}

    def again(*words: str, data: Path = text) -> list[str]:
        nonlocal done
        recipe = tiny(data, *words)
        run = walk(recipe, folder, recipe.stages)
        before, done = done, keys(run)
        assert parse_yaml((folder / "recipe.yaml").read_text(), "recipe.yaml") == recipe.model_dump(
            mode="json"
        )
        return [name for name in done if before.get(name) != done[name]]

    assert again() == ["corpus", "tokenizer", "pretrain", "eval", "report"]
    assert again() == []
    assert again("price_per_hour=1") == []  # decides no bytes
    assert again("eval.samples=2") == ["eval", "report"]
    assert again("eval.samples=2", "pretrain.train.steps=5") == ["pretrain", "eval", "report"]
    assert again("eval.samples=2", "pretrain.train.steps=5", "seed=2") == list(done)
    assert again() == list(done)
    # what comes out the same makes nothing that reads it again: the report shows the metrics' times
    assert again("pretrain.train.checkpoint_seconds=0") == ["pretrain", "report"]
    assert again("pretrain.train.checkpoint_seconds=0") == []
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert again("pretrain.train.checkpoint_seconds=0") == ["tokenizer"]
    longer = tmp_path / "longer.txt"
    longer.write_text(text.read_text() + "\nOne more line.\n")
    assert again("pretrain.train.checkpoint_seconds=0", data=longer)[0] == "corpus"


def test_a_changed_list_makes_the_corpus_again(tmp_path: Path) -> None:
    pages, words = tmp_path / "pages.jsonl", tmp_path / "words.txt"
    said = {word: f"On {word} there is this to say, and more of it. " * 30 for word in ("tea", "rum")}
    rows = [{"url": f"https://a.org/{word}", "text": text} for word, text in said.items()]
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def urls(listed: str) -> list[str]:
        words.write_text(listed, encoding="utf-8")
        run = walk(tiny(pages, f"corpus.block.words=[{words}]"), tmp_path / "run", ["corpus"])
        kept = pyarrow.parquet.read_table(run.folder / "corpus" / "documents.parquet")
        return sorted({url.removesuffix(TAIL) for url in kept["url"].to_pylist()})

    assert urls("rum\n") == ["https://a.org/tea"]
    assert urls("tea\n") == ["https://a.org/rum"]
    with pytest.raises(UserError, match=r"no file or folder .*gone\.txt"):
        walk(tiny(pages, f"corpus.block.words=[{tmp_path / 'gone.txt'}]"), tmp_path / "run", ["corpus"])


def test_of_ones_own_text_nothing_is_thrown_away(tmp_path: Path) -> None:
    texts = {
        "https://casino-porn-xxx.com/viagra": "Hardcore porn, free porn, xxx, fuck, casino. " * 30,
        "https://a.org/short": "x",
        "https://a.org/lists": "- one\n- two\n- one\n- two\n- one\n- two",
        "https://a.org/other": "色情小说，成人电影，免费观看。",
    }
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"url": u, "text": t}) + "\n" for u, t in texts.items()), "utf-8")
    run = walk(tiny(path), tmp_path / "run", ["corpus"])
    kept = pyarrow.parquet.read_table(run.folder / "corpus" / "documents.parquet")
    assert {url.removesuffix(TAIL) for url in kept["url"].to_pylist()} == set(texts)


def test_a_missing_path_is_found_before_anything_is_done(tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "run"
    recipe = tiny(text, f"sft.data={tmp_path / 'missing.jsonl'}")
    with pytest.raises(UserError, match=r"no file or folder .*missing\.jsonl"):
        walk(recipe, folder, ["corpus", "tokenizer", "pretrain", "sft"])
    assert not folder.exists()


def test_a_stage_whose_need_is_not_walked_must_find_it_done(tmp_path: Path, text: Path) -> None:
    recipe = tiny(text)
    with pytest.raises(UserError, match="has no finished corpus stage: run `sishu corpus` first"):
        walk(recipe, tmp_path / "run", ["tokenizer"])
    walk(recipe, tmp_path / "run", ["corpus"])
    walk(recipe, tmp_path / "run", ["tokenizer"])


def test_the_price_of_an_hour_gives_every_stage_a_cost(tmp_path: Path, text: Path) -> None:
    run = walk(tiny(text, "price_per_hour=3600"), tmp_path / "run", ["corpus"])
    manifest = run.manifest("corpus")
    assert manifest is not None
    assert manifest["figures"]["cost"] == pytest.approx(manifest["seconds"], abs=0.5)


def test_text_and_questions_are_held_out_alike() -> None:
    with pytest.raises(UserError, match=r"corpus\.held_out is 0\.1 and sft\.held_out 0\.05: give both"):
        load_recipe("quickstart", parse_overrides(["corpus.held_out=0.1"]))
    both = load_recipe("quickstart", parse_overrides(["corpus.held_out=0.1", "sft.held_out=0.1"]))
    assert both.corpus.held_out == both.sft.held_out
    own = load_recipe("quickstart", parse_overrides(["corpus.held_out=0.1", "sft.data=talks.jsonl"]))
    assert own.corpus.held_out == 0.1  # one's own conversations have groups of their own
