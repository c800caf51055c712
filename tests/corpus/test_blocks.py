"""Blocks: where text is cut."""

from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.blocks import cut

PAGE = """<html><head><title>A road - Roads</title><script>no()</script></head><body>
<nav class="top-menu"><ul><li><a href="/">Home</a></li><li><a href="/x">All  roads</a> 3</li></ul></nav>
<article><h1>A road</h1><p>It <b>follows</b> the
river; 7 miles,<br>then climbs.</p><pre>  if x:
\ty()
</pre><table><tr><td>k</td><td>v</td></tr></table>after<script>x</script> the table</article>
<div id="post_comments" style="display: none">No.</div></body></html>"""


def test_text_is_cut_at_tags_that_begin_a_line() -> None:
    assert [(block.tag, block.text) for block in cut(PAGE).blocks] == [
        ("li", "Home"),
        ("li", "All roads 3"),
        ("h1", "A road"),
        ("p", "It follows the river; 7 miles,\nthen climbs."),
        ("pre", "  if x:\n\ty()"),
        ("tr", "k\tv"),
        ("article", "after the table"),
        ("div", "No."),
    ]


def test_no_markup_and_nothing() -> None:
    for page in ("", " ", "<html></html>", "<!-- x -->", "<script>x</script>"):
        assert cut(page).blocks == []
    assert [block.text for block in cut("only words & signs").blocks] == ["only words & signs"]


def test_text_in_the_deepest_tags_is_read_too() -> None:
    page = "<div>" * 300 + "inside" + "</div>after" * 300
    text = " ".join(block.text for block in cut(page).blocks)
    assert text.count("inside") == 1 and text.count("after") == 300


def test_noscript_is_read_and_local_paths_are_not() -> None:
    page = "<noscript><p>For all</p></noscript><p>See <a href='file:///home/ann/x'>/home/ann/x</a> now</p>"
    assert [block.text for block in cut(page).blocks] == ["For all", "See now"]


@given(
    st.lists(st.sampled_from(["<p>", "</div>", "<div class='nav'>", "<td>", "text", "中文", "<a>", "<br>"]))
)
def test_all_text_is_in_some_block(pieces: list[str]) -> None:
    said = "".join(piece for piece in pieces if not piece.startswith("<"))
    found = "".join(block.text for block in cut("".join(pieces)).blocks)
    assert "".join(found.split()) == said
