"""A thin client of etcd's v3 API over gRPC: several endpoints, TLS, short deadlines, a watch that resumes.

gRPC's own error texts never leave this file: they may contain "not found", which clients misunderstand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio
from google.protobuf.message import Message

from billet.core.errors import (
    ConfigError,
    EtcdTokenExpired,
    HistoryCompacted,
    StoreError,
    StoreFull,
    StoreUnreachable,
    says_not_found,
)
from billet.store.etcd_channels import Channels
from billet.wire.pb import etcd_rpc_pb2 as pb
from billet.wire.secret import Secret

CALL_S = 0.5  # deadline of one attempt at one endpoint; a healthy member answers in milliseconds
STATUS_S = 1.0  # deadline of a look at one member's health
STEADY_S = 5.0  # how long a call is repeated, over all endpoints
PAUSE_S = 0.05  # between attempts
AUTHENTICATE_S = 2.0  # etcd hashes passwords slowly on purpose
METADATA = (("hasleader", "true"),)  # a member without a leader must refuse
LOGIN = "check --etcd-user and --etcd-password-file"
REFUSALS = {  # etcd changed nothing; after any other code the outcome is unknown
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
}

R = TypeVar("R", bound=Message)
Metadata = tuple[tuple[str, str], ...]


class EtcdClient:
    """Calls one endpoint until it fails, then the next."""

    def __init__(
        self,
        endpoints: Sequence[str],
        ca: str = "",
        cert: str = "",
        key: str = "",
        call_s: float = CALL_S,
        user: str = "",
        password: str = "",
    ) -> None:
        """`endpoints` are http://HOST:PORT, https://HOST:PORT or unix:PATH; the PEM files are for https.

        `call_s` is the deadline of one attempt at one endpoint.
        """
        if not endpoints:
            raise ConfigError("--store names no etcd endpoint; write etcd://HOST:PORT,HOST:PORT")
        # Every endpoint so far, by index: an index stays valid while a call that uses it is in flight.
        self.endpoints: list[str] = []
        self._urls: list[str] = []
        self._files = ca, cert, key
        self.channels = Channels(*self._files)
        self.configured = list(endpoints)
        self.active: list[int] = []  # indexes of the endpoints in use
        self._call_s = call_s
        self.token = ""  # etcd's, of our login; fetched again when etcd no longer accepts it
        self._user, self._password, self._secret = user, password, Secret(password)
        self._logging_in: asyncio.Task[None] | None = None
        self._at = 0
        self.use(())
        self._leaderless: set[int] = set()  # endpoints whose last answer was that they have no leader
        self._closed = False

    async def call(self, method: str, request: Message, reply: type[R], timeout_s: float = 0.0) -> R:
        """Call the current endpoint once.

        Raises StoreUnreachable when the outcome is unknown, StoreError when the call was refused.
        """
        return await self.ask(self._at, method, request, reply, timeout_s)

    def use(self, learned: Sequence[str]) -> None:
        """Use these endpoints from now on, besides the configured ones."""
        urls = list(dict.fromkeys([*self.configured, *learned]))
        for url in urls:
            if url not in self._urls:
                self.channels.add(url)
                self._urls.append(url)
                self.endpoints.append(urlsplit(url).netloc or url)
        self.active = [self._urls.index(url) for url in urls]
        if self._at not in self.active:
            self._at = self.active[0]

    def other(self, url: str) -> EtcdClient:
        """A client of one other endpoint, with the same credentials."""
        return EtcdClient([url], *self._files, self._call_s, self._user, self._password)

    async def everyone(self, method: str, request: Message, reply: type[R]) -> dict[int, R | None]:
        """Call all endpoints in use at once, each once. By index; None in place of an answer that failed."""
        active = list(self.active)
        asked = (self.ask(at, method, request, reply) for at in active)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return {at: None if isinstance(answer, BaseException) else answer
                for at, answer in zip(active, answers, strict=True)}  # fmt: skip

    async def ask(self, at: int, method: str, request: Message, reply: type[R], timeout_s: float = 0.0) -> R:
        """Call the endpoint with this index once. Logs in again where the login has expired. Raises as `call`."""
        timeout_s = timeout_s or self._call_s
        try:
            return await self.send(at, method, request, reply, timeout_s, await self._metadata(at))
        except EtcdTokenExpired:
            if not self._user:
                raise
            return await self.send(at, method, request, reply, timeout_s, await self._metadata(at))

    async def status_of(self, at: int) -> pb.StatusResponse | None:
        """A member's own status, also while it has no leader; None if it does not answer."""
        try:
            login = tuple(pair for pair in await self._metadata(at) if pair not in METADATA)
            return await self.send(at, "Maintenance/Status", pb.StatusRequest(), pb.StatusResponse, STATUS_S, login)
        except StoreError:
            return None

    async def _metadata(self, at: int) -> Metadata:
        """The metadata of a call: with a user, the token of our login."""
        while self._user and not self.token:
            if not self._logging_in:
                self._logging_in = asyncio.create_task(self.log_in(at))
                self._logging_in.add_done_callback(self._logged_in)
            await asyncio.shield(self._logging_in)
        return (*METADATA, ("token", self.token)) if self.token else METADATA

    def _logged_in(self, task: asyncio.Task[None]) -> None:
        self._logging_in = None
        if not task.cancelled():
            task.exception()  # is known to those who wait for it, if any are left

    async def log_in(self, at: int) -> None:
        """Get a token of etcd, with one of the passwords. Raises as `call`.

        All calls share one login: etcd needs 0.1 s of CPU for each.
        """
        *others, last = self._secret.lines or ("",)
        for password in (*others, last):
            asked = pb.AuthenticateRequest(name=self._user, password=password)
            try:
                answer = await self.send(
                    at, "Auth/Authenticate", asked, pb.AuthenticateResponse, AUTHENTICATE_S, METADATA
                )
            except StoreError as error:
                if password == last or LOGIN not in error.text:
                    raise
            else:
                self.token = answer.token
                self._secret.worked(password)
                return

    async def send(
        self, at: int, method: str, request: Message, reply: type[R], timeout_s: float, metadata: Metadata
    ) -> R:
        """Call the endpoint with this index once, with this metadata. Raises as `call`."""
        self.check_open()
        caller = self.channels[at].unary_unary(
            f"/etcdserverpb.{method}", type(request).SerializeToString, reply.FromString
        )
        try:
            answer: R = await caller(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._failed(at, error, metadata) from None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        self._leaderless.discard(at)
        return answer

    async def steady(
        self, method: str, request: Message, reply: type[R], within_s: float = STEADY_S, timeout_s: float = 0.0
    ) -> R:
        """Repeat an idempotent call until it is answered. Raises StoreError when refused, or after `within_s`."""
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                return await self.call(method, request, reply, timeout_s)
            except StoreUnreachable:
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease once; returns its seconds to live, 0 when it no longer exists. Raises as `call`."""
        self.check_open()
        at = self._at
        stream: grpc.aio.StreamStreamMultiCallable[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]
        stream = self.channels[at].stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            pb.LeaseKeepAliveRequest.SerializeToString,
            pb.LeaseKeepAliveResponse.FromString,
        )
        metadata = await self._metadata(at)
        call = stream(iter([pb.LeaseKeepAliveRequest(ID=lease)]), timeout=self._call_s, metadata=metadata)
        try:
            async for answer in call:
                return answer.TTL
        except grpc.aio.AioRpcError as error:
            raise self._failed(at, error, metadata) from None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            call.cancel()
        raise StoreUnreachable(self.away_text())

    async def watch(self, key: bytes, range_end: bytes, after: int) -> AsyncGenerator[pb.WatchResponse]:
        """Yield every change of these keys after a revision, for ever, across reconnects.

        Raises HistoryCompacted, and StoreError when etcd refuses or the client is closed.
        """
        while True:
            with suppress(StoreUnreachable):
                async for response in self._watch_once(key, range_end, after + 1):
                    if response.compact_revision:
                        raise HistoryCompacted(f"etcd has compacted the history after revision {after}; load anew")
                    if response.canceled:
                        self.token = ""  # it may be the reason
                        self.leave(self._at)
                        break
                    if response.events:
                        yield response
                        after = response.events[-1].kv.mod_revision
            await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        """Close all connections. Waiting calls and watches end with StoreError."""
        self._closed = True
        await self.channels.close()

    def away_text(self) -> str:
        """The error text when etcd does not answer."""
        where = ", ".join(self.endpoints[at] for at in self.active)
        if self._leaderless:
            return f"etcd has no leader; probably half of its members or more are down: start them ({where})"
        return f"etcd does not answer at {where}: start it, or correct --store"

    def check_open(self) -> None:
        """Raise StoreError once the client has been closed."""
        if self._closed:
            raise StoreError("the connection to etcd was closed")

    def _check_cancelled(self) -> None:
        """Raise StoreError instead when the cancellation came from closing the channel, and not from the caller."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            self.check_open()

    async def _watch_once(self, key: bytes, range_end: bytes, start: int) -> AsyncIterator[pb.WatchResponse]:
        self.check_open()
        at = self._at
        stream: grpc.aio.StreamStreamMultiCallable[pb.WatchRequest, pb.WatchResponse]
        stream = self.channels[at].stream_stream(
            "/etcdserverpb.Watch/Watch", pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
        )
        wanted = pb.WatchCreateRequest(key=key, range_end=range_end, start_revision=start)
        metadata = await self._metadata(at)
        call = stream(metadata=metadata)
        try:
            await call.write(pb.WatchRequest(create_request=wanted))
            async for response in call:
                yield response
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            if isinstance(error, grpc.aio.AioRpcError):
                raise self._failed(at, error, metadata) from None
            self.leave(at)
            raise StoreUnreachable(self.away_text()) from None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            call.cancel()

    def _failed(self, at: int, error: grpc.aio.AioRpcError, metadata: Metadata) -> StoreError:
        """A gRPC error in our words. Refusals of etcd itself begin with its name and are safe to quote."""
        text = error.details() or ""
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "space" in text:
            return StoreFull(
                "etcd is out of space and takes no writes: if Billet cannot free space (docs/store.md),"
                " raise --quota-backend-bytes and disarm the alarm"
            )
        if error.code() is grpc.StatusCode.UNAVAILABLE and "no leader" in text:
            self._leaderless.add(at)
        if error.code() not in REFUSALS:
            self.leave(at)
            return StoreUnreachable(self.away_text())
        if error.code() is grpc.StatusCode.OUT_OF_RANGE and "compacted" in text:
            return HistoryCompacted("etcd has compacted this history; load anew")
        if error.code() is grpc.StatusCode.UNAUTHENTICATED or "auth store is old" in text:
            if ("token", self.token) in metadata:  # not another call's newer one
                self.token = ""
            return EtcdTokenExpired(f"etcd refused the login; {LOGIN}")
        if "user name is empty" in text or "invalid user ID or password" in text:
            return StoreError(f"etcd refused: it requires a valid user and password; {LOGIN}")
        said = text if text.startswith("etcdserver:") and not says_not_found(text) else error.code().name
        return StoreError(f"etcd refused: {said}")

    def leave(self, at: int) -> None:
        """Switch to the next endpoint, unless another call has already done so."""
        if self._at == at:
            later = [other for other in self.active if other > at]
            self._at = later[0] if later else self.active[0]


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    """A put, as part of a transaction; `lease` 0 = the key is permanent."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
