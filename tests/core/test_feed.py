"""Positions in the feed: what one copy has and another lacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.feed import NEWEST, OWN, ahead, newest, raised, read, written

positions = st.dictionaries(st.integers(0, 40), st.integers(1, 30), max_size=12)
shared = st.dictionaries(st.integers(1, 40), st.integers(1, 30), max_size=12)


@given(positions, positions)
def test_what_is_ahead_is_lacking_and_nothing_else(mine: dict[int, int], theirs: dict[int, int]) -> None:
    """Broken on purpose (>= for >; OWN is offered): fails."""
    lacking = ahead(mine, theirs)
    assert list(lacking) == sorted(lacking), "the oldest term first"
    for term, number in mine.items():
        assert (term in lacking) == (term != OWN and number > theirs.get(term, 0))
    assert all(after == theirs.get(term, 0) for term, after in lacking.items())


@given(positions, positions)
def test_after_taking_all_nothing_is_lacking(mine: dict[int, int], theirs: dict[int, int]) -> None:
    assert ahead(mine, raised(theirs, mine)) == {}


@given(shared, shared)
def test_who_has_as_many_terms_as_are_compared_is_not_given_older_ones(
    mine: dict[int, int], theirs: dict[int, int]
) -> None:
    """Broken on purpose (no limit): a server that has dropped its old terms is given them for ever."""
    most = max(len(theirs), 1)
    cut = newest(theirs, most)
    assert cut == theirs
    oldest = min(theirs, default=0)
    assert all(term >= oldest for term in ahead(mine, cut, most))


@given(shared, st.integers(1, 12))
def test_the_newest_terms_are_kept(mine: dict[int, int], most: int) -> None:
    kept = newest(mine, most)
    assert list(kept) == sorted(mine)[-most:]
    assert all(mine[term] == number for term, number in kept.items())


@given(positions)
def test_a_position_can_be_sent_back(mine: dict[int, int]) -> None:
    assert read(written(mine)) == mine


@pytest.mark.parametrize("text", ["x", "1", "1.x", "1.2.3", "-1.2", "1.2;3.4", "²a.1", "1" * 20 + ".1",
                                  ",".join(f"{n}.1" for n in range(NEWEST + 1))])  # fmt: skip
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # it has no text of its own
        read(text)
