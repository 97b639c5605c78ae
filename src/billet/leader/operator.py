"""The operator's commands for a host: cordon, uncordon, fence, remove. Each refusal says why and what to do."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from billet.core.errors import InvalidRequest, PreconditionFailed, StaleTerm
from billet.core.model import Host, PlacementState
from billet.core.plural import counted
from billet.core.state import DropPlacement, holds_room
from billet.leader.ledger import Ledger
from billet.leader.reconciler import SURELY_AWAY_S, Reconciler

log = structlog.get_logger()


class Operator:
    """Carries out the operator's commands in one term."""

    def __init__(self, ledger: Ledger, reconciler: Reconciler) -> None:
        self._ledger = ledger
        self._reconciler = reconciler

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

    async def remove(self, host_id: str, gone_for_good: bool) -> None:
        """Forget a host that is empty and not connected. One that was fenced with microVMs needs `gone_for_good`."""
        self._known(host_id)
        await self._surely_away(host_id, "stop its agent, or it will join again at once")
        self._known(host_id)
        state = self._ledger.state
        placements = [state.placements[placement_id] for placement_id in sorted(state.on_host.get(host_id, ()))]
        holding = sum(holds_room(placement) for placement in placements)
        if holding:
            raise PreconditionFailed(
                f"host {host_id} still has {counted(holding, 'microVM')}: "
                "start its agent and drain it, or fence it if it is dead"
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
