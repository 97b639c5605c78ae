"""Looks at the store's health all the time, and remembers which servers stood for election."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

import structlog

from billet.ports import Clock, Leader

log = structlog.get_logger()

LOOK_S = 1.0  # pause between two looks: a look takes up to a second, and people wait 5 s for the truth
OLD_S = 10.0  # a look that takes longer has found no store
FORGET_S = 3600.0  # how long a server is listed that stands no more


class Member(NamedTuple):
    """One member of a store that has several, or the only one."""

    name: str  # its endpoint, or the path of its file
    answers: bool
    leads: bool = False  # is the store's own leader
    version: str = ""
    size_bytes: int = 0
    used_bytes: int = 0


class Health(NamedTuple):
    """What one look at a store has found. It is serving if `why` is "": a linearizable read was answered."""

    why: str
    members: tuple[Member, ...]
    servers: tuple[Leader, ...] = ()  # those that stand for election, the leader first; none if it is not serving
    troubles: tuple[str, ...] = ()  # one line each, of a store that is serving


UNSEEN = Health("this server has not looked at the store yet", ())


class Watched(Protocol):
    """What is looked at: a store/engine.Engine."""

    async def health(self) -> Health:
        """See engine.Engine."""


class SeenServer(NamedTuple):
    """A server, and when it was last seen to stand for election, monotonic."""

    server: Leader
    at_s: float
    leads: bool


class StoreWatch:
    """The newest look at the store, and the servers that this one has seen."""

    def __init__(self, store: Watched, clock: Clock) -> None:
        self.health = UNSEEN
        self._store = store
        self._clock = clock
        self._seen: dict[str, SeenServer] = {}  # by id
        self._looked_at_s = clock.monotonic_s()

    @property
    def age_s(self) -> float:
        """Seconds since the last look, or since the start."""
        return self._clock.monotonic_s() - self._looked_at_s

    @property
    def servers(self) -> list[tuple[SeenServer, float]]:
        """Every server that was seen, by id, and how many seconds before the last look it still stood."""
        return [(seen, self._looked_at_s - seen.at_s) for _, seen in sorted(self._seen.items())]

    @property
    def trouble(self) -> str:
        """Why the store is not serving, by the last look; "" = it is, as far as anybody has looked."""
        return "" if self.health is UNSEEN else self.health.why

    def unready(self) -> str:
        """Why this server should get no requests now, without names of machines: anybody may read it; "" = it may."""
        if self.age_s > OLD_S:
            return "the store has not been looked at for too long"
        return "the store is not serving" if self.health.why else ""

    async def run(self) -> None:
        """Look regularly, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # the next look may work
                log.exception("store not looked at")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once."""
        health = await self._store.health()
        now_s = self._looked_at_s = self._clock.monotonic_s()
        self.health = health
        for seen in list(self._seen.values()):
            if now_s - seen.at_s > FORGET_S:
                del self._seen[seen.server.id]
            elif not health.why:
                self._seen[seen.server.id] = seen._replace(leads=False)
        for n, server in enumerate(health.servers):
            self._seen[server.id] = SeenServer(server, now_s, n == 0)
