"""A plain caller of Flintlock's gRPC, and of Billet's own: what `billet create`, the demo and scripts dial with."""

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
# grpc's own words when nothing was reached; every other text comes from the server and is shown as it is.
UNREACHED = ("failed to connect", "DNS resolution failed", "errors resolving", "connections to all backends failing")
BROKEN = ("Socket closed", "recvmsg:", "sendmsg:", "Connection reset", "GOAWAY received")
# What is to be found in the words of UNREACHED, and what it means for a person.
NO_TLS = "it does not speak TLS: leave --tls-ca (or BILLET_TLS_CA) out"
WHY_UNREACHED = (
    ("resol", "its name has no address; check --server (or BILLET_SERVER)"),
    ("Connection refused", "nobody listens there; check --server (or BILLET_SERVER), and that `billet server` runs"),
    ("WRONG_VERSION_NUMBER", NO_TLS),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not signed by the CA in --tls-ca (or BILLET_TLS_CA)"),
    (
        "Hostname Verification",
        "its certificate is made out to other names; dial one of them, or make it anew with this",
    ),
    ("security handshaker", "a file of --tls-ca, --tls-cert and --tls-key is no certificate or no key"),
    ("ALPN", "it speaks TLS, but not gRPC; give --server (or BILLET_SERVER) the server's --grpc-endpoint"),
    (
        "parsing HTTP/2",
        "it does not speak gRPC, perhaps HTTP; give --server (or BILLET_SERVER) the server's --grpc-endpoint",
    ),
)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]

Reply = TypeVar("Reply", bound="Message")
Answer = TypeVar("Answer", bound="Message", covariant=True)


class Pending(Protocol[Answer]):
    """A call under way."""

    def result(self) -> Answer:
        """Wait for the answer; raises grpc.RpcError when it is not OK."""

    def done(self) -> bool:
        """Whether the answer is here."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial and what to show there. Without `tls_ca` the connection is in the clear."""

    endpoint: str
    token: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class Client:
    """One connection. Deadlines are in seconds; errors are BilletError with the server's own text."""

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
        """Call a method of Flintlock's service."""
        return self._call(FLINTLOCK + method, request, reply)

    def fleet(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Call a method of Billet's own service."""
        return self._call(FLEET + method, request, reply)

    def begin(self, method: str, request: Message, reply: type[Reply]) -> Pending[Reply]:
        """Start a call of Flintlock's service without waiting for it."""
        made: Pending[Reply] = self._method(FLINTLOCK + method, reply).future(
            request, timeout=self._timeout_s, metadata=self._metadata
        )
        return made

    def finish(self, pending: Pending[Reply]) -> Reply:
        """The answer of a call that was begun."""
        try:
            return pending.result()
        except grpc.RpcError as error:
            self.explain(error)

    def _call(self, path: str, request: Message, reply: type[Reply]) -> Reply:
        try:
            answer: Reply = self._method(path, reply)(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            self.explain(error)
        return answer

    def _method(self, path: str, reply: type[Reply]) -> Any:
        return self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )

    def explain(self, error: grpc.RpcError) -> NoReturn:
        """Turn grpc's error into one line for a person."""
        code, text = error.code(), " ".join((error.details() or "").split())
        where = self._address.endpoint
        if code is grpc.StatusCode.UNAVAILABLE and text.startswith(UNREACHED):
            raise Unreachable(f"cannot reach {where}: {self._why_unreached(text)}") from None
        if code is grpc.StatusCode.UNAVAILABLE and text.startswith(BROKEN):
            raise Unreachable(
                f"the connection to {where} broke before the answer came; it may or may not be done"
            ) from None
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise Unreachable(f"{where} did not answer within {self._timeout_s:g} s") from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Unimplemented(f"{where} does not offer this; it may be a plain flintlockd, not Billet") from None
        raise HostVerdict(code.value[0], f"{code.name}: {text}") from None

    def _why_unreached(self, text: str) -> str:
        """What would help, told from grpc's words; these themselves only where they are not known."""
        for mark, why in WHY_UNREACHED:
            if mark in text:
                return why
        if "Socket closed" in text or "reset by peer" in text:
            # A server of ours hangs up on who speaks in the clear, and on who shows no certificate that it wants.
            if not self._address.tls_ca:
                return "it hangs up; if it has TLS, give --tls-ca (or BILLET_TLS_CA), the CA of its certificate"
            return (
                "it hangs up; if it wants a client certificate, give --tls-cert and --tls-key that its CA has signed"
            )
        return f"check --server (or BILLET_SERVER) and TLS: {text}"


def _channel(address: Address) -> grpc.Channel:
    if not address.tls_ca:
        if address.tls_cert or address.tls_key:
            raise ConfigError("--tls-cert and --tls-key need --tls-ca, the CA of the server's certificate")
        return grpc.insecure_channel(address.endpoint, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        read_file("--tls-ca", address.tls_ca),
        read_file("--tls-key", address.tls_key) if address.tls_key else None,
        read_file("--tls-cert", address.tls_cert) if address.tls_cert else None,
    )
    return grpc.secure_channel(address.endpoint, credentials, options=OPTIONS)


def read_file(name: str, path: str) -> bytes:
    """The bytes of a file that a setting names."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} is {path!r}, which cannot be read: {error.strerror}") from None
