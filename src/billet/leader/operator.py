"""The operator's commands for a host: cordon, uncordon, fence, remove. Each refusal says why and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from billet.core.errors import InvalidRequest, PreconditionFailed, StaleTerm
from billet.core.model import Host, Placement, PlacementState
from billet.core.plural import counted
from billet.core.state import DropPlacement, holds_room
from billet.leader.ledger import Ledger
from billet.leader.reconciler import SURELY_AWAY_S, Reconciler

log = structlog.get_logger()


class Operator:
    """Carries out the operator's commands in one term."""

    def __init__(self, ledger: Ledger, reconciler: Reconciler, sharing: Callable[[str], list[str]]) -> None:
        """`sharing`: the agents that show microVMs of a host (Admission.sharing)."""
        self._ledger = ledger
        self._reconciler = reconciler
        self._sharing = sharing

    async def cordon(self, host_id: str, yes: bool) -> None:
        """Cordon a host, so that it gets no new microVMs, or uncordon it. Raises InvalidRequest."""
        self._known(host_id)
        await self._ledger.amend(host_id, lambda known: replace(known, cordoned=yes) if known else None)

    async def fence(self, host_id: str) -> int:
        """Declare an absent host dead; return how many of its microVMs are declared gone, now and earlier.

        They are released for good: if the host comes back, it deletes them before it may bid. Raises InvalidRequest,
        PreconditionFailed when the host is connected, StaleTerm when this server stops leading meanwhile.
        """
        self._known(host_id)
        await self._surely_away(
            host_id, "drain it, or stop its agent and flintlockd first; a running host must not be fenced"
        )
        await self._reconciler.fence(host_id)
        if self._ledger.over.is_set():
            raise StaleTerm(f"this server no longer leads, and host {host_id} may be fenced only in part: try again")
        if not self._known(host_id).fenced:
            raise PreconditionFailed(
                f"host {host_id} reconnected before it was fenced: drain it, or stop it and fence it again"
            )
        return self._fenced(host_id)

    async def remove(self, host_id: str, gone_for_good: bool, heir: str = "") -> None:
        """Forget a host that is empty and not connected. One that was fenced with microVMs needs `gone_for_good`.

        `heir`: the host that takes over its microVMs, since both names stand for one flintlockd; "" = none. Raises
        InvalidRequest, PreconditionFailed, StoreError.
        """
        self._known(host_id)
        await self._surely_away(host_id, "stop its agent, or it will join again at once")
        if heir:
            await self._hand_over(host_id, heir)
        self._known(host_id)
        placements = self._placements(host_id)
        holding = sum(holds_room(placement) for placement in placements)
        if holding:
            raise PreconditionFailed(
                f"host {host_id} still has {counted(holding, 'microVM')}: {self._way_out(host_id)}"
            )
        fenced = self._fenced(host_id)
        if fenced and not gone_for_good:
            raise PreconditionFailed(
                f"host {host_id} was fenced with {counted(fenced, 'microVM')}, which it deletes if it comes back; "
                "a removed host does not: give --gone if this machine will never come back"
            )
        drops = [DropPlacement(placement.id) for placement in placements]
        await self._ledger.finish_each(drops)
        await self._ledger.amend(host_id, lambda _: None)
        log.warning("host removed", host=host_id, forgotten=len(drops))

    async def _hand_over(self, host_id: str, heir: str) -> None:
        """Make what was placed on one host the other's. May be done again after an error or a change of leader."""
        if self._known(heir).fenced:
            raise PreconditionFailed(
                f"host {heir} is fenced: it deletes what it had, and may take over others' microVMs after that"
            )
        if self._known(host_id).fenced:
            raise PreconditionFailed(
                f"host {host_id} was fenced, so its microVMs are given up: {heir} deletes them when it joins"
            )
        if heir not in self._sharing(host_id):
            raise PreconditionFailed(
                f"host {heir} has shown no microVM of {host_id}, so they have two flintlockds: start the agent of "
                f"{heir} beside the flintlockd that has the microVMs, and try again"
            )
        placements = self._placements(host_id)
        await asyncio.gather(*(self._ledger.move(placement.id, heir) for placement in placements))
        log.warning("microVMs handed over", host=host_id, to=heir, microvms=len(placements))

    def _way_out(self, host_id: str) -> str:
        """What to do with a host that is away and has microVMs."""
        advice = "start its agent and drain it, or fence it if it is dead"
        heirs = self._sharing(host_id)
        if not heirs:
            return advice
        return (
            f"{', '.join(heirs)} shows them too. If both names mean one machine, give --to {heirs[0]}; else {advice}"
        )

    def _placements(self, host_id: str) -> list[Placement]:
        state = self._ledger.state
        return [state.placements[placement_id] for placement_id in sorted(state.on_host.get(host_id, ()))]

    def _fenced(self, host_id: str) -> int:
        state = self._ledger.state
        return sum(state.placements[id_].state is PlacementState.FENCED for id_ in state.on_host.get(host_id, ()))

    def _known(self, host_id: str) -> Host:
        host = self._ledger.state.hosts.get(host_id)
        if host is None:
            raise InvalidRequest(f"there is no host {host_id!r}; `billet hosts` lists the hosts")
        return host

    async def _surely_away(self, host_id: str, advice: str) -> None:
        """Wait until a host has been away longer than a reconnect takes. Raises PreconditionFailed if it is here."""
        while True:
            away_s = self._reconciler.away_s(host_id)
            if away_s is None:
                raise PreconditionFailed(f"host {host_id} is connected: {advice}")
            if away_s >= SURELY_AWAY_S:
                return
            await asyncio.sleep(SURELY_AWAY_S - away_s)
