"""Everything that one reign consists of. A server that leads has an office; when the term ends it is thrown away."""

from __future__ import annotations

from dataclasses import dataclass

from billet.control.auctioneer import Auctioneer, Rules
from billet.control.auditor import Auditor
from billet.control.ledger import Ledger
from billet.control.reconciler import Reconciler
from billet.ports import Hosts


@dataclass(frozen=True, slots=True)
class Office:
    """The leader's things. `hosts` reaches the agents, `rules` are the settings."""

    ledger: Ledger
    auctioneer: Auctioneer
    reconciler: Reconciler
    hosts: Hosts
    rules: Rules
    auditor: Auditor  # hears the hosts, and passes on to the reconciler what it has heard
