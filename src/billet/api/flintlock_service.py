"""Flintlock's gRPC service for the whole fleet: routes each call to the microVM's host and returns its reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from billet.api.audit_facts import about
from billet.api.creates import Creates
from billet.api.fleet_service import fleet_methods
from billet.api.looks import SharedLooks
from billet.api.recorded import Growth, RecordedAuctions
from billet.closing import closing
from billet.core.errors import (
    BilletError,
    Code,
    HostVerdict,
    InvalidRequest,
    Unimplemented,
    Unreachable,
    says_not_found,
)
from billet.core.metadata import Metadata, ReplyMetadata
from billet.core.model import Placement, PlacementState
from billet.leader.leadership import Leadership
from billet.ports import Answer, Reply
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.metadata import from_client

DELETED = frozenset({PlacementState.RELEASING, PlacementState.GONE})
PARTIAL = "x-billet-partial"  # request metadata: "allow"; trailing metadata: the hosts that did not answer


class FlintlockService:
    """The leader's Backend: Flintlock's methods and those of Fleet."""

    def __init__(
        self, leadership: Leadership, records: RecordedAuctions, server: str, growth: Growth | None = None
    ) -> None:
        """`growth` tells of new `records`."""
        self._leadership = leadership
        self._creates = Creates(leadership)
        self._looks = SharedLooks(self._look)
        self._deletes: set[asyncio.Task[bytes]] = set()
        self._methods = {
            wire.CREATE: self._creates.create,
            wire.DELETE: self._delete,
            wire.GET: self._get,
            wire.LIST: self._list,
            newer.SERVER_INFO: self._server_info,
            **fleet_methods(leadership, records, server, growth),
        }

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See Backend."""
        return await self._methods[method](request, timeout_s, metadata)

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See Backend."""
        try:
            first = await anext(aiter(requests))
        except StopAsyncIteration:
            raise InvalidRequest(f"the client ended {method} before its first message") from None
        replies = (
            self._list_stream(first) if method == wire.LIST_STREAM
            else self._forward(method, first, requests, timeout_s, from_client(metadata), told)
        )  # fmt: skip
        async with closing(replies):
            async for reply in replies:
                yield reply

    async def drain(self) -> None:
        """Wait for the creates and deletes in flight, including those whose client has disconnected, and records."""
        work = [*self._creates.tasks, *self._deletes]
        if work:
            await asyncio.wait(work)
        await self._leadership.auctioneer.behind.finish()

    def knows(self, uid: str) -> bool:
        """Whether the microVM has a placement."""
        return self._leadership.ledger.state.of_uid(uid) is not None

    async def _delete(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        uid = wire.read_uid(request)
        placement = self._placement(uid, wire.DELETE)
        if placement is None:
            delete = self._delete_unrecorded(uid, request)
        else:
            delete = self._leadership.auctioneer.delete(uid, wire.DELETE, request, from_client(metadata))
        # A client that disconnects must not stop it between the commit and the ledger.
        deleting = asyncio.create_task(delete)
        self._deletes.add(deleting)
        deleting.add_done_callback(self._deletes.discard)
        return Answer(await asyncio.shield(deleting), about(placement))

    async def _delete_unrecorded(self, uid: str, request: bytes) -> bytes:
        """Delete a microVM without a placement; what the leader is only about to record is recorded as deleted."""
        empty = await self._ask_all_hosts_for(uid, wire.DELETE, request)
        await self._leadership.auctioneer.deleted(uid)
        return empty

    async def _get(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        uid = wire.read_uid(request)
        placement = self._placement(uid, wire.GET)
        if placement is None:
            return Answer(await self._ask_all_hosts_for(uid, wire.GET, request))
        reply = await self._call(placement.host, wire.GET, request, from_client(metadata))
        shown = payload(reply)
        if (now := self._leadership.ledger.state.of_uid(uid)) and now.state in DELETED:
            shown = wire.deleting_in(shown, {uid})  # flintlockd has lost the Delete, or its answer is older
        return Answer(shown, reply.trailers, reply.headers)

    async def _list(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        whole, missing = await self._looks.see(request)
        if missing and metadata.get(PARTIAL) != "allow":
            raise Unreachable(
                f"the list would be incomplete: {', '.join(sorted(missing))} did not answer; "
                f"send the metadata `{PARTIAL}: allow` to get a partial list"
            )
        return Answer(whole, ((PARTIAL, ",".join(sorted(missing))),) if missing else ())

    async def _look(self, request: bytes) -> tuple[bytes, set[str]]:
        """The lists of all hosts, merged by concatenating their bytes, as protobuf allows; and the hosts missing."""
        replies, missing = await self._ask_all_hosts(wire.LIST, request)
        lists = (
            self._with_deletes(host, self._without_fenced(host, payload(reply))) for host, reply in replies.items()
        )
        return b"".join(lists), missing

    async def _list_stream(self, request: bytes) -> AsyncIterator[bytes]:
        """As flintlockd does it: the namespace is required, the name is ignored, one message per microVM."""
        namespace = wire.read_namespace(request)
        if not namespace:
            raise InvalidRequest(wire.INVALID)
        answer = await self._list(wire.list_request(namespace), 0.0, {})
        for message in wire.split_list(answer.payload):
            yield message

    async def _server_info(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """The reply of the oldest flintlockd: the fleet as a whole supports what its oldest host supports.

        A flintlockd without this method has no version and is older than all others. One that fails has not answered.
        """
        replies, _ = await self._ask_all_hosts(newer.SERVER_INFO, request)
        told = [reply for reply in replies.values() if reply.code in (Code.OK, Code.UNIMPLEMENTED)]
        if not told:
            raise Unreachable("no host answered the call for its version; check `billet hosts`")
        return Answer(payload(min(told, key=lambda reply: newer.version_of(reply.payload))))

    async def _forward(
        self,
        method: str,
        first: bytes,
        rest: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata,
        told: ReplyMetadata | None,
    ) -> AsyncIterator[bytes]:
        """Forward a method that Billet has no stubs for to the host of the uid in the first message."""
        uid = newer.stream_uid(method, first)
        if not uid:
            raise Unimplemented(
                f"Billet does not implement {method} and cannot forward it: the request names no microVM"
            )
        host_id = await self._host_of(uid)

        async def requests() -> AsyncIterator[bytes]:
            yield first
            async for message in rest:
                yield message

        hosts = self._leadership.hosts
        async with closing(hosts.stream(host_id, method, requests(), timeout_s, metadata, told)) as replies:
            async for reply in replies:
                yield reply

    async def _host_of(self, uid: str) -> str:
        placement = self._placement(uid, wire.GET)
        if placement:
            return placement.host
        replies, missing = await self._ask_all_hosts(wire.GET, wire.with_uid(uid))
        for host_id, reply in replies.items():
            if reply.code == Code.OK:
                return host_id
        raise _no_host_has(uid, replies, missing)

    def _placement(self, uid: str, method: str) -> Placement | None:
        """The microVM's placement. Raises flintlockd's own "not found" for one that a fence declared gone.

        So it is for one that was deleted before its host was fenced or removed: that host cannot be asked any more.
        """
        state = self._leadership.ledger.state
        placement = state.of_uid(uid)
        if placement is None:
            return None
        host = state.hosts.get(placement.host)
        ended = placement.state is PlacementState.GONE and (host is None or host.fenced)
        if ended or placement.state is PlacementState.FENCED:
            raise HostVerdict(Code.UNKNOWN, wire.unknown_uid(method, uid))
        return placement

    def _with_deletes(self, host_id: str, shown: bytes) -> bytes:
        """What a host shows, with accepted Deletes: one that flintlockd has lost will be sent again."""
        state = self._leadership.ledger.state
        placements = (state.placements[placement_id] for placement_id in state.on_host.get(host_id, ()))
        uids = {placement.uid for placement in placements if placement.state is PlacementState.RELEASING}
        return wire.deleting_in(shown, uids) if uids else shown

    def _without_fenced(self, host_id: str, listed: bytes) -> bytes:
        """A host's list without the microVMs that a fence declared gone and the host has not deleted yet."""
        state = self._leadership.ledger.state
        host = state.hosts.get(host_id)
        if host is None or not host.fenced:
            return listed
        rows = zip(wire.split_list(listed), wire.read_list(listed), strict=True)
        return b"".join(
            message for message, row in rows
            if not ((placement := state.of_uid(row.uid)) and placement.state is PlacementState.FENCED)
        )  # fmt: skip

    async def _ask_all_hosts_for(self, uid: str, method: str, request: bytes) -> bytes:
        """Ask all hosts about a uid without a placement: just created on a host, gone, or never there.

        If it has a placement when they have answered, only the answer of its host counts.
        """
        replies, missing = await self._ask_all_hosts(method, request)
        if placement := self._placement(uid, method):
            if placement.host not in replies:
                raise Unreachable(f"host {placement.host} does not say whether it has microVM {uid}")
            return payload(replies[placement.host])
        for reply in replies.values():
            if reply.code == Code.OK:
                return reply.payload
        raise _no_host_has(uid, replies, missing)

    async def _ask_all_hosts(self, method: str, request: bytes) -> tuple[dict[str, Reply], set[str]]:
        """Ask all hosts at once: the replies by host, and the hosts that did not answer.

        Includes hosts whose first record is being written, whether they are still connected or not. A fenced host
        that does not answer does not count as missing, because its microVMs are declared gone.
        """
        hosts = dict(self._leadership.ledger.state.hosts)
        host_ids = list(dict.fromkeys([*hosts, *self._leadership.reconciler.seen, *self._leadership.ledger.amending]))
        fenced = {host_id for host_id, host in hosts.items() if host.fenced}
        replies = await asyncio.gather(*(self._try(host_id, method, request) for host_id in host_ids))
        answered = {host_id: reply for host_id, reply in zip(host_ids, replies, strict=True) if reply}
        return answered, set(host_ids) - answered.keys() - fenced

    async def _try(self, host_id: str, method: str, request: bytes) -> Reply | None:
        try:
            return await self._call(host_id, method, request)
        except Unreachable:
            return None

    async def _call(self, host_id: str, method: str, request: bytes, metadata: Metadata = ()) -> Reply:
        timeout_s = self._leadership.rules.call_timeout_s
        return await self._leadership.hosts.call(host_id, method, request, timeout_s, metadata)


def payload(reply: Reply) -> bytes:
    """The reply's message. Raises HostVerdict with flintlockd's own text unless its code is OK."""
    if reply.code != Code.OK:
        raise HostVerdict(reply.code, reply.text, reply.trailers)
    return reply.payload


def _no_host_has(uid: str, replies: Mapping[str, Reply], missing: set[str]) -> BilletError:
    """The error for a uid that no host has: flintlockd's "not found" only if every host said so (promise 5).

    A flintlockd that did not answer in time counts as silent.
    """
    silent = missing | {host_id for host_id, reply in replies.items() if not says_not_found(reply.text)}
    if silent or not replies:
        who = ", ".join(sorted(silent)) or "no host has joined yet"
        return Unreachable(f"microVM {uid} is on none of the hosts that answered; not answering: {who}")
    reply = next(iter(replies.values()))
    return HostVerdict(reply.code, reply.text)
