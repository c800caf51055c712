"""What a step earns: the difference is found where there is one, and the examination is fair."""

import json
import math
import random
from pathlib import Path

import pytest

from sishu.ablate import ablate
from sishu.console import UserError
from sishu.corpus.duplicates.dedup import band_keys
from sishu.corpus.table import read_split
from sishu.road import load_recipe, walk
from sishu.run import Run

TINY = ["pretrain.model={depth: 1, width: 32, context_length: 64}",
        "pretrain.train={steps: 80, batch: 4, micro_batch: 4, evaluate_every: 80}"]  # fmt: skip
WORDS = [f"{a}{b}{c}" for a in "bdfgkmpt" for b in "aeiou" for c in "lmnrst"]


def story(seed: int) -> str:
    rng = random.Random(seed)
    names = rng.sample(WORDS, 30)
    lines = [" ".join(rng.choices(names, k=9)).capitalize() + "." for _ in range(25)]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of stories, and of one page of noise copied with another number a hundred times."""
    folder = tmp_path_factory.mktemp("ablate")
    rows = [{"url": f"https://s{i % 10}.org/{i}", "text": story(i)} for i in range(60)]
    noise = "\n".join("".join(random.Random(i).choices("qxzjvw", k=60)) for i in range(30))
    rows += [{"url": f"https://copies.org/{i}", "text": f"{noise}\nNumber {i}."} for i in range(100)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "data": str(folder / "rows.jsonl"),
        "near_duplicates": True,
        "held_out": 0.2,
        "held_out_group": "//([a-z0-9]+)",
    }
    walk(load_recipe("text", {"corpus": settings, "sft": {"held_out": 0.2}}), folder / "run", ["corpus"])
    return folder / "run"


def test_dropping_near_duplicates_earns_something(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ablate(run, ["near-duplicates", *TINY], 3)
    report = json.loads((run / "ablations").glob("*/ablation.json").__next__().read_text())
    assert found.mean == pytest.approx(
        sum(report["results"]["without"]) / 3 - sum(report["results"]["with"]) / 3
    )
    assert found.mean > found.half_width > 0
    out = capsys.readouterr().out
    assert "the corpus as it is teaches more" in out and "near-duplicates" in out
    folder = next((run / "ablations").iterdir())
    ours, theirs = (list(read_split(folder / f"documents-{n}.parquet", "train")) for n in ("with", "without"))
    assert len(theirs) > len(ours) + 50
    examined = list(read_split(folder / "documents-without.parquet", "validation"))
    assert examined == list(read_split(run / "corpus" / "documents.parquet", "validation"))
    bands = {key for document in examined for key in enumerate(band_keys(document.text).tolist())}
    for document in (*ours, *theirs):
        assert bands.isdisjoint(enumerate(band_keys(document.text).tolist()))


def test_asked_again_it_trains_nothing(run: Path) -> None:
    first = ablate(run, ["repeated_passages=true", *TINY], 1)
    folder = run / "ablations"
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    assert made
    again = ablate(run, ["repeated_passages=true", *TINY], 1)
    assert again.mean == first.mean and math.isnan(first.half_width)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")} == made
    assert Run(run).manifest("corpus")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["near"], "no step 'near' to leave out: name one of language, paragraphs, quality"),
        ([], "Nothing is to be changed"),
        (["pretrain.model.depth=1"], "Nothing is to be changed"),
        (["qualty=none"], "did you mean"),
        (["quality=best"], "quality"),
    ],
)
def test_mistakes_are_told(run: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ablate(run, words, 1)


def test_a_change_that_leaves_too_little_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="characters"):
        ablate(run, ["min_characters=100000", *TINY], 1)


def test_without_a_run_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        ablate(tmp_path, ["quality"], 1)


def other_run(folder: Path, rows: int) -> Path:
    lines = [json.dumps({"url": f"https://s{i}.org/", "text": story(i)}) + "\n" for i in range(rows)]
    (folder / "rows.jsonl").write_text("".join(lines))
    walk(load_recipe("text", {"corpus": {"data": str(folder / "rows.jsonl")}}), folder / "run", ["corpus"])
    return folder / "run"


def test_other_input_than_the_corpus_was_made_from_is_refused(tmp_path: Path) -> None:
    run = other_run(tmp_path, 40)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"url": "https://a.org/", "text": story(1)}) + "\n")
    with pytest.raises(UserError, match=r"rows\.jsonl has changed since"):
        ablate(run, ["near_duplicates=true", *TINY], 1)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        ablate(run, ["near_duplicates=true", *TINY], 1)


def test_the_end_of_a_document_is_no_examination(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the end of a document is held out"):
        ablate(other_run(tmp_path, 3), ["near_duplicates=true", *TINY], 1)
