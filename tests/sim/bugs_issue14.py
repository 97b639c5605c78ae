"""A fault that issue 14's bounds on creates could have, as a patch of the code that runs.

`python -m tests.sim.bugs_issue14` prints the first seed that shows it, and the promises that it breaks.
"""

from __future__ import annotations

import sys

from billet.api.creates import Creates
from tests.sim.bugs import Bug
from tests.sim.bugs_item7 import Patches, edited, print_found


def begun_creates_wait_like_others() -> Patches:
    """What an earlier leader has begun waits for a slot, and is refused as if nothing had been created."""
    return [edited(Creates, "_carry_out", "auction.id in self._leadership.ledger.state.placements", "False")]


BUGS = (Bug("begun creates wait like others", 4, 0, begun_creates_wait_like_others),)


if __name__ == "__main__":
    print_found(BUGS, sys.argv[1:])
