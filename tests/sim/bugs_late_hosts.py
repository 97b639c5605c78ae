"""A fault of issue 13, put back: auctions are decided among the hosts whose bids came in time."""

from __future__ import annotations

import sys
from unittest.mock import patch

from billet.core.columns import Columns
from tests.sim.bugs import Bug
from tests.sim.bugs_item7 import Patches, print_found


def late_is_absent() -> Patches:
    return [patch.object(Columns, "standing", lambda *rest: None)]


BUGS = (Bug("late is absent", 0, 0, late_is_absent),)

if __name__ == "__main__":
    print_found(BUGS, sys.argv[1:])
