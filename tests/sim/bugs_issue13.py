"""The faults of issue 13 that a simulator can see, put back as patches of the code that runs.

`python -m tests.sim.bugs_issue13 [NAME]...` prints the first seed that shows each, and the promises that it breaks.
Promise 0 stands for checkers of no promise (sim/failure_checkers.py).

What the simulator does not see, and the tests that see it:

4 no simulated client has a slash in a name: tests/conformance/test_cluster.py, tests/cluster/test_real_hosts.py
8 a host that does not bid for a moment breaks no promise: tests/host/test_deletes.py
10 forecasts are no promise: tests/host/test_inventory.py, tests/leader/test_accuracy.py
11 there is no simulated containerd: tests/adapters/test_containerd.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest.mock import patch

from billet.api.flintlock_service import FlintlockService
from billet.host import flintlockd
from billet.host.orders import Orders
from billet.host.verdicts import Meaning, meaning
from billet.leader import jobs, reconciler
from tests.sim.bugs import Bug
from tests.sim.bugs_item7 import Patches, edited, print_found

# Item 5: which failures are verdicts.


def _with(right: Meaning, wrong: Meaning) -> Callable[[int, str], Meaning]:
    """`meaning`, with a wrong answer for texts of flintlockd that have this right one."""

    def mistaken(code: int, text: str) -> Meaning:
        found = meaning(code, text)
        return wrong if found is right and text.startswith("creating microvm") else found

    return mistaken


def host_faults_are_verdicts() -> Patches:
    """A host whose containerd is down fails its client's create, though others would take it."""
    return [patch.object(flintlockd, "meaning", _with(Meaning.HOST_FAULT, Meaning.VERDICT))]


def unclear_creates_are_host_faults() -> Patches:
    """What may be there is asked of another host: it boots twice."""
    return [patch.object(flintlockd, "meaning", _with(Meaning.OUTCOME_UNKNOWN, Meaning.HOST_FAULT))]


def unclear_creates_are_verdicts() -> Patches:
    """What may be there is reported as failed: its client sends the request again, and it boots twice."""
    return [patch.object(flintlockd, "meaning", _with(Meaning.OUTCOME_UNKNOWN, Meaning.VERDICT))]


def faults_say_not_found() -> Patches:
    """A failed create says that something was "not found"."""
    return [patch.object(jobs, "without_not_found", lambda text: text)]


def locked_records_are_not_tried_again() -> Patches:
    """Costs a host its part of the microVMs only: another one takes the create."""
    return [patch.object(flintlockd, "BUSY_TRIES", 1)]


# Item 7: Deletes.


def deletes_are_passed_on_unseen() -> Patches:
    return [edited(Orders, "_look_and_delete", "if row and row.state is VmState.DELETING:", "if False:")]


def lost_deletes_are_shown() -> Patches:
    return [edited(FlintlockService, "_get", "now.state in DELETED", "False")]


def lost_deletes_are_not_sent_again() -> Patches:
    return [patch.object(reconciler, "to_delete", lambda *_: [])]


BUGS = (
    Bug("host faults are verdicts", 0, 9, host_faults_are_verdicts),
    Bug("unclear creates are host faults", 4, 15, unclear_creates_are_host_faults),
    Bug("unclear creates are verdicts", 2, 23, unclear_creates_are_verdicts),
    Bug("faults say not found", 5, 33, faults_say_not_found),
    Bug("deletes are passed on unseen", 0, 19, deletes_are_passed_on_unseen),
    Bug("lost deletes are shown", 4, 15, lost_deletes_are_shown),
    Bug("lost deletes are not sent again", 4, 15, lost_deletes_are_not_sent_again),
)


if __name__ == "__main__":
    print_found(BUGS, sys.argv[1:])
