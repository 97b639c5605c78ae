"""Open the agent's WebSocket connections to servers, and explain why one could not be opened."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from http.client import UNAUTHORIZED
from typing import Protocol

from picows import WSError, WSHandshakeError, WSListener, ws_connect

from billet.link.outbox import MAX_FRAME_BYTES, PING_AFTER_S, PONG_WITHIN_S
from billet.reloading import Kept
from billet.settings import split_endpoint
from billet.wire.secret import Secret

HUNG_UP = "the server closes the connection before the WebSocket handshake"
WITH_TLS = (
    "either its link has no TLS: start it with --link-tls-cert and --link-tls-key, or agents with --link-insecure; "
    "or it has --link-client-ca: give --link-cert and --link-key"
)
WITHOUT_TLS = "its link probably has TLS: give --link-ca, the CA of its certificate, in place of --link-insecure"

WITHOUT_CERT = "if the servers have --link-client-ca, give --link-cert and --link-key, signed by that CA"

REFUSED = "the server refused the link token: give the agent the server's --link-token"


class TokenRefused(OSError):
    """The server does not know the link token that was shown."""


class Connection(Protocol):
    """An open connection, as the dialler sees it."""

    async def wait_disconnected(self) -> None:
        """Wait until the connection is closed."""


class Dial(Protocol):
    """Opens connections to servers. The simulator has its own."""

    @property
    def hung_up(self) -> str:
        """Error text for a server that closes the connection before the WebSocket handshake."""

    async def __call__(self, server: str, path: str, listener: WSListener) -> Connection:
        """Connect `listener` to a path of a server ("host:port"). Raises OSError, whose text says what to do."""


class WebSocketDial:
    """Dials over TCP, with TLS when there is a context."""

    def __init__(self, token: str, tls: Kept[ssl.SSLContext] | None) -> None:
        self._secret = Secret(token)
        self._tls = tls

    @property
    def hung_up(self) -> str:
        """See Dial."""
        return f"{HUNG_UP}; {WITHOUT_CERT if self._tls else WITHOUT_TLS}"

    async def __call__(self, server: str, path: str, listener: WSListener) -> Connection:
        """See Dial."""
        *others, last = self._secret.lines or ("",)
        for token in others:
            with suppress(TokenRefused):
                return await self._connect(server, path, listener, token)
        return await self._connect(server, path, listener, last)

    async def _connect(self, server: str, path: str, listener: WSListener, token: str) -> Connection:
        scheme = "wss" if self._tls else "ws"
        try:
            transport, _ = await ws_connect(
                lambda: listener,
                f"{scheme}://{server}{path}",
                ssl_context=self._tls.value if self._tls else None,
                server_hostname=certificate_name(server) if self._tls else None,
                extra_headers={"Authorization": f"Bearer {token}"},
                max_frame_size=MAX_FRAME_BYTES,
                enable_auto_ping=True,
                auto_ping_idle_timeout=PING_AFTER_S,
                auto_ping_reply_timeout=PONG_WITHIN_S,
            )
        except (OSError, WSError) as error:
            if isinstance(error, WSHandshakeError) and error.response and error.response.status == UNAUTHORIZED:
                raise TokenRefused(REFUSED) from error
            reset = self._tls and isinstance(error, ConnectionResetError | ConnectionAbortedError)
            raise OSError(f"{HUNG_UP}; {WITH_TLS}" if reset else explain(error)) from error
        self._secret.worked(token)
        return transport


def certificate_name(server: str) -> str:
    """The host of "host:port" as certificates have it: "a.test." is the absolute form of "a.test" and is for DNS."""
    return split_endpoint(server)[0].rstrip(".")


def explain(error: BaseException) -> str:
    """Why a dial failed, in one line, with a remedy where the cause is known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not signed by --link-ca ({error.verify_message})"
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError) and "WRONG_VERSION_NUMBER" in text:
        return (
            "the server's link has no TLS: start it with --link-tls-cert and --link-tls-key, "
            "or the agent with --link-insecure"
        )
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: check --server, and that `billet server` runs"
    if isinstance(error, socket.gaierror):
        return "the server's name cannot be resolved: check --server"
    return text
