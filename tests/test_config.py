"""Recipes and overrides: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from sishu.config import Section, build, merge, parse_overrides, parse_yaml, read_yaml, to_yaml
from sishu.console import UserError


class Inner(Section):
    learning_rate: float | None = Field(None, gt=0)
    steps: int = 10


class Middle(Section):
    train: Inner = Inner()
    extra: Inner | None = None


class Outer(Section):
    name: str = "run"
    data: Path | None = None
    words: list[str] = []
    betas: tuple[float, float] = (0.9, 0.95)
    middle: Middle = Middle()


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        build(Outer, data, "recipe x")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("data", "wrong", "right"),
    [
        ({"nam": "a"}, "'nam'", "'name'"),
        ({"middle": {"trian": {}}}, "'middle.trian'", "'train'"),
        ({"middle": {"train": {"lerning_rate": 1}}}, "'middle.train.lerning_rate'", "'learning_rate'"),
        ({"middle": {"extra": {"step": 1}}}, "'middle.extra.step'", "'steps'"),
    ],
)
def test_a_misspelt_key_names_the_nearest_right_one(data: dict[str, Any], wrong: str, right: str) -> None:
    assert refusal(data) == f"In recipe x: unknown key {wrong} (did you mean {right}?)."


def test_a_key_unlike_any_other_is_answered_with_all_there_are() -> None:
    message = refusal({"middle": {"zzz": 1}})
    assert message == "In recipe x: unknown key 'middle.zzz' (known are train, extra)."


def test_several_mistakes_are_told_at_once_but_no_more_than_three() -> None:
    message = refusal({"nam": 1, "dat": 1, "wrds": 1, "betaz": 1})
    assert message.count("unknown key") == 3


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"middle": {"train": {"steps": "many"}}}, "middle.train.steps: "),
        ({"middle": {"train": {"learning_rate": 0}}}, "greater than 0 (it is 0)"),
        ({"middle": {"train": {"steps": 1.5}}}, "(it is 1.5)"),
        ({"words": "one"}, "words: "),
        ({"middle": 3}, "middle: "),
        ({"betas": [1]}, "betas"),
        ({"name": None}, "name: "),
        ({1: 2}, "1"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(data: dict[str, Any], told: str) -> None:
    assert told in refusal(data)


class Stage(Section):
    train: Inner = Inner(learning_rate=0.5, steps=7)
    middle: Middle = Middle(train=Inner(steps=8))
    field: Inner = Field(default=Inner(steps=9))


class Road(Section):
    stage: Stage = Stage()


def test_a_section_given_in_part_keeps_the_other_defaults_of_its_place() -> None:
    words = ["stage.train.steps=1", "stage.middle.train.learning_rate=2", "stage.field.learning_rate=3"]
    stage = build(Road, parse_overrides(words)).stage
    assert stage.train == Inner(learning_rate=0.5, steps=1)
    assert stage.middle.train == Inner(learning_rate=2, steps=8)
    assert stage.field == Inner(learning_rate=3, steps=9)
    assert build(Road, {}) == Road()
    assert build(Road, parse_yaml(to_yaml(build(Road, parse_overrides(words))), "x")).stage == stage
    # a default may be taken back
    assert build(Road, {"stage": {"train": {"learning_rate": None}}}).stage.train == Inner(steps=7)
    with pytest.raises(UserError, match=r"unknown key 'stage.train.step' \(did you mean 'steps'"):
        build(Road, {"stage": {"train": {"step": 1}}})


def test_sections_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        build(Outer, {}).name = "other"


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2\n", "top:\n  a: 1\n  b: 2\n  a: 3\n", "list:\n- {x: 1, x: 2}\n"],
    ids=["top", "nested", "in a list"],
)
def test_a_key_given_twice_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^here is not readable as YAML: .*given twice, line \d"):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "a: b: c",
        "\tx: 1",
        "a: &x {b: *y}",
        "? [1, 2]\n: 3",
        "when: 2024-13-45",
        "n: 0x_",
        "a: !!python/object/apply:os.system ['true']",
        "a: \x01",
        "[" * 3000,
    ],
    ids=[
        "open bracket",
        "two colons",
        "tab",
        "unknown anchor",
        "list as key",
        "no such day",
        "no digits",
        "code",
        "control character",
        "too deep",
    ],
)
def test_broken_yaml_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "recipe.yaml")
    message = str(caught.value)
    assert message.startswith("recipe.yaml is not readable as YAML: ")
    assert "\n" not in message


def test_a_recipe_file_must_be_there_and_hold_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml cannot be read"):
        read_yaml(tmp_path / "missing.yaml")
    for name, content in (("list", b"- 1\n"), ("empty", b""), ("binary", b"\xff\xfe\x00")):
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            read_yaml(path)


def test_overrides_nest_and_have_the_types_of_yaml() -> None:
    words = ["a.b.c=1", "a.b.d=2.5", "a.e=true", "f=null", "g=[x,y]", "h=text", "i=", "k={l: 1}", "m=a=b"]
    assert parse_overrides(words) == {
        "a": {"b": {"c": 1, "d": 2.5}, "e": True},
        "f": None,
        "g": ["x", "y"],
        "h": "text",
        "i": "",
        "k": {"l": 1},
        "m": "a=b",
    }


def test_numbers_as_people_write_them_reach_their_field() -> None:
    words = ["middle.train.learning_rate=3e-4", "middle.train.steps=1_000", "betas=[0.8,0.9]"]
    built = build(Outer, parse_overrides(words))
    assert built.middle.train == Inner(learning_rate=3e-4, steps=1000)
    assert built.betas == (0.8, 0.9)


def test_chinese_values_and_paths_with_spaces_come_through() -> None:
    built = build(Outer, parse_overrides(["name=私塾", "data=我的 文章/论语.txt", "words=[学而,时习之]"]))
    assert built.name == "私塾"
    assert built.data == Path("我的 文章/论语.txt")
    assert built.words == ["学而", "时习之"]


@pytest.mark.parametrize("word", ["steps", "=1", "a..b=1", ".a=1", "a.=1", ""])
def test_a_word_that_is_no_override_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="is not an override"):
        parse_overrides([word])


@pytest.mark.parametrize(
    "words", [["a=1", "a.b=2"], ["a.b=1", "a=2"], ["a.b=1", "a.b=2"], ["a.b.c=1", "a.b={d: 1}"]]
)
def test_overrides_that_contradict_each_other_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="contradicts another override"):
        parse_overrides(words)


def test_a_broken_value_names_the_word() -> None:
    with pytest.raises(UserError, match=r"^'words=\[a' is not readable"):
        parse_overrides(["words=[a"])


def test_merge_lays_mappings_over_one_another_and_changes_neither() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    over = {"a": {"c": {"f": 3}}, "e": [9], "g": {"h": 1}}
    assert merge(base, over) == {"a": {"b": 1, "c": {"d": 2, "f": 3}}, "e": [9], "g": {"h": 1}}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    assert merge({"a": {"b": 1}}, {"a": 5}) == {"a": 5}
    assert merge({"a": 5}, {"a": {"b": 1}}) == {"a": {"b": 1}}


trees: st.SearchStrategy[Any] = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abcd"), trees, max_size=3)


@given(mappings, mappings, mappings)
def test_merge_in_either_grouping_is_the_same_and_nothing_over_itself_changes_nothing(
    a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]
) -> None:
    assert merge(a, {}) == merge({}, a) == merge(a, a) == a
    # grouping matters only where a plain value stands between two mappings
    if not _mixed(a, b) and not _mixed(b, c) and not _mixed(a, c):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))


def _mixed(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return any(
        isinstance(a[k], dict) != isinstance(b[k], dict) or (isinstance(a[k], dict) and _mixed(a[k], b[k]))
        for k in a.keys() & b.keys()
    )


sections = st.builds(
    Outer,
    name=st.text(),
    data=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path),
    words=st.lists(st.text()),
    betas=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    middle=st.builds(
        Middle,
        train=st.builds(
            Inner,
            learning_rate=st.none() | st.floats(min_value=1e-300, allow_infinity=False),
            steps=st.integers(),
        ),
    ),
)


@given(sections)
def test_a_resolved_configuration_written_out_reads_back_the_same(section: Outer) -> None:
    text = to_yaml(section)
    read = parse_yaml(text, "config.yaml")
    assert build(Outer, read) == section
    assert list(read) == list(Outer.model_fields)  # every default is written out, in the order of the fields
    assert read["middle"]["train"].keys() == Inner.model_fields.keys()
    assert yaml.safe_load(text) == read  # and any YAML reader agrees


def test_chinese_is_written_out_as_itself() -> None:
    assert "name: 私塾\n" in to_yaml(Outer(name="私塾"))
