"""Reads while nobody leads: answered from this server's last term and by the hosts, which are still connected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from billet.api.leader_proxy import READS
from billet.core.errors import HostVerdict, LeaderLost, Unreachable
from billet.core.metadata import ReplyMetadata
from billet.leader.server import Service
from billet.ports import Answer
from billet.wire import flintlock as wire
from billet.wire.headers import STALE


class StaleReads:
    """ports.Backend for reads only. A trailer of every answer gives the age of its information, in seconds."""

    def __init__(self, service: Service, ended_s: float, monotonic_s: Callable[[], float]) -> None:
        """`service` is that of this server's last term, which ended at `ended_s` of the same clock."""
        self._service = service
        self._ended_s = ended_s
        self._monotonic_s = monotonic_s

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        if method not in READS:
            raise LeaderLost("no server leads at the moment; try again")
        try:
            answer = await self._service.unary(method, request, timeout_s, metadata)
        except HostVerdict:
            if method == wire.GET and not self._service.knows(wire.read_uid(request)):
                # Another leader may have placed it on a host that joined after this server's term.
                raise Unreachable(
                    "no server leads, and none of the known hosts has this microVM; try again"
                ) from None
            raise
        age_s = self._monotonic_s() - self._ended_s
        return answer._replace(trailers=(*answer.trailers, (STALE, f"{age_s:.1f}")))

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        raise LeaderLost("no server leads at the moment; try again")
        yield b""
