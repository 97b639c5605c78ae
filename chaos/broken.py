"""Broken hosts: flintlockds that answer, and do not work. Healed as an operator would, by a restart of flintlockd."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

from chaos.cluster import ADDRESSES, CONTROL_PORT, HOSTS, Cluster

UNKNOWN = 2  # gRPC's code of everything that flintlockd says
FULL = "no space left on device"
NO_SPACE = f"creating microvm: saving microvm spec: getting containerd writer: failed to create ref: write: {FULL}"
BLACK_HOLE = {"kind": "refuse", "method": "CreateMicroVM", "count": -1, "code": UNKNOWN, "text": NO_SPACE}
STALLED = {"kind": "containerd_restarted"}
RACES = ("lose_delete", "list_race", "locked", "commit_fails", "commit_unclear", "publish_fails")
TOLD_WITHIN_S = 2.0


@dataclass
class Broken:
    """Faults of one host's flintlockd, by its control port; without effect if that does not answer."""

    name: str
    cluster: Cluster
    host: str
    faults: Sequence[dict[str, Any]]

    async def inject(self) -> None:
        """See Fault."""
        with suppress(OSError):
            await asyncio.to_thread(self._set)

    def _set(self) -> None:
        url = f"http://{ADDRESSES[self.host]}:{CONTROL_PORT}/fault"
        for fault in self.faults:
            data = json.dumps(fault).encode()
            with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=TOLD_WITHIN_S):
                pass

    async def heal(self) -> None:
        """See Fault."""
        part = f"{self.host}/flintlockd"
        self.cluster.kill(part)
        self.cluster.launch(part)


def black_hole(chance: random.Random, cluster: Cluster, heads: object) -> Broken:
    """A flintlockd fails every create at once."""
    host = chance.choice(HOSTS)
    return Broken(f"the containerd of {host} has a full disk", cluster, host, [BLACK_HOLE])


def stalled(chance: random.Random, cluster: Cluster, heads: object) -> Broken:
    """A flintlockd accepts creates and Deletes, and does nothing about them."""
    host = chance.choice(HOSTS)
    return Broken(f"the containerd of {host} is restarted", cluster, host, [STALLED])


def careless(chance: random.Random, cluster: Cluster, heads: object) -> Broken:
    """A flintlockd forgets Deletes, and its creates and Lists fail now and then, some with an unclear outcome."""
    host = chance.choice(HOSTS)
    faults = [{"kind": kind, "count": chance.randint(1, 3)} for kind in RACES]
    return Broken(f"the flintlockd of {host} loses Deletes and races with itself", cluster, host, faults)
