"""Accepts connections for a server's ports: within limits, before TLS and before a byte is read.

A connection counts from the moment the kernel hands it over until its descriptor is closed, whatever event loop or
library closes it.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from billet.core import networks
from billet.log_throttle import LogThrottle
from billet.reloading import Kept

log = structlog.get_logger()

BACKLOG = 4096  # connections that the kernel keeps until they are accepted
AT_ONCE = 100  # accepted before the event loop does other work
RETRY_S = 1.0  # after the operating system has refused a descriptor
FEW_DESCRIPTORS = "raise the limit of open files (LimitNOFILE of systemd, ulimit -n): almost all are in use"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections one port takes. 0 = no limit.

    The process keeps descriptors in reserve for its files, its store and its more important ports. Of those that it
    may open, one address gets at most a quarter. An address of IPv6 stands for its /64.
    """

    connections: int = 10_000
    connections_per_address: int = 5_000
    reserve_share: float = 1 / 8  # of the descriptors that the process may open
    reserve_most: int = 128


Peer = tuple[str, int]  # address and port


class Counter:
    """Counts the connections of one port, and decides whether another one may enter."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._peers: set[Peer] = set()
        self._per_network: dict[str, int] = {}
        self._throttle = LogThrottle()

    def enter(self, descriptor: int, peer: Peer) -> bool:
        """A connection has come: count it. False = it was not counted, and must be closed."""
        network = networks.of_ip(peer[0])
        if why := self._full(descriptor, network):
            if self._throttle.should_log("", why, asyncio.get_running_loop().time()):
                log.warning("refused a connection", address=peer[0], reason=why)
            return False
        self._peers.add(peer)
        self._per_network[network] = self._per_network.get(network, 0) + 1
        return True

    def leave(self, peer: Peer) -> None:
        """A connection counts no more: it is closed, or its peer has proven who it is. It may be said twice."""
        if peer not in self._peers:
            return
        network = networks.of_ip(peer[0])
        self._peers.discard(peer)
        self._per_network[network] -= 1
        if not self._per_network[network]:
            del self._per_network[network]

    def _full(self, descriptor: int, network: str) -> str:
        limits, here = self.limits, self._per_network.get(network, 0)
        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limits.connections and len(self._peers) >= limits.connections:
            return f"there are {limits.connections} connections already"
        if limits.connections_per_address and here >= min(limits.connections_per_address, max(1, open_files // 4)):
            return "there are too many connections from one address already"
        # The kernel gives out the lowest number that is free, so a high one means that few are left.
        if descriptor >= open_files - min(limits.reserve_most, int(open_files * limits.reserve_share)):
            return FEW_DESCRIPTORS
        return ""


class Accepted(socket.socket):
    """A connection's socket that tells when its descriptor is given up."""

    left: Callable[[], None] | None = None

    def close(self) -> None:
        """See socket."""
        self._leave()
        super().close()

    def detach(self) -> int:
        """See socket. uvloop calls this where asyncio calls `close`."""
        self._leave()
        return super().detach()

    def _leave(self) -> None:
        left, self.left = self.left, None
        if left:
            left()


class ListeningSocket(socket.socket):
    """A socket that counts what it accepts, and closes what is above the limits."""

    counter: Counter

    def again(self) -> ListeningSocket:
        """Another descriptor of this socket, with the same limits."""
        other = self.dup()
        other.counter = self.counter
        return other

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket. Raises BlockingIOError when there is nobody to let in for now."""
        for _ in range(AT_ONCE):
            connection, peer = super().accept()
            if self.counter.enter(connection.fileno(), peer[:2]):
                accepted = Accepted(self.family, self.type, self.proto, fileno=connection.detach())
                accepted.left = partial(self.counter.leave, peer[:2])
                accepted.setblocking(False)
                return accepted, peer
            connection.close()
        raise BlockingIOError


async def bind(
    host: str, port: int, limits: ConnectionLimits, kind: type[ListeningSocket] = ListeningSocket
) -> list[ListeningSocket]:
    """A socket for each address of `host` ("" = all), which share the limits and the port. Raises OSError."""
    loop, counter = asyncio.get_running_loop(), Counter(limits)
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys(found))
    bound: list[ListeningSocket] = []
    try:
        for family, type_, protocol, _, address in addresses:
            one = kind(family, type_, protocol)
            one.counter = counter
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(addresses) > 1:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
            port = port or one.getsockname()[1]
            one.setblocking(False)
    except OSError:
        for one in bound:
            one.close()
        raise
    return bound


class Acceptor:
    """Gives each connection of some sockets a protocol, on the running event loop."""

    def __init__(
        self,
        sockets: Sequence[ListeningSocket],
        protocol: Callable[[], asyncio.BaseProtocol],
        tls: Kept[ssl.SSLContext] | None,
        handshake_s: float,
    ) -> None:
        """`handshake_s` is the time for a TLS handshake, and for the end of TLS."""
        self._sockets = sockets
        self._protocol = protocol
        self._tls = tls
        self._deadlines = {"ssl_handshake_timeout": handshake_s, "ssl_shutdown_timeout": handshake_s} if tls else {}
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._throttle = LogThrottle()
        for one in sockets:
            one.listen(BACKLOG)
            self._listen(one)

    def close(self) -> None:
        """Free the port. Connections go on."""
        for one in self._sockets:
            if one.fileno() >= 0:
                self._loop.remove_reader(one.fileno())
                one.close()

    def _listen(self, one: ListeningSocket) -> None:
        if one.fileno() >= 0:
            self._loop.add_reader(one.fileno(), self._accept, one)

    def _accept(self, listening: ListeningSocket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory is left: the rest waits in the backlog
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(RETRY_S, self._listen, listening)
                if self._throttle.should_log("", str(error), self._loop.time()):
                    log.error("cannot accept connections", error=str(error), reason=FEW_DESCRIPTORS)
                return
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            context = self._tls.value if self._tls else None  # of this moment: its files may be replaced
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=context, **self._deadlines)
        except OSError:  # TLS failed, or the client has left
            connection.close()


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
