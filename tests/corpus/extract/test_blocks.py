"""Blocks: where text is cut."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.extract.blocks import HOLDER, RUN, cut

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


def test_how_much_is_linked_and_emphasised() -> None:
    page = cut(
        "<p>one <a href=x>two <b>three</b><br>four</a> five<p><a>six</a><a href=file:x>no</a>"
        "<em><i>7</i></em><a href=y>eight<div>nine</div>ten</a><p>eleven"
    )
    assert page.texts == ["one two three\nfour five", "six7eight", "nine", "ten", "eleven"]
    assert page.runs[1 :: len(RUN)] == [13, 8, 4, 3, 0]
    assert page.runs[2 :: len(RUN)] == [5, 1, 0, 0, 0]
    assert page.runs[3 :: len(RUN)] == [1, 2, 0, 0, 0]


def test_tags_inside_a_tag_follow_it() -> None:
    page = cut("<section><div><p>a</p></div><x-y>b</x-y></section><div>c</div>")
    names = [page.tags[number] for number in page.holders[1 :: len(HOLDER)]]
    assert names == ["html", "body", "section", "div", "p", "x-y", "div"]
    assert page.holders[0 :: len(HOLDER)] == [-1, 0, 1, 2, 3, 2, 1]
    assert page.ends == [7, 7, 6, 5, 5, 6, 7]


def test_what_follows_the_end_of_the_page_is_read_too() -> None:
    page = cut("<html><body><p>a</p></body></html><div>b</div><html>c<p>d</html>")
    assert [block.text for block in page.blocks] == ["a", "b", "c", "d"]
    assert page.holders[0 :: len(HOLDER)].count(-1) == 1 and page.ends[0] == len(page.ends)


def test_pages_do_not_disturb_each_other() -> None:
    pages = [PAGE, "", "<title>t</title><a>x<b>y<svg>z", "<p>two</p>", "\0"] * 20
    alone = [(page.texts, page.runs, page.holders, page.title) for page in map(cut, pages)]
    assert alone[:5] * 20 == alone and alone[2][3] == "t" and alone[3][3] == ""
    with ThreadPoolExecutor(4) as pool:
        together = [(page.texts, page.runs, page.holders, page.title) for page in pool.map(cut, pages)]
    assert together == alone


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
