"""Logs failed TLS handshakes as one line each, and names the peer of a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from billet.log_throttle import LogThrottle

log = structlog.get_logger()


def throttle_tls_errors(advice: str = "") -> None:
    """Log a failed TLS handshake as one line per address, or with `advice` "" not at all. For the running loop.

    asyncio's own handler logs a traceback for each one, so an agent without TLS or a port scanner would fill the log.
    A client needs no line: its connect fails, and the caller logs that.
    """
    throttle = LogThrottle()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != "SSL handshake failed":
            loop.default_exception_handler(context)
            return
        peer = address_of(context.get("transport"))
        if advice and throttle.should_log(peer.rpartition(":")[0], advice, loop.time()):
            log.warning(advice, peer=peer)

    asyncio.get_running_loop().set_exception_handler(handle)


def address_of(transport: Any) -> str:
    """The peer's "ip:port", or "unknown address"."""
    peer = transport.get_extra_info("peername") if transport else None
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unknown address"
