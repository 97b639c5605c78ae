"""Fleet.Status: who leads, and how the servers, the store and the hosts are.

The server that a client calls answers from what it sees itself, so that it answers while nobody leads and while the
store is away. The leader adds the hosts; while there is none, a server adds what it knew last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from billet.api.authentication import UNREAD
from billet.api.fleet_service import STATUS
from billet.api.http import Front
from billet.closing import closing
from billet.core.errors import BilletError, PermissionDenied, Unauthenticated, Unreachable
from billet.core.metadata import Metadata, ReplyMetadata
from billet.ports import Answer
from billet.store_watch import StoreWatch
from billet.wire.headers import FORWARDED, IDENTITY, STALE
from billet.wire.pb import fleet_pb2 as pb

LEADER_S = 3.0  # how long the leader is waited for, or a stale answer: people want theirs within 5 s


class WithStatus:
    """Passes every call to `backend`, and adds to the answer to Status what this server sees."""

    def __init__(self, backend: Front, watch: StoreWatch, server: str, version: str) -> None:
        self._backend = backend
        self._watch = watch
        self._server = server
        self._version = version

    @property
    def serving(self) -> bool:
        """Whether calls are answered now."""
        return self._backend.serving

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        if method != STATUS or FORWARDED in metadata:
            return await self._backend.unary(method, request, timeout_s, metadata)
        return await self._status(request, min(timeout_s, LEADER_S), metadata)

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        async with closing(self._backend.stream(method, requests, timeout_s, metadata, told)) as replies:
            async for reply in replies:
                yield reply

    async def _status(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        if metadata.get(IDENTITY) == UNREAD:
            raise Unreachable("this server has not read the credentials from the store yet; try again")
        trailers: Metadata = ()
        try:
            answer = await self._backend.unary(STATUS, request, timeout_s, metadata)
        except (PermissionDenied, Unauthenticated):
            raise
        except BilletError as error:  # each role may see this, and this server knows the caller
            reply = pb.StatusReply(no_leader=error.text)
        else:
            reply, trailers = pb.StatusReply.FromString(answer.payload), answer.trailers
            stale = [text for key, text in trailers if key == STALE]
            if stale:
                reply.stale_s, reply.leader = float(stale[0]), ""
                reply.no_leader = "no server leads at the moment"
        reply.server, reply.version = self._server, self._version
        reply.servers.extend(servers(self._watch))
        reply.store.CopyFrom(store(self._watch))
        return Answer(reply.SerializeToString(), trailers)


def servers(watch: StoreWatch) -> list[pb.ServerView]:
    """The servers that were seen."""
    return [
        pb.ServerView(
            id=seen.server.id,
            grpc=seen.server.grpc,
            http=seen.server.http,
            link=seen.server.link,
            version=seen.server.version,
            missing_s=missing_s,
        )
        for seen, missing_s in watch.servers
    ]


def store(watch: StoreWatch) -> pb.StoreView:
    """The store's health as a message."""
    health = watch.health
    members = [pb.StoreMember(**member._asdict()) for member in health.members]
    return pb.StoreView(
        serving=not health.why, why=health.why, members=members, troubles=health.troubles, age_s=watch.age_s
    )
