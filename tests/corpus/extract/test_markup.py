"""The first pass over markup: depth and tags bounded, everything else untouched."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.corpus.extract import markup
from sishu.corpus.extract.markup import MAX_DEPTH, MAX_TAG_CHARACTERS, REAL_TAB, TangledMarkup, tame_markup


def test_depth_is_bounded_and_ordinary_markup_untouched() -> None:
    assert tame_markup("<div>" * 5000).count("<div>") == MAX_DEPTH
    ordinary = '<div class="a"><p>x <b>y</b><br><img src="z.png"></p></div>'
    assert tame_markup(ordinary) == ordinary


@given(st.lists(st.sampled_from(["word", "中文", "a & b", "1 < 2"]), min_size=1))
def test_text_without_markup_passes_the_first_pass_unchanged(words: list[str]) -> None:
    assert tame_markup(" ".join(words)) == " ".join(words)


def test_what_is_left_out_and_what_is_written_instead() -> None:
    """Expectations by hand, from what the constants of the module promise."""
    for page, wanted in {
        "a<!-- <p> -->b<!-->c<!doctype html>d<?x?>e": "abcde",
        "<p>a<script>if (1 < 2) '<b>'</script >b<STYLE>c</style\n>d": "<p>abd",
        "a<script>b": "a",
        "a<select>b<option>c</select>d<select>e": "ade",
        "<b><div></b>x</div></b>": "<b><div>x</div></b>",
        "</div>x</q></p></br>": "x</p></br>",
        "<DIV>x</div></DIV>": "<DIV>x</div>",
        "<dl><dt>a<dd>b<dt>c<dt>d</dl>": "<dl><dt>a<dd>b<p></p><dt>c<dt>d</dl>",
        "<pre\tid=a>x\ty<b\t>\t</b></pre>\t": f"<pre\tid=a>x{REAL_TAB}y<b\t>{REAL_TAB}</b></pre>\t",
        "<a title='<!-- <b> -->'>x</a>": "<a title='<!-- <b> -->'>x</a>",
        "<a title='>'>x<!-- ' --></a>": "<a title='>'>x</a>",
        "<a b='>x<!-- ' -->y": "<a b='>x<!-- ' -->y",
        "<p " + "x" * MAX_TAG_CHARACTERS + ">y": "<p>y",
        "1 < 2 <3 </ 4<b>5</b>": "1 < 2 <3 </ 4<b>5</b>",
        "<b>" * 17 + "x" + "</b>" * 17 + "</b>": "<b>" * 16 + " x" + "</b>" * 16,
    }.items():
        assert tame_markup(page) == wanted


BITS = [
    *(
        "<div>",
        "</div>",
        "<b>",
        "</b>",
        "<p>",
        "</p>",
        "<A>",
        "</A>",
        "<y-z>",
        "</y-z>",
        "<ul>",
        "<li>",
        "</ul>",
    ),
    *("<x y='>", '"', "'", "<!--", "-->", "<!>", "<?x>", "<script>", "</script", "</script>", "<SELECT>"),
    *("</select>", "<option>", "<svg", "<pre>", "</pre>", "<Pre\t>", "\t", "<dt>", "<dd>", "<DT>", "中文"),
    *("<", ">", "</", "<a =", "=", '<a title="<!-- x -->">', "<i b='<b>'>", " ", "<math>", "</math >", "\0"),
    *("<p " + "x" * MAX_TAG_CHARACTERS + ">", "w" * 5000, "<p a='" + "<" * MAX_TAG_CHARACTERS + "'>"),
]


def tag_by_tag(page: str) -> str:
    tags = markup._read(page)
    return markup._rewritten(tags, markup._changes(tags.names))


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.lists(st.sampled_from(BITS)),
        st.lists(st.sampled_from(["<b>", "</b>", "<div>", "</div>", "<a>", "</a>", "x"]), min_size=30),
    )
)
def test_the_short_way_and_the_long_way_agree(pieces: list[str]) -> None:
    page = "".join(pieces)
    assert markup._tame_clear(page) in (None, tag_by_tag(page))
    assert tame_markup(page) == tag_by_tag(page)


def test_ordinary_pages_go_the_short_way() -> None:
    body = '<div class="a"><p>x <b>y</b><br><img src="z.png" alt="<-"><pre>a</pre></div></b>'
    for page in ("", "x", body, f"<!doctype html><script>1</script>{body}<!-- x -->" * 50):
        assert markup._tame_clear(page) is not None


@pytest.mark.parametrize("name", ["section", "b"])
def test_closing_tags_that_match_nothing_near_are_refused(name: str) -> None:
    inner = f"<{name}>" + "<i-x>" * 200 + f"</{name}>"
    assert tame_markup(inner * 100) == inner * 100
    with pytest.raises(TangledMarkup):
        tame_markup(inner * 6000)
