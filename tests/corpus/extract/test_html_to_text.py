"""HTML to text: structure kept, boilerplate dropped, hostile markup bounded; by both tiers."""

import pydoc
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sishu.corpus.extract.html_to_text import Tier, html_to_text
from sishu.corpus.extract.markup import TangledMarkup

MANY = 200_000
BOTH = pytest.mark.parametrize("tier", ["quality", "fast"])


@BOTH
def test_article_is_kept_and_navigation_dropped(tier: Tier) -> None:
    story = "<p>" + "The old road follows the river to the sea. " * 20 + "</p>"
    page = (
        "<html><body><nav><a href=/>Home</a> <a href=/x>Shop now</a></nav>"
        f"<main><article><h1>A road</h1>{story}</article></main><footer>Cookies</footer></body>"
    )
    text = html_to_text(page, tier)
    assert "follows the river" in text
    assert "Shop now" not in text


def test_full_text_where_main_content_is_a_small_part() -> None:
    tiles = "".join(f"<nav><a href=/{i}>Course {i} on pottery and glazes</a></nav>" for i in range(40))
    text = html_to_text(f"<html><body>{tiles}<article><p>Hello there.</p></article></body></html>", "fast")
    assert "Course 7 on pottery" in text


def test_lines_spaces_and_entities() -> None:
    text = html_to_text("<p>a&nbsp;b &lt;c&gt;   <br>next  </p>" + "<br>" * 9 + "<p>end</p>", "fast")
    assert "\u00a0" not in text
    assert "a b <c>\nnext\n" in text
    assert "\n\n\n\n" not in text
    assert all(line == line.rstrip() for line in text.split("\n"))


@BOTH
def test_preformatted_code_keeps_its_indentation_and_tabs(tier: Tier) -> None:
    code = "if x:\n    y()\nall:\n\t\tgcc a.c\tb.c"
    assert code in html_to_text(f"<body><p>Code:</p><pre>{code}</pre></body>", tier)


def test_layout_cells_do_not_indent_and_data_cells_stay_apart() -> None:
    rows = "<tr><td>&nbsp;&nbsp;</td><td>class A(B)</td></tr><tr><td>k</td><td>v</td></tr>"
    lines = html_to_text(f"<table>{rows}</table>", "fast").split("\n")
    assert "class A(B)" in lines
    assert "k\tv" in lines


def test_described_terms_are_set_apart() -> None:
    text = html_to_text("<dl><dt>open(f)<dd>Opens it.<dt>close(f)<dd>Closes it.</dl>", "fast")
    assert re.search(r"open\(f\)\nOpens it\.\n\nclose\(f\)\nCloses it\.", text)


@BOTH
def test_local_paths_of_the_author_are_dropped(tier: Tier) -> None:
    text = html_to_text('<p>See <a href="file:///home/ann/x.py">/home/ann/x.py</a> and more.</p>', tier)
    assert "ann" not in text and "and more" in text


def test_module_page_of_pydoc_keeps_signatures_docstrings_and_lines() -> None:
    import textwrap

    text = html_to_text(pydoc.HTMLDoc().page("textwrap", pydoc.HTMLDoc().docmodule(textwrap)), "fast")
    assert "\nwrap(text, width=70, **kwargs)\nWrap a single paragraph of text" in text
    assert "    >>> textwrap.shorten(" in text
    assert "class TextWrapper(builtins.object)" in text
    assert "#ffffff" not in text and "\u00a0" not in text and "span" not in text


def test_text_of_scripts_styles_and_comments_is_gone() -> None:
    page = "<p>keep</p><script>if (a<b) '<p>drop1'</script><style>drop2</style><!-- <p>drop3 -->"
    text = html_to_text(page + "<select><option>drop4</select><p>also</p>", "fast")
    assert "keep" in text and "also" in text and "drop" not in text


def test_a_long_tag_loses_its_attributes_and_nothing_else() -> None:
    page = f'<p>before</p><div data="{"a > b " * 2000}">after</div>'
    assert html_to_text(page, "fast").split() == ["before", "after"]


def test_stray_quotation_marks_do_not_swallow_the_page() -> None:
    page = "<p class=\"a\"\">first</p><a href='/it's'>second</a><p>third"
    assert html_to_text(page, "fast").split() == ["first", "second", "third"]


HOSTILE = {
    "nested div": "<div>" * MANY + "hello",
    "self-closing div": "<div/>" * MANY + "hello",
    "attributes": "<div " + " ".join(f"a{i}=1" for i in range(MANY)) + ">hello</div>",
    "nested tables": "<table><tr><td>" * (MANY // 4) + "hello",
    "nested lists": "<ul><li>" * (MANY // 2) + "hello",
    "formatting in paragraphs": "".join(f"<font size={i}><p>" for i in range(20_000)) + "hello",
    "closing past a block": "<x><div></x>" * (MANY // 4) + "hello",
    "options": "<select>" + "<option>" * MANY,
    "unclosed select": "<select>" * MANY + "hello",
    "half-closed script": "<script></script" * MANY,
    "unclosed quotes": "<a \"'>" * MANY,
    "equals signs": "<a " + "= " * MANY + '<a ="' * MANY,
    "unclosed quotes in many tags": "<a b='>" + "<p>x</p><a \"'>" * MANY,
    "spaces": "<pre>x" + " " * MANY + "x</pre>",
    "tabs": "<pre>x" + "\t" * MANY + "x</pre>",
    "angle brackets": "<" * MANY,
    "comments": "<!--" * MANY,
}


@BOTH
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_end_soon(name: str, tier: Tier) -> None:
    started = time.perf_counter()
    text = html_to_text(HOSTILE[name], tier)
    # About a second; without the guards minutes, so a slow machine does not decide.
    assert time.perf_counter() - started < 30
    if name.startswith(("nested", "self", "attributes", "formatting", "closing")):
        assert "hello" in text


@BOTH
@pytest.mark.parametrize(
    "page",
    [
        "<p>x" * 1_100_000,
        "<div>" * 200 + "<p>x" * 400_000,
        "".join(f"<a{i}></a{i}>" for i in range(5000)),
        "<body><nav>" + "<ul><li>x" * 60_000,
    ],
    ids=["tags", "tags in tags", "names of tags", "indentation"],
)
def test_more_than_any_page_has_is_refused(page: str, tier: Tier) -> None:
    with pytest.raises(TangledMarkup):
        html_to_text(page, tier)


SOUP = [
    *["<div>", "</div>", "<b>", "</b>", "<p>", "<x y='>", '"', "<!--", "-->", "<script>"],
    *["</script>", "<td>", "<pre>", "\t", "</pre>", "<dt>", "<dd>", "text", "中文", "&amp;"],
    *["<", ">", "</", "\x00"],
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(SOUP)), st.sampled_from(["quality", "fast"]))
def test_any_tag_soup_gives_text(pieces: list[str], tier: Tier) -> None:
    assert isinstance(html_to_text("".join(pieces), tier), str)
