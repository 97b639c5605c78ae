"""The simulator keeps quiet about the code as it is, and notices each bug that is put in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.sim.loop import StuckError, VirtualLoop, noticing_spins
from billet.sim.seed import run_seed, run_seeds
from tests.sim.bugs import BUGS, HEALTHY, SEEDS, Bug

FOUND = [bug for bug in BUGS if bug.seed is not None]
PARTS = 4  # of HEALTHY, for as many workers of pytest
SAME = (1, 2, 11, 24, 73)  # seeds whose traces are compared


@pytest.mark.parametrize("part", range(PARTS))
def test_the_code_as_it_is_keeps_every_promise(part: int) -> None:
    seeds = HEALTHY[part::PARTS]
    broken = [(result.seed, result.violations[0]) for result in run_seeds(seeds, jobs=1) if result.violations]
    assert broken == []


@pytest.mark.parametrize("bug", FOUND, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_put_in_on_purpose_is_noticed(bug: Bug) -> None:
    """By the seed that is listed; or, should the code have changed since, by another of the first 500."""
    assert any(bug.found_by(seed) for seed in (bug.seed, *range(SEEDS)))
    assert not bug.shows_without_it(), "the same seed without the bug"


def test_at_least_twelve_bugs_and_one_for_each_promise_are_listed() -> None:
    assert len(FOUND) >= 12
    assert {bug.promise for bug in FOUND} == set(range(1, 8))


def test_a_seed_runs_the_same_again_whatever_ran_before_and_whatever_the_hash_seed() -> None:
    first = [run_seed(seed).trace for seed in SAME]
    assert [run_seed(seed).trace for seed in reversed(SAME)] == first[::-1]
    assert [traces(sys.executable, hash_seed) for hash_seed in ("0", "1")] == [first] * 2


def traces(python: str, hash_seed: str) -> list[str]:
    """What that interpreter makes of the seeds."""
    program = "import json\nfrom billet.sim.seed import run_seed\n"
    program += f"print(json.dumps([run_seed(seed).trace for seed in {SAME}]))"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([python, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=120)
    return cast(list[str], json.loads(done.stdout))


def test_the_command_tells_a_seeds_story_and_its_verdict() -> None:
    told = CliRunner().invoke(main, ["sim", "--seed", "1", "--trace"])
    assert told.exit_code == 0
    assert "is elected, term" in told.stdout
    assert "all promises kept" in told.stdout
    assert run_seed(1).trace in told.stdout


def test_the_command_names_the_seed_of_a_failure() -> None:
    bug = next(bug for bug in BUGS if bug.name == "room taken late")
    with bug.put_in():
        told = CliRunner().invoke(main, ["sim", "--seeds", "2", "--first-seed", str(bug.seed), "--jobs", "1"])
    assert told.exit_code == 1
    assert f"billet sim --seed {bug.seed} --trace" in told.stdout
    assert "promise 2" in told.stdout


def test_a_step_that_never_ends_is_noticed() -> None:
    """Broken on purpose (no timer): this test hangs."""

    async def spins() -> None:
        while True:
            pass

    loop = VirtualLoop()
    with pytest.raises(StuckError, match="spins"), noticing_spins(loop):
        loop.run_until_complete(spins())
    loop.close()
