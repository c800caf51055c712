"""The first pass over markup: depth and tags bounded, everything else untouched."""

from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.markup import MAX_DEPTH, tame_markup


def test_depth_is_bounded_and_ordinary_markup_untouched() -> None:
    assert tame_markup("<div>" * 5000).count("<div>") == MAX_DEPTH
    ordinary = '<div class="a"><p>x <b>y</b><br><img src="z.png"></p></div>'
    assert tame_markup(ordinary) == ordinary


@given(st.lists(st.sampled_from(["word", "中文", "a & b", "1 < 2"]), min_size=1))
def test_text_without_markup_passes_the_first_pass_unchanged(words: list[str]) -> None:
    assert tame_markup(" ".join(words)) == " ".join(words)
