"""Logs a recurring problem once, and then at most once a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import structlog

log = structlog.get_logger()

AGAIN_AFTER_S = 60.0
REMEMBERED = 1000  # subjects; above that, the oldest is forgotten


class LogThrottle:
    """Remembers the last problem that was logged of each subject (a host, a server, an address), and when."""

    def __init__(self) -> None:
        self._logged: dict[Hashable, tuple[str, float]] = {}

    def should_log(self, subject: Hashable, problem: str, now_s: float) -> bool:
        """Whether to log this problem now: it differs from the last one, or AGAIN_AFTER_S have passed.

        `now_s` is a monotonic time.
        """
        last, at_s = self._logged.pop(subject, ("", 0.0))
        due = last != problem or now_s - at_s >= AGAIN_AFTER_S
        self._logged[subject] = (problem, now_s if due else at_s)
        if len(self._logged) > REMEMBERED:
            del self._logged[next(iter(self._logged))]
        return due

    def recovered(self, subject: Hashable) -> None:
        """Forget the subject's problem, so that its next one is logged at once."""
        self._logged.pop(subject, None)


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
