"""What is said of a page's blocks."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.extract.block_features import FEATURES, features_of
from sishu.corpus.extract.blocks import CALLED, INSIDE, TAGS, CutPage, cut
from tests.corpus.extract.test_blocks import PAGE


def column(page: str, name: str) -> list[float]:
    return [round(float(value), 4) for value in features_of(cut(page))[:, FEATURES.index(name)]]


def test_every_feature_has_a_name_and_a_number() -> None:
    features = features_of(cut(PAGE))
    assert features.shape == (8, len(FEATURES)) and features.dtype == np.float32
    assert len(set(FEATURES)) == len(FEATURES) and np.isfinite(features).all()
    assert features_of(cut("")).shape == (0, len(FEATURES))
    one = features_of(cut("<p>alone</p>"))
    assert one.shape == (1, len(FEATURES)) and np.isfinite(one).all()


def test_what_is_said_of_blocks() -> None:
    assert column(PAGE, "characters") == [4, 11, 6, 43, 12, 3, 15, 3]
    assert column(PAGE, "linked") == [1, round(10 / 11, 4), 0, 0, 0, 0, 0, 0]  # as in the source, two spaces
    assert column(PAGE, "links") == [1, 1, 0, 0, 0, 0, 0, 0]
    assert column(PAGE, "emphasised") == [0, 0, 0, round(7 / 43, 4), 0, 0, 0, 0]
    assert column(PAGE, "tag") == [
        TAGS.index(t) for t in ["li", "li", "h1", "p", "pre", "tr", "article", "div"]
    ]
    assert column(PAGE, "in the title") == [0, 0, 1, 0, 0, 0, 0, 0]
    assert column(PAGE, "after the heading") == [-2, -1, 0, 1, 2, 3, 4, 5]
    assert column(PAGE, "ends a sentence") == [0, 0, 0, 1, 0, 0, 0, 1]
    assert column(PAGE, "inside nav") == [1, 1, 0, 0, 0, 0, 0, 0]
    assert column(PAGE, "inside article") == [0, 0, 1, 1, 1, 1, 1, 0]
    assert column(PAGE, "around called navigation") == [1, 1, 0, 0, 0, 0, 0, 0]
    assert column(PAGE, "called comment") == column(PAGE, "called hidden") == [0] * 7 + [1]
    assert column(PAGE, "1 characters")[:4] == [0, 4, 11, 6] and column(PAGE, "-1 characters")[-2:] == [3, 0]
    assert column(PAGE, "1 same parent")[:3] == [0, 1, 0]
    assert sum(column(PAGE, "around 1 share")[:1]) == round(15 / 97, 4)
    assert {f"inside {tag}" for tag in INSIDE} | {f"called {name}" for name in CALLED} <= set(FEATURES)


def test_languages_are_alike() -> None:
    chinese = PAGE.replace("then climbs.", "然后上山。").replace("No.", "不。")
    assert column(chinese, "ends a sentence") == column(PAGE, "ends a sentence")
    assert column(chinese, "bytes beyond characters")[3] > 0


@given(
    st.lists(
        st.text(
            st.one_of(st.sampled_from("a.!?。！？…,，、;；1234567890|©»• \"'”’)）]："), st.characters()),
            min_size=1,
        )
    )
)
def test_what_is_counted_in_texts_is_what_one_finds_one_by_one(texts: list[str]) -> None:
    count = len(texts)
    page = CutPage(texts, [0, 0, 0, 0] * count, [-1, 0, 0, 0, 0, 0], [1], list(TAGS), "")
    size = np.array([len(text) for text in texts], np.float32)
    found = dict(zip(FEATURES, features_of(page).T, strict=True)) if texts else {}
    for name, wanted in {
        "characters": size,
        "words": [text.count(" ") + 1 for text in texts],
        "sentences": [len(re.findall(r"[.!?。！？…]", text)) for text in texts],
        "commas": [len(re.findall(r"[,，、;；]", text)) for text in texts],
        "digits": np.array([len(re.findall(r"[0-9]", text)) for text in texts], np.float32) / size,
        "signs": [len(re.findall(r"[|©»•]", text)) for text in texts],
        "bytes beyond characters": np.array(
            [len(text.encode("utf-8", "replace")) for text in texts], np.float32
        )
        / size
        - 1,
        "said so often": [texts.count(text) for text in texts],
    }.items():
        assert not texts or np.array_equal(found[name], np.array(wanted, np.float32)), name
