"""What a caller may do: each call of a server's service is checked here, and nowhere else.

Only the leader knows the namespace of a uid, so this stands before its service, and before that of its last term,
which answers stale reads. The server that took the call has checked the credential, and sends its name (IDENTITY).
docs/api.md has the roles by method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from billet.api import fleet_service as fleet
from billet.api.authentication import NOBODY, UNREAD, Authenticator, expired
from billet.api.credential_service import credential_methods
from billet.api.visible import visible
from billet.closing import closing
from billet.core.access import EVERYWHERE, SHARED, Credential, Verb, may
from billet.core.errors import HostVerdict, PermissionDenied, Unauthenticated, Unreachable, says_not_found
from billet.core.metadata import ReplyMetadata
from billet.leader.credentials import Credentials
from billet.leader.delete_guard import DeleteGuard
from billet.leader.ledger import Ledger
from billet.leader.server import Service
from billet.ports import Answer, Clock
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.headers import IDENTITY
from billet.wire.pb import fleet_pb2 as pb

CALL_S = 30.0  # for a Get before a stream, which may have no deadline

# What each method does. One that is missing here is refused.
VERBS: Mapping[str, Verb] = {
    wire.CREATE: Verb.CREATE,
    wire.DELETE: Verb.DELETE,
    wire.GET: Verb.READ,
    wire.LIST: Verb.READ,
    wire.LIST_STREAM: Verb.READ,
    newer.SERVER_INFO: Verb.LOOK,
    newer.EXEC: Verb.EXEC,
    newer.SSH: Verb.EXEC,
    fleet.HOSTS: Verb.LOOK,
    fleet.STATUS: Verb.LOOK,
    fleet.ACCURACY: Verb.LOOK,
    fleet.CAPACITY: Verb.LOOK,
    fleet.PLACEMENTS: Verb.TRACE,
    fleet.EXPLAIN: Verb.TRACE,
    fleet.RECORDS: Verb.TRACE,
    fleet.EVENTS: Verb.TRACE,
    fleet.CHANGE_HOST: Verb.OPERATE,
    fleet.CREATE_CREDENTIAL: Verb.OPERATE,
    fleet.CREDENTIALS: Verb.OPERATE,
    fleet.REVOKE_CREDENTIAL: Verb.OPERATE,
}


class Authorized:
    """leader.server.Service that refuses what a caller has no right to, and shows what it may see."""

    def __init__(
        self,
        service: Service,
        ledger: Ledger,
        callers: Authenticator,
        clock: Clock,
        guard: DeleteGuard,
    ) -> None:
        """`callers` knows newer credentials than the ledger once the term has ended."""
        self._service = service
        self._ledger = ledger
        self._callers = callers
        self._clock = clock
        self._guard = guard
        self._own = credential_methods(Credentials(ledger, clock, callers.take))
        self.drain = service.drain
        self.knows = service.knows

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        who = self._caller(metadata.get(IDENTITY, NOBODY))
        if who is None:
            return await self._answer(method, request, timeout_s, metadata)
        demand(who, VERBS.get(method, Verb.OTHER))
        if EVERYWHERE not in who.namespaces:
            await self._demand_namespace(who, method, request, timeout_s)
        if method == wire.DELETE:
            self._guard.admit(who, wire.read_uid(request))
        answer = await self._answer(method, request, timeout_s, metadata)
        return answer if EVERYWHERE in who.namespaces else await visible(who, method, answer)

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        who = self._caller(metadata.get(IDENTITY, NOBODY))
        if who is not None:
            demand(who, VERBS.get(method, Verb.OTHER))
            if EVERYWHERE not in who.namespaces:
                requests = await self._demand_stream(who, method, requests)
        async with closing(self._service.stream(method, requests, timeout_s, metadata, told)) as replies:
            async for reply in replies:
                yield reply

    async def _answer(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        if own := self._own.get(method):
            return await own(request, timeout_s, metadata)
        return await self._service.unary(method, request, timeout_s, metadata)

    def _caller(self, name: str) -> Credential | None:
        """The caller's credential; None where no credentials are configured. Raises BilletError."""
        known = self._ledger.state.credentials
        if name == SHARED.name:
            return SHARED if known else None
        if not known and name in (NOBODY, UNREAD):
            return None
        if name in (NOBODY, UNREAD):
            raise Unreachable("the server that took this call has not read the credentials yet; try again")
        who = self._callers.find(name) if self._ledger.over.is_set() else known.get(name)
        if who is None:
            raise Unauthenticated(f"credential {name} was revoked")
        if who.expired(self._clock.now_s()):
            raise Unauthenticated(expired(who))
        return who

    async def _demand_namespace(self, who: Credential, method: str, request: bytes, timeout_s: float) -> None:
        """Raise PermissionDenied unless the caller has the right in the namespace that the call is about."""
        match method:
            case wire.CREATE:
                demand(who, Verb.CREATE, wire.read_labels(request)[0])
            case wire.GET:
                if placement := self._ledger.state.of_uid(wire.read_uid(request)):
                    demand(who, Verb.READ, placement.namespace)  # of others, `visible` looks at the answer
            case wire.DELETE:
                uid = wire.read_uid(request)
                demand(who, Verb.DELETE, await self._namespace(uid, wire.DELETE, timeout_s))
            case wire.LIST:
                demand(who, Verb.READ, wire.read_namespace(request) or None)
            case fleet.PLACEMENTS:
                demand(who, Verb.TRACE, wire.parse(pb.PlacementsRequest, request).namespace or None)
            case fleet.CAPACITY:
                demand(who, Verb.TRACE, wire.parse(pb.CapacityRequest, request).microvm.namespace or None)

    async def _demand_stream(
        self, who: Credential, method: str, requests: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """As `_demand_namespace`, by a stream's first message. Returns the same messages."""
        first = await anext(aiter(requests), None)
        if first is None:
            return requests
        if method == wire.LIST_STREAM:
            demand(who, Verb.READ, wire.read_namespace(first) or None)
        else:
            uid = newer.stream_uid(method, first)
            demand(who, VERBS[method], await self._namespace(uid, wire.GET, CALL_S))
        return _chained(first, requests)

    async def _namespace(self, uid: str, method: str, timeout_s: float) -> str:
        """The namespace of a microVM. If it has no placement, the hosts are asked.

        For one that does not exist, it raises what the hosts would answer to `method`.
        """
        if placement := self._ledger.state.of_uid(uid):
            return placement.namespace
        try:
            answer = await self._service.unary(wire.GET, wire.with_uid(uid), timeout_s, {})
        except HostVerdict as verdict:
            if not says_not_found(verdict.text):
                raise
            raise HostVerdict(verdict.status, wire.unknown_uid(method, uid)) from None
        return wire.read_created(answer.payload).namespace


def demand(who: Credential, verb: Verb, namespace: str | None = None) -> None:
    """Raise PermissionDenied unless the caller may do this."""
    if refusal := may(who, verb, namespace):
        raise PermissionDenied(refusal)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for message in rest:
        yield message
