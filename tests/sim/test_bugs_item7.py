"""The faults of issue 10, item 7: their patches still fit the code, and the simulator notices those with a seed."""

from __future__ import annotations

import pytest

from tests.sim.bugs import SEEDS, Bug
from tests.sim.bugs_item7 import BUGS

FOUND = [bug for bug in BUGS if bug.seed is not None]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_the_patch_of_a_fault_still_fits_the_code(bug: Bug) -> None:
    with bug.put_in():
        pass


@pytest.mark.parametrize("bug", FOUND, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_fault_with_a_seed_is_noticed(bug: Bug) -> None:
    """By the seed that is listed; or, should the code have changed since, by another of the first 500."""
    assert any(bug.found_by(seed) for seed in (bug.seed, *range(SEEDS)))
    assert not bug.shows_without_it(), "the same seed without the fault"
