"""VMMs that have just been started: flintlockd says CREATED, and whether they live shows a moment later."""

from __future__ import annotations

from typing import NamedTuple

from billet.core.memory import remember

LIVES_S = 5.0  # a VMM that dies within this time of CREATED never worked; one that ends later may have been told to


class Started(NamedTuple):
    """A microVM that is CREATED, and whose host sees its VMM. `ordered_s`: when it was ordered."""

    host: str
    recipe: str
    ordered_s: float
    since_s: float


class VmmWatch:
    """The VMMs that have not lived for LIVES_S yet."""

    def __init__(self) -> None:
        self._started: dict[str, dict[str, Started]] = {}  # by host and token, in order

    def started(self, token: str, vmm: Started) -> None:
        """A VMM runs as its microVM becomes CREATED."""
        remember(self._started.setdefault(vmm.host, {}), token, vmm)

    def ended(self, host_id: str, token: str) -> Started | None:
        """A VMM is dead on this host, or its microVM is deleted; None if it had lived, or runs on another host."""
        return self._started.get(host_id, {}).pop(token, None)

    def some_run(self, host_id: str) -> bool:
        """Whether VMMs that have been started lately still run on a host."""
        return bool(self._started.get(host_id))

    def lived(self, host_id: str, now_s: float) -> list[Started]:
        """The VMMs of a host that have lived long enough since the last call."""
        started = self._started.get(host_id, {})
        old = [token for token, vmm in started.items() if now_s - vmm.since_s >= LIVES_S]
        return [started.pop(token) for token in old]
