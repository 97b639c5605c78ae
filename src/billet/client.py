"""Blocking gRPC client for Flintlock's service and Billet's own, used by the commands and the demo."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import click

from billet.core.errors import Code, ConfigError, HostVerdict, Unimplemented, Unreachable
from billet.grpc.client_connection import CLOSES, NOT_GRPC
from billet.grpc.dial import Address as ChannelAddress
from billet.grpc.engine import new_channel
from billet.grpc.interface import Channel
from billet.grpc.status import RpcError, name_of
from billet.settings import split_endpoint, split_endpoints
from billet.wire.headers import STALE
from billet.wire.tls import ClientTls

if TYPE_CHECKING:
    from google.protobuf.message import Message

FLINTLOCK = "/microvm.services.api.v1alpha1.MicroVM/"
FLEET = "/billet.v1.Fleet/"
CHECK_SERVER = "check --server (or BILLET_SERVER)"
NEXT_S = 0.3  # how long a server is waited for before the next one is tried besides
ANSWER_S = 3.0  # how long all of them together are waited for, after the last one was tried
NONE_YET = -1
HOSTNAME_MISMATCH, IP_MISMATCH = 62, 64  # OpenSSL's X509_V_ERR_… numbers

Reply = TypeVar("Reply", bound="Message")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and the credentials. Without `tls_ca` the connection is not encrypted."""

    endpoint: str  # HOST:PORT, or several separated by commas
    token: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    @property
    def endpoints(self) -> list[str]:
        """Each HOST:PORT."""
        return split_endpoints(self.endpoint)


class Client:
    """One connection, to the first of the servers that answers.

    Each call has `timeout_s` seconds. Failures raise BilletError with the server's own text. An answer that was given
    without a leader is said to be old, once, on standard error.
    """

    def __init__(self, address: Address, timeout_s: float = 30.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._loop = _loop()
        self._channels = self._wait(_new_channels(address))
        self._at = 0 if len(self._channels) == 1 else NONE_YET
        self._said_stale = False
        token = base64.b64encode(address.token.encode()).decode()
        self._metadata = [("authorization", f"Basic {token}")] if address.token else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            self._wait(channel.close())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def flintlock(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Call a method of Flintlock's service and return its reply."""
        return self._call(FLINTLOCK + method, request, reply)

    def fleet(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Call a method of Billet's own service, billet.v1.Fleet, and return its reply."""
        return self._call(FLEET + method, request, reply)

    def begin(self, method: str, request: Message, reply: type[Reply]) -> Future[Reply]:
        """Start a call of Flintlock's service without waiting for its reply."""
        return asyncio.run_coroutine_threadsafe(self._ask(FLINTLOCK + method, request, reply), self._loop)

    def finish(self, call: Future[Reply]) -> Reply:
        """Wait for a call from `begin` and return its reply."""
        try:
            return call.result()
        except RpcError as error:
            self.raise_as_billet_error(error)

    def _call(self, path: str, request: Message, reply: type[Reply]) -> Reply:
        return self.finish(asyncio.run_coroutine_threadsafe(self._ask(path, request, reply), self._loop))

    async def _ask(self, path: str, request: Message, reply: type[Reply]) -> Reply:
        payload = request.SerializeToString()
        if self._at == NONE_YET:
            self._at = await self._first_that_answers()
        try:
            response = await self._channels[self._at].unary(path, payload, self._timeout_s, self._metadata)
        except RpcError as error:
            if not error.unsent or len(self._channels) == 1:
                raise
            self._at = await self._first_that_answers()  # it has answered before
            response = await self._channels[self._at].unary(path, payload, self._timeout_s, self._metadata)
        self._say_stale(dict(response.trailers).get(STALE))
        return reply.FromString(response.payload)

    async def _first_that_answers(self) -> int:
        """The index of the first server that answers; the first of all if none does."""
        asking: dict[asyncio.Task[bool], int] = {}
        limit_s = NEXT_S * len(self._channels) + ANSWER_S
        try:
            for at, channel in enumerate(self._channels):
                asking[asyncio.create_task(channel.ready(limit_s))] = at
                last = at == len(self._channels) - 1
                await asyncio.wait(asking, timeout=limit_s if last else NEXT_S, return_when=asyncio.FIRST_COMPLETED)
                for task, answered in asking.items():
                    if task.done() and task.result():
                        return answered
            return 0
        finally:
            for task in asking:
                task.cancel()

    def _say_stale(self, age_s: str | bytes | None) -> None:
        if age_s is not None and not self._said_stale:
            self._said_stale = True
            click.echo(f"billet: no server leads; this answer is {float(age_s):.1f} s old (billet status)", err=True)

    def raise_as_billet_error(self, error: RpcError) -> NoReturn:
        """Raise the call's error as a BilletError with one line of text."""
        where = self._address.endpoints[max(self._at, 0)]
        if error.unsent and error.code == Code.UNAVAILABLE:
            others = [one for one in self._address.endpoints if one != where]
            nor = f" (nor {', '.join(others)})" if others else ""
            raise Unreachable(f"cannot reach {where}{nor}: {self._why_unreached(error)}") from None
        if error.code == Code.UNAVAILABLE and not error.answered:
            raise Unreachable(
                f"the connection to {where} broke before the reply; the call may or may not have taken effect"
            ) from None
        if error.code == Code.DEADLINE_EXCEEDED:
            raise Unreachable(f"{where} did not answer within {self._timeout_s:g} s") from None
        if error.code == Code.UNIMPLEMENTED:
            raise Unimplemented(
                f"{where} does not support this call; it may be a plain flintlockd instead of Billet"
            ) from None
        raise HostVerdict(error.code, f"{name_of(error.code)}: {' '.join(error.text.split())}") from None

    def _why_unreached(self, error: RpcError) -> str:
        """The cause and the remedy of a failed connect."""
        match error.__cause__:
            case socket.gaierror():
                return f"the host name does not resolve; {CHECK_SERVER}"
            case ConnectionRefusedError():
                return f"connection refused; {CHECK_SERVER} and that `billet server` is running"
            case ssl.SSLCertVerificationError(verify_code=code) if code in (HOSTNAME_MISMATCH, IP_MISMATCH):
                return (
                    "its certificate is for other names; use one of those names, or issue a certificate for this one"
                )
            case ssl.SSLCertVerificationError():
                return "its certificate is not signed by the CA in --tls-ca (or BILLET_TLS_CA)"
            case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
                return "it does not use TLS; remove --tls-ca (or BILLET_TLS_CA)"
            case OSError() as cause if NOT_GRPC in str(cause):
                return "it is not a gRPC port, perhaps HTTP; set --server (or BILLET_SERVER) to the --grpc-endpoint"
            case OSError() as cause if CLOSES in str(cause) or isinstance(cause, ConnectionResetError | ssl.SSLError):
                return self._why_closed()
        return f"{CHECK_SERVER} and TLS: {error.text}"

    def _why_closed(self) -> str:
        # A Billet server closes the connection if the client lacks TLS or a required client certificate.
        if not self._address.tls_ca:
            return "it closes the connection; if it uses TLS, set --tls-ca (or BILLET_TLS_CA) to its CA"
        return (
            "it closes the connection; if it requires a client certificate, give --tls-cert and --tls-key"
            " signed by its CA"
        )


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all clients, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="billet client", daemon=True).start()
    return loop


async def _new_channels(address: Address) -> list[Channel]:
    """Channels of the running loop: grpcio's belong to the one in which they are created."""
    return [new_channel(_channel_address(address, endpoint)) for endpoint in address.endpoints]


def _channel_address(address: Address, endpoint: str) -> ChannelAddress:
    host, port = split_endpoint(endpoint)
    if not address.tls_ca:
        if address.tls_cert or address.tls_key:
            raise ConfigError("--tls-cert and --tls-key also need --tls-ca, the CA of the server's certificate")
        return ChannelAddress(host, port)
    return ChannelAddress(host, port, ClientTls(address.tls_ca, address.tls_cert, address.tls_key))


def read_file(name: str, path: str) -> bytes:
    """The bytes of the file at `path`, which is the value of setting `name`. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} is {path!r}, which cannot be read: {error.strerror}") from None
