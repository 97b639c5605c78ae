"""Faults about broken hosts (issue 13), put back: what fails attracts more.

`python -m tests.sim.bugs_issue13_suspects [NAME]...` prints the first seed that shows each.

What the simulator does not see: stalls and crowds, since its hosts get too few microVMs; and whose fault a failed
boot is, since its boots do not fail (tests/leader/test_health.py, tests/core/test_health.py).
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from billet.core.health import Health
from billet.leader.health import HealthTracker
from tests.sim.bugs import Bug
from tests.sim.bugs_item7 import Patches, edited, print_found


def failures_are_forgotten() -> Patches:
    return [patch.object(HealthTracker, "answered", lambda *rest: None)]


def a_suspect_is_not_left_alone() -> Patches:
    """Two failures cost a price only, and a host with a price still wins where the others are full or dearer."""
    return [edited(Health, "refuses", "self.suspect and now_s < self.next_try_s", "False")]


def a_suspect_keeps_its_bid() -> Patches:
    return [patch.object(HealthTracker, "screened", lambda self, auction, answers, ready: list(answers))]


BUGS = (
    Bug("failures are forgotten", 0, 60, failures_are_forgotten),
    Bug("a suspect is not left alone", 0, 60, a_suspect_is_not_left_alone),
    Bug("a suspect keeps its bid", 0, 60, a_suspect_keeps_its_bid),
)

if __name__ == "__main__":
    print_found(BUGS, sys.argv[1:])
