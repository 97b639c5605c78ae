"""Flintlock's service for a whole fleet. The uid decides which host is asked; what it says is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import structlog

from billet.api.fleet_service import Records, fleet_methods
from billet.core.errors import (
    BilletError,
    Cancelled,
    Code,
    HostVerdict,
    InvalidRequest,
    Unimplemented,
    Unreachable,
    says_not_found,
)
from billet.core.model import Placement, PlacementState
from billet.leader.auctioneer import Caller
from billet.leader.leadership import Leadership
from billet.ports import Answer, Reply
from billet.wire import flintlock as wire
from billet.wire.headers import TOKEN, ZONE

log = structlog.get_logger()

PARTIAL = "x-billet-partial"  # request metadata `allow`; trailing metadata: the hosts that are missing


class Creating(NamedTuple):
    """A create under way."""

    task: asyncio.Task[bytes]
    caller: Caller


class FlintlockService:
    """The leader's Backend."""

    def __init__(self, leadership: Leadership, records: Records, server: str) -> None:
        self._leadership = leadership
        self._creates: dict[str, Creating] = {}  # by token
        self._methods = {
            wire.CREATE: self._create,
            wire.DELETE: self._delete,
            wire.GET: self._get,
            wire.LIST: self._list,
            wire.SERVER_INFO: self._server_info,
            **fleet_methods(leadership, records, server),
        }

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See Backend."""
        return await self._methods[method](request, timeout_s, metadata)

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None, metadata: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """See Backend."""
        try:
            first = await anext(aiter(requests))
        except StopAsyncIteration:
            raise InvalidRequest(f"{method} ended before its first message") from None
        replies = (
            self._list_stream(first) if method == wire.LIST_STREAM
            else self._forward(method, first, requests, timeout_s)
        )  # fmt: skip
        async for reply in replies:
            yield reply

    async def drain(self) -> None:
        """Wait for the creates in flight, those whose client has gone among them."""
        if self._creates:
            await asyncio.wait([creating.task for creating in self._creates.values()])

    def knows(self, uid: str) -> bool:
        """Whether a microVM has a placement."""
        return self._leadership.ledger.state.of_uid(uid) is not None

    async def _create(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """A create outlives its client: once a host was told, it is carried to its end and recorded.

        One that comes again while it is under way, sent anew by its client or by another server, joins it.
        """
        token = metadata[TOKEN]
        while True:
            creating = self._creates.get(token) or self._begin(token, request, timeout_s, metadata.get(ZONE, ""))
            creating.caller.waiting += 1
            try:
                return Answer(await asyncio.shield(creating.task))
            except asyncio.CancelledError:
                creating.task.add_done_callback(_retrieve)
                raise
            except BilletError as error:
                if not isinstance(error, Cancelled):
                    raise  # else those before us gave it up, and we have not
            finally:
                creating.caller.waiting -= 1

    def _begin(self, token: str, request: bytes, timeout_s: float, zone: str) -> Creating:
        auction = wire.read_create(request, token, zone)
        caller = Caller(timeout_s)
        task = asyncio.create_task(self._leadership.auctioneer.create(auction, request, caller))
        self._creates[token] = creating = Creating(task, caller)
        task.add_done_callback(lambda done: self._creates.pop(token))
        return creating

    async def _delete(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        uid = wire.read_uid(request)
        if self._placement(uid, wire.DELETE) is None:
            return Answer(await self._ask_everyone(uid, wire.DELETE, request))
        # A client that goes away does not stop it between its commit and the ledger.
        return Answer(await asyncio.shield(self._leadership.auctioneer.delete(uid, wire.DELETE, request)))

    async def _get(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        uid = wire.read_uid(request)
        placement = self._placement(uid, wire.GET)
        if placement is None:
            return Answer(await self._ask_everyone(uid, wire.GET, request))
        return Answer(payload(await self._call(placement.host, wire.GET, request)))

    async def _list(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """All hosts' lists, one after another: on the wire, lists are merged by joining their bytes."""
        replies, missing = await self._everyone(wire.LIST, request)
        if missing and metadata.get(PARTIAL) != "allow":
            raise Unreachable(
                f"the list would lack the microVMs of {', '.join(sorted(missing))}, which do not answer; "
                f"send the metadata `{PARTIAL}: allow` to get it all the same"
            )
        whole = b"".join(self._standing(host_id, payload(reply)) for host_id, reply in replies.items())
        return Answer(whole, ((PARTIAL, ",".join(sorted(missing))),) if missing else ())

    async def _list_stream(self, request: bytes) -> AsyncIterator[bytes]:
        """Like flintlockd's: the namespace is required, the name is ignored, one message for each microVM."""
        namespace = wire.read_namespace(request)
        if not namespace:
            raise InvalidRequest(wire.INVALID)
        answer = await self._list(wire.list_request(namespace), 0.0, {})
        for message in wire.split_list(answer.payload):
            yield message

    async def _server_info(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """The whole fleet can do what its oldest flintlockd can: the lowest version answers."""
        replies, _ = await self._everyone(wire.SERVER_INFO, request)
        if not replies:
            raise Unreachable("no host can be asked for its version")
        # One that does not know the method at all has no version, and so is the oldest.
        return Answer(payload(min(replies.values(), key=lambda reply: wire.version_of(reply.payload))))

    async def _forward(
        self, method: str, first: bytes, rest: AsyncIterator[bytes], timeout_s: float | None
    ) -> AsyncIterator[bytes]:
        """A call that Billet has no stubs for, passed on to the host of the uid in its first message."""
        uid = wire.uid_of(first)
        if not uid:
            raise Unimplemented(f"Billet does not know {method}, and its request names no microVM to pass it on by")
        host_id = await self._host_of(uid)

        async def requests() -> AsyncIterator[bytes]:
            yield first
            async for message in rest:
                yield message

        async for reply in self._leadership.hosts.stream(host_id, method, requests(), timeout_s):
            yield reply

    async def _host_of(self, uid: str) -> str:
        placement = self._placement(uid, wire.GET)
        if placement:
            return placement.host
        replies, missing = await self._everyone(wire.GET, wire.with_uid(uid))
        for host_id, reply in replies.items():
            if reply.code == Code.OK:
                return host_id
        raise _nowhere(uid, replies, missing)

    def _placement(self, uid: str, method: str) -> Placement | None:
        """Where a microVM is. Raises flintlockd's own verdict for one that a fence declared gone."""
        placement = self._leadership.ledger.state.of_uid(uid)
        if placement and placement.state is PlacementState.FENCED:
            raise HostVerdict(Code.UNKNOWN, wire.unknown_uid(method, uid))
        return placement

    def _standing(self, host_id: str, listed: bytes) -> bytes:
        """A host's list without what a fence declared gone and the host has not deleted yet."""
        state = self._leadership.ledger.state
        host = state.hosts.get(host_id)
        if host is None or not host.fenced:
            return listed
        rows = zip(wire.split_list(listed), wire.read_list(listed), strict=True)
        return b"".join(
            message for message, row in rows
            if not ((placement := state.of_uid(row.uid)) and placement.state is PlacementState.FENCED)
        )  # fmt: skip

    async def _ask_everyone(self, uid: str, method: str, request: bytes) -> bytes:
        """A uid that is in no placement: made on a host just now, gone, or never there. Only the hosts know."""
        replies, missing = await self._everyone(method, request)
        for reply in replies.values():
            if reply.code == Code.OK:
                return reply.payload
        raise _nowhere(uid, replies, missing)

    async def _everyone(self, method: str, request: bytes) -> tuple[dict[str, Reply], set[str]]:
        """Ask all hosts at once: the replies, and the hosts that did not give one.

        Those that have just come and are not written down yet count, too. A fenced host that does not answer is
        missed by nobody: what it ran is declared gone.
        """
        hosts = dict(self._leadership.ledger.state.hosts)
        host_ids = list(dict.fromkeys([*hosts, *self._leadership.reconciler.seen]))
        fenced = {host_id for host_id, host in hosts.items() if host.fenced}
        replies = await asyncio.gather(*(self._try(host_id, method, request) for host_id in host_ids))
        got = {host_id: reply for host_id, reply in zip(host_ids, replies, strict=True) if reply}
        return got, set(host_ids) - got.keys() - fenced

    async def _try(self, host_id: str, method: str, request: bytes) -> Reply | None:
        try:
            return await self._call(host_id, method, request)
        except Unreachable:
            return None

    async def _call(self, host_id: str, method: str, request: bytes) -> Reply:
        return await self._leadership.hosts.call(host_id, method, request, self._leadership.rules.call_timeout_s)


def payload(reply: Reply) -> bytes:
    """The message of a reply. Raises HostVerdict with flintlockd's own words unless it is OK."""
    if reply.code != Code.OK:
        raise HostVerdict(reply.code, reply.text)
    return reply.payload


def _nowhere(uid: str, replies: Mapping[str, Reply], missing: set[str]) -> BilletError:
    """Why a uid cannot be served. Only when every host has said so may it be called gone (promise 5).

    A flintlockd that was asked and did not answer in time has said nothing.
    """
    silent = missing | {host_id for host_id, reply in replies.items() if not says_not_found(reply.text)}
    if silent or not replies:
        who = ", ".join(sorted(silent)) or "no host has joined yet"
        return Unreachable(f"microVM {uid} is on none of the hosts that answer; these do not: {who}")
    reply = next(iter(replies.values()))
    return HostVerdict(reply.code, reply.text)


def _retrieve(task: asyncio.Task[bytes]) -> None:
    """Nobody waits for this create any more; its error, if any, is in its record."""
    if not task.cancelled() and (error := task.exception()) and not isinstance(error, BilletError):
        log.error("a create that its client gave up failed", error=repr(error))
