"""The faults of issue 13 that a simulator can see: their patches still fit the code, and each is noticed."""

from __future__ import annotations

import pytest

from tests.sim.bugs import SEEDS, Bug
from tests.sim.bugs_issue13 import BUGS


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_fault_that_is_put_back_is_noticed(bug: Bug) -> None:
    """By the seed that is listed; or, should the code have changed since, by another of the first 500."""
    assert any(bug.found_by(seed) for seed in (bug.seed, *range(SEEDS)))
    assert not bug.shows_without_it(), "the same seed without the fault"
