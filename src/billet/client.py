"""Blocking gRPC client for Flintlock's service and Billet's own, used by the commands and the demo."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeVar

import grpc

from billet.core.errors import ConfigError, HostVerdict, Unimplemented, Unreachable

if TYPE_CHECKING:
    from google.protobuf.message import Message

FLINTLOCK = "/microvm.services.api.v1alpha1.MicroVM/"
FLEET = "/billet.v1.Fleet/"
# grpc's own texts for a failed connection. Every other text comes from the server and is shown unchanged.
UNREACHED = ("failed to connect", "DNS resolution failed", "errors resolving", "connections to all backends failing")
BROKEN = ("Socket closed", "recvmsg:", "sendmsg:", "Connection reset", "GOAWAY received")
# Part of grpc's text, and the explanation for the user.
NO_TLS = "it does not use TLS; remove --tls-ca (or BILLET_TLS_CA)"
WHY_UNREACHED = (
    ("resol", "the host name does not resolve; check --server (or BILLET_SERVER)"),
    (
        "Connection refused",
        "connection refused; check --server (or BILLET_SERVER) and that `billet server` is running",
    ),
    ("WRONG_VERSION_NUMBER", NO_TLS),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not signed by the CA in --tls-ca (or BILLET_TLS_CA)"),
    (
        "Hostname Verification",
        "its certificate is for other names; use one of those names, or issue a certificate for this one",
    ),
    ("security handshaker", "one of the files --tls-ca, --tls-cert and --tls-key is not a certificate or key"),
    ("ALPN", "it uses TLS, but not gRPC; set --server (or BILLET_SERVER) to the server's --grpc-endpoint"),
    (
        "parsing HTTP/2",
        "it is not a gRPC port, perhaps HTTP; set --server (or BILLET_SERVER) to the server's --grpc-endpoint",
    ),
)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]

Reply = TypeVar("Reply", bound="Message")
ReplyCo = TypeVar("ReplyCo", bound="Message", covariant=True)


class PendingCall(Protocol[ReplyCo]):
    """A call in progress."""

    def result(self) -> ReplyCo:
        """Wait for the reply. Raises grpc.RpcError if the call failed."""

    def done(self) -> bool:
        """Whether the call has finished."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and the credentials. Without `tls_ca` the connection is not encrypted."""

    endpoint: str
    token: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class Client:
    """One connection. Each call has `timeout_s` seconds. Failures raise BilletError with the server's own text."""

    def __init__(self, address: Address, timeout_s: float = 30.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = _channel(address)
        token = base64.b64encode(address.token.encode()).decode()
        self._metadata = [("authorization", f"Basic {token}")] if address.token else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def flintlock(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Call a method of Flintlock's service and return its reply."""
        return self._call(FLINTLOCK + method, request, reply)

    def fleet(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Call a method of Billet's own service, billet.v1.Fleet, and return its reply."""
        return self._call(FLEET + method, request, reply)

    def begin(self, method: str, request: Message, reply: type[Reply]) -> PendingCall[Reply]:
        """Start a call of Flintlock's service without waiting for its reply."""
        call: PendingCall[Reply] = self._method(FLINTLOCK + method, reply).future(
            request, timeout=self._timeout_s, metadata=self._metadata
        )
        return call

    def finish(self, call: PendingCall[Reply]) -> Reply:
        """Wait for a call from `begin` and return its reply."""
        try:
            return call.result()
        except grpc.RpcError as error:
            self.raise_as_billet_error(error)

    def _call(self, path: str, request: Message, reply: type[Reply]) -> Reply:
        try:
            answer: Reply = self._method(path, reply)(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            self.raise_as_billet_error(error)
        return answer

    def _method(self, path: str, reply: type[Reply]) -> Any:
        return self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )

    def raise_as_billet_error(self, error: grpc.RpcError) -> NoReturn:
        """Raise grpc's error as a BilletError with one line of text."""
        code, text = error.code(), " ".join((error.details() or "").split())
        where = self._address.endpoint
        if code is grpc.StatusCode.UNAVAILABLE and text.startswith(UNREACHED):
            raise Unreachable(f"cannot reach {where}: {self._why_unreached(text)}") from None
        if code is grpc.StatusCode.UNAVAILABLE and text.startswith(BROKEN):
            raise Unreachable(
                f"the connection to {where} broke before the reply; the call may or may not have taken effect"
            ) from None
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise Unreachable(f"{where} did not answer within {self._timeout_s:g} s") from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Unimplemented(
                f"{where} does not support this call; it may be a plain flintlockd instead of Billet"
            ) from None
        raise HostVerdict(code.value[0], f"{code.name}: {text}") from None

    def _why_unreached(self, text: str) -> str:
        """The cause and the remedy for grpc's text; the text itself if it is not one that we know."""
        for mark, why in WHY_UNREACHED:
            if mark in text:
                return why
        if "Socket closed" in text or "reset by peer" in text:
            # A Billet server closes the connection if the client lacks TLS or a required client certificate.
            if not self._address.tls_ca:
                return "it closes the connection; if it uses TLS, set --tls-ca (or BILLET_TLS_CA) to its CA"
            return (
                "it closes the connection; if it requires a client certificate, give --tls-cert and --tls-key"
                " signed by its CA"
            )
        return f"check --server (or BILLET_SERVER) and TLS: {text}"


def _channel(address: Address) -> grpc.Channel:
    if not address.tls_ca:
        if address.tls_cert or address.tls_key:
            raise ConfigError("--tls-cert and --tls-key also need --tls-ca, the CA of the server's certificate")
        return grpc.insecure_channel(address.endpoint, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        read_file("--tls-ca", address.tls_ca),
        read_file("--tls-key", address.tls_key) if address.tls_key else None,
        read_file("--tls-cert", address.tls_cert) if address.tls_cert else None,
    )
    return grpc.secure_channel(address.endpoint, credentials, options=OPTIONS)


def read_file(name: str, path: str) -> bytes:
    """The bytes of the file at `path`, which is the value of setting `name`. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} is {path!r}, which cannot be read: {error.strerror}") from None
