"""Everything that one reign consists of. A server that leads has an office; when the term ends it is thrown away."""

from __future__ import annotations

from dataclasses import dataclass

from billet.leader.accuracy import AccuracyTracker
from billet.leader.auctioneer import Auctioneer, Rules
from billet.leader.ledger import Ledger
from billet.leader.reconciler import Reconciler
from billet.ports import Hosts


@dataclass(frozen=True, slots=True)
class Leadership:
    """The leader's things. `hosts` reaches the agents, `rules` are the settings."""

    ledger: Ledger
    auctioneer: Auctioneer
    reconciler: Reconciler
    hosts: Hosts
    rules: Rules
    accuracy: AccuracyTracker  # hears the hosts, and passes on to the reconciler what it has heard
