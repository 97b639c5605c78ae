"""The sockets on which a server accepts agents, and what happens when file descriptors run out."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import structlog

from billet.accepting import ConnectionLimits, ListeningSocket
from billet.log_throttle import LogThrottle

log = structlog.get_logger()

# Only of connections whose agents have not proven yet who they are. Fewer descriptors are kept in reserve than on the
# other ports: when these accept no more, agents still get in.
AGENT_LIMITS = ConnectionLimits(2_000, 1_000, 1 / 16, 64)


class AgentsSocket(ListeningSocket):
    """A socket that pauses accepting for a second when file descriptors run out.

    aiofastnet, below picows, means to do this. But it calls `remove_reader` of the socket instead of that of the
    event loop, which a plain socket does not have, and it tries to accept the rest of the backlog all the same. So
    without this class it spins for as long as the shortage lasts, and logs a traceback each time.
    """

    _paused = False  # until the next turn of the event loop

    def accept(self) -> tuple[socket.socket, Any]:
        """See ListeningSocket. During a pause, nothing is there to accept."""
        if self._paused:
            raise BlockingIOError
        return super().accept()

    def remove_reader(self, descriptor: int) -> None:
        """Pause: aiofastnet calls this after a failed accept, and adds the reader again after a second."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(descriptor)
        self._paused = True
        loop.call_soon(setattr, self, "_paused", False)


def throttle_shortage() -> None:
    """Log a shortage of file descriptors as one line a minute. For the running loop, after its other handlers."""
    throttle, loop = LogThrottle(), asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != "socket.accept() out of system resource":
            (before or type(loop).default_exception_handler)(loop, context)
        elif throttle.should_log("accept", str(context.get("exception")), loop.time()):
            log.error("cannot accept agents: raise the limit of open files (LimitNOFILE of systemd, ulimit -n)",
                      error=str(context.get("exception")))  # fmt: skip

    loop.set_exception_handler(handle)
