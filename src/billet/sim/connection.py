"""The two ends of a simulated connection of the link, and its frames."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message
from picows import WSListener, WSMsgType

from billet.sim.loop import SimProcess
from billet.sim.world import World


@dataclass(frozen=True, slots=True)
class SimFrame:
    """picows.WSFrame, as far as the link reads it."""

    payload: bytes
    msg_type: WSMsgType = WSMsgType.BINARY

    def get_payload_as_bytes(self) -> bytes:
        """See picows."""
        return self.payload


class Carrier(Protocol):
    """The network that carries frames between ends."""

    world: World

    def carry(self, end: End, frame: SimFrame | None) -> None:
        """Send a frame on its way, or with None the end of the connection."""

    def arrived(self, end: End, frame: SimFrame) -> None:
        """Note a frame that is about to be handled."""


class End:
    """picows.WSTransport, as far as the link uses it: one end of a connection."""

    def __init__(self, net: Carrier, process: SimProcess, name: str, kind: type[Message]) -> None:
        self.process, self.name, self.is_disconnected = process, name, False
        self.listener: WSListener | None = None
        self.peer: End
        self.kind = kind  # of the messages that it sends
        self.last_s = 0.0  # when the latest frame from here arrives
        self.broken = False  # what is under way from here finds nobody
        self.held: list[SimFrame | None] = []  # under way while the network is cut; None is the end of the connection
        self._net = net
        self._gone: asyncio.Future[None] = net.world.loop.create_future()

    @property
    def underlying_transport(self) -> End:
        """See picows. It knows its peer as asyncio's transports do."""
        return self

    def get_extra_info(self, name: str) -> object:
        """See asyncio.BaseTransport."""
        return (self.peer.name, 0) if name == "peername" else None

    def send(self, kind: WSMsgType, payload: bytes) -> None:
        """See picows."""
        if not self.is_disconnected:
            self._net.carry(self, SimFrame(payload))

    def disconnect(self) -> None:
        """See picows. What was sent before still arrives."""
        if not self.is_disconnected:
            self._net.carry(self, None)
            if self.process.alive:  # else its machine tells the other end
                self.closed()

    async def wait_disconnected(self) -> None:
        """See picows."""
        await asyncio.shield(self._gone)

    def closed(self) -> None:
        """The connection is no more, on this side."""
        if not self.is_disconnected:
            self.is_disconnected = True
            self.process.call_at(self._net.world.now_s, self._tell)

    def receive(self, frame: SimFrame | None) -> None:
        """A frame arrives, or the end."""
        if frame is None:
            self.closed()
        elif not self.is_disconnected and self.listener:
            self._net.arrived(self, frame)
            self.listener.on_ws_frame(self, frame)  # type: ignore[arg-type]  # stand-ins for picows' own

    def _tell(self) -> None:
        # picows' own does nothing, and insists on a transport of picows.
        if self.listener and type(self.listener).on_ws_disconnected is not WSListener.on_ws_disconnected:
            self.listener.on_ws_disconnected(self)  # type: ignore[arg-type]
        if not self._gone.done():
            self._gone.set_result(None)
