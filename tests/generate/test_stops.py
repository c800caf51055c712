"""Stop strings: found where they are complete first, held back while they may still come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sishu.generate.stops import possible_start, stopped_at

TEXTS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple)


def test_the_one_that_is_complete_first_counts() -> None:
    assert stopped_at("one two three", ("three", "two")) == 4
    assert stopped_at("abcd", ("bcd", "c")) == 2
    assert stopped_at("abcd", ("c", "bc")) == 1  # both end together: the longer
    assert stopped_at("abcd", ("x",)) is None and stopped_at("abcd", ()) is None


@given(TEXTS, STOPS)
def test_text_in_pieces_stops_where_the_whole_does(text: str, stops: tuple[str, ...]) -> None:
    """What is held back is enough: given out as far as it is free, the text up to the stop is the same."""
    said, held = "", ""
    for character in text:
        held += character
        at = stopped_at(held, stops)
        if at is not None:
            said, held = said + held[:at], ""
            break
        free = len(held) - possible_start(held, stops)
        said, held = said + held[:free], held[free:]
    whole = stopped_at(text, stops)
    assert said + held == (text if whole is None else text[:whole])


@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_may_begin_a_stop(text: str, stops: tuple[str, ...]) -> None:
    size = possible_start(text, stops)
    begins = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    assert size == max(begins, default=0)
