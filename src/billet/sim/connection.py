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
    """Stands in for picows.WSFrame."""

    payload: bytes
    msg_type: WSMsgType = WSMsgType.BINARY
    fin: bool = True

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

    def parted(self, end: End) -> None:
        """Note that this end has seen its connection closed."""


class End:
    """One end of a connection. Stands in for picows.WSTransport."""

    def __init__(self, net: Carrier, process: SimProcess, name: str, kind: type[Message], link: int) -> None:
        self.process, self.name, self.is_disconnected = process, name, False
        self.link = link  # number of the connection
        self.listener: WSListener | None = None
        self.early: list[SimFrame] = []  # frames that arrived before there was a listener
        self.peer: End
        self.kind = kind  # class of the messages that it sends
        self.last_s = 0.0  # when the latest frame from here arrives, virtual time
        self.broken = False  # frames in flight from here are lost
        self.held: list[SimFrame | None] = []  # in flight while the network is cut; None = close
        self._net = net
        self._gone: asyncio.Future[None] = net.world.loop.create_future()

    @property
    def underlying_transport(self) -> End:
        """See picows. It returns the peer's name as asyncio transports do."""
        return self

    def get_extra_info(self, name: str) -> object:
        """See asyncio.BaseTransport."""
        return (self.peer.name, 0) if name == "peername" else None

    def send(self, kind: WSMsgType, payload: bytes) -> None:
        """See picows."""
        if not self.is_disconnected:
            self._net.carry(self, SimFrame(payload))

    def disconnect(self) -> None:
        """See picows. Frames sent before still arrive."""
        if not self.is_disconnected:
            self._net.carry(self, None)
            if self.process.alive:  # else Network.died closes the other end
                self.closed()

    async def wait_disconnected(self) -> None:
        """See picows."""
        await asyncio.shield(self._gone)

    def closed(self) -> None:
        """This end sees the connection closed."""
        if not self.is_disconnected:
            self.is_disconnected = True
            self.process.call_at(self._net.world.now_s, self._tell)

    def receive(self, frame: SimFrame | None) -> None:
        """Handle a frame that arrives; None closes the connection."""
        if frame is None:
            self.closed()
        elif not self.is_disconnected and self.listener:
            self._net.arrived(self, frame)
            self.listener.on_ws_frame(self, frame)  # type: ignore[arg-type]  # stand-ins for picows classes
        elif not self.is_disconnected:
            self.early.append(frame)

    def listen(self, listener: WSListener) -> None:
        """Handle frames from now on, first those that have arrived already."""
        self.listener = listener
        listener.on_ws_connected(self)  # type: ignore[arg-type]
        for frame in self.early:
            self.receive(frame)
        self.early.clear()

    def _tell(self) -> None:
        self._net.parted(self)
        # The method that listeners inherit does nothing, and accepts picows transports only.
        if self.listener and type(self.listener).on_ws_disconnected is not WSListener.on_ws_disconnected:
            self.listener.on_ws_disconnected(self)  # type: ignore[arg-type]
        if not self._gone.done():
            self._gone.set_result(None)
