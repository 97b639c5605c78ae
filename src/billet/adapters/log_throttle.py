"""The same complaint again and again: said once, and then once a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import structlog

log = structlog.get_logger()

AGAIN_AFTER_S = 60.0
REMEMBERED = 1000  # subjects; beyond, the oldest is forgotten


class LogThrottle:
    """Remembers what was said of whom, and when."""

    def __init__(self) -> None:
        self._said: dict[Hashable, tuple[str, float]] = {}

    def due(self, subject: Hashable, what: str, now_s: float) -> bool:
        """Whether to say this of it now: it is new, or was said long ago."""
        said, at_s = self._said.pop(subject, ("", 0.0))
        due = said != what or now_s - at_s >= AGAIN_AFTER_S
        self._said[subject] = (what, now_s if due else at_s)
        if len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
        return due

    def forget(self, subject: Hashable) -> None:
        """It is well again, so the next complaint is news."""
        self._said.pop(subject, None)


def handshakes_fail_in_one_line(what_helps: str = "") -> None:
    """From now on a TLS handshake that fails is one line for each address, or none, not a traceback for each try.

    The loop's own handler prints all that goes wrong in a transport: any agent without TLS, any port scanner would
    fill the log with it. Who dials needs no line: its connect fails, and it says so itself.
    """
    throttle = LogThrottle()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != "SSL handshake failed":
            loop.default_exception_handler(context)
            return
        peer = address_of(context.get("transport"))
        if what_helps and throttle.due(peer.rpartition(":")[0], what_helps, loop.time()):
            log.warning(what_helps, peer=peer)

    asyncio.get_running_loop().set_exception_handler(handle)


def address_of(transport: Any) -> str:
    """Where the other end of a transport is, as far as that is known."""
    peer = transport.get_extra_info("peername") if transport else None
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "an address that is not known"
