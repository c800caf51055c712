"""Blocks: where text is cut, and what is said of it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.blocks import CALLED, FEATURES, INSIDE, TAGS, blocks_of

PAGE = """<html><head><title>A road - Roads</title><script>no()</script></head><body>
<nav class="top-menu"><ul><li><a href="/">Home</a></li><li><a href="/x">All  roads</a> 3</li></ul></nav>
<article><h1>A road</h1><p>It <b>follows</b> the
river; 7 miles,<br>then climbs.</p><pre>  if x:
\ty()
</pre><table><tr><td>k</td><td>v</td></tr></table>after<script>x</script> the table</article>
<div id="post_comments" style="display: none">No.</div></body></html>"""


def column(page: str, name: str) -> list[float]:
    return [round(float(value), 4) for value in blocks_of(page)[1][:, FEATURES.index(name)]]


def test_text_is_cut_at_tags_that_begin_a_line() -> None:
    blocks, features = blocks_of(PAGE)
    assert [(block.tag, block.text) for block in blocks] == [
        ("li", "Home"),
        ("li", "All roads 3"),
        ("h1", "A road"),
        ("p", "It follows the river; 7 miles,\nthen climbs."),
        ("pre", "  if x:\n\ty()"),
        ("tr", "k\tv"),
        ("article", "after the table"),
        ("div", "No."),
    ]
    assert features.shape == (8, len(FEATURES)) and features.dtype == np.float32
    assert len(set(FEATURES)) == len(FEATURES) and np.isfinite(features).all()


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


def test_no_markup_and_nothing() -> None:
    for page in ("", " ", "<html></html>", "<!-- x -->", "<script>x</script>"):
        blocks, features = blocks_of(page)
        assert blocks == [] and features.shape == (0, len(FEATURES))
    assert [block.text for block in blocks_of("only words & signs")[0]] == ["only words & signs"]


def test_noscript_is_read_and_local_paths_are_not() -> None:
    page = "<noscript><p>For all</p></noscript><p>See <a href='file:///home/ann/x'>/home/ann/x</a> now</p>"
    assert [block.text for block in blocks_of(page)[0]] == ["For all", "See now"]


@given(
    st.lists(st.sampled_from(["<p>", "</div>", "<div class='nav'>", "<td>", "text", "中文", "<a>", "<br>"]))
)
def test_all_text_is_in_some_block(pieces: list[str]) -> None:
    said = "".join(piece for piece in pieces if not piece.startswith("<"))
    found = "".join(block.text for block in blocks_of("".join(pieces))[0])
    assert "".join(found.split()) == said
