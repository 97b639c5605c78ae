"""Thousands of agents in one process, for hosts that do not exist. `python -m benchmarks.virtual_agents ORDER.json`.

Each has a link of its own, says a signed hello, and sends its reports in time. Nothing is measured and no flintlockd
is asked, so one process has room for many: what they cost is what they cost the server.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from benchmarks.virtual_host import VirtualHost
from billet.accepting import raise_descriptor_limit
from billet.adapters.identity import KeyIdentity
from billet.core.model import Host, Observed, Resources, VmState
from billet.link.agent import BACKOFF_MAX_S, BACKOFF_S
from billet.link.dial import WebSocketDial
from billet.link.hello import put_hello, sign
from billet.link.outbox import Inbox, Outbox
from billet.logs import log_to_stderr
from billet.wire.pb import link_pb2 as pb
from billet.wire.tls import kept_client

HANDSHAKES = 100  # of one process at once: on real machines each agent has a core for its own
SHAPE = Resources(1, 1024, 0, 1)


class Order(msgspec.Struct, frozen=True):
    """The hosts from `first` to before `end`, all alike; `placed` microVMs run on each."""

    first: int
    end: int
    placed: int
    link: str
    link_token: str
    link_ca: str  # "" = no TLS
    vcpu: int
    memory_mib: int
    max_vms: int
    report_interval_s: float
    zones: int


def part(order: Order, first: int, end: int) -> Order:
    """The same order for some of its hosts."""
    return msgspec.structs.replace(order, first=first, end=end)


class VirtualAgent(WSListener):
    """One host's agent, on one connection at a time."""

    def __init__(self, order: Order, n: int) -> None:
        room = Resources(order.vcpu, order.memory_mib, 1_000_000, order.max_vms)
        host = Host(f"host-{n}", room, room, zone=f"zone-{n % order.zones}", provider="firecracker")
        rows = [
            Observed(f"01VM{n:010d}{m:012d}", "ns", f"placed-{n}-{m}", SHAPE, VmState.CREATED, "")
            for m in range(order.placed)
        ]
        self.joined = asyncio.Event()
        self.dials = 0
        self._virtual = VirtualHost(host, rows)
        self._identity = KeyIdentity.of_seed(n.to_bytes(32), "", "")
        self._interval_s = order.report_interval_s
        self._reports = self._virtual.reports(self._interval_s)
        self._sent = 0
        self._outbox: Outbox | None = None
        self._inbox = Inbox()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, server: str, dial: WebSocketDial, handshakes: asyncio.Semaphore) -> None:
        """Stay connected, for ever; as link/agent.py does. `handshakes`: how many this process does at once."""
        pause_s = BACKOFF_S
        while True:
            self.dials += 1
            try:
                async with handshakes:
                    connection = await dial(server, f"/agent?host={self._virtual.host.id}", self)
                await connection.wait_disconnected()
            except OSError:
                pass
            if self._timer:
                self._timer.cancel()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """See picows. The server speaks first."""
        self._outbox = Outbox(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """See picows."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.BINARY, WSMsgType.CONTINUATION) and (message := self._inbox.whole(frame)):
            self._hear(pb.Down.FromString(message))

    def _hear(self, down: pb.Down) -> None:
        assert self._outbox
        host = self._virtual.host
        if down.HasField("challenge"):
            hello = put_hello(host, "bench", f"agent of {host.id}", 0)
            sign(hello, self._identity, down.challenge.nonce)
            self._outbox.put(pb.Up(hello=hello))
        if down.HasField("welcome"):
            self._outbox.put_bytes(self._virtual.everything())
            self._report()
            self.joined.set()
        for answer in self._virtual.answers(down):
            self._outbox.put(answer)

    def _report(self) -> None:
        assert self._outbox
        self._outbox.put_bytes(self._reports[self._sent % len(self._reports)])
        self._sent += 1
        # In step with nobody: the first report of each comes at a moment of its own.
        wait_s = self._interval_s * (random.uniform(0, 1) if self._sent == 1 else 1)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._report)


async def serve(order: Order) -> None:
    """Run all of them; say so once every one has joined."""
    log_to_stderr()
    raise_descriptor_limit()
    tls = kept_client(order.link_ca) if order.link_ca else None
    dial = WebSocketDial(order.link_token, tls)
    handshakes = asyncio.Semaphore(HANDSHAKES)
    agents = [VirtualAgent(order, n) for n in range(order.first, order.end)]
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.run(order.link, dial, handshakes))
        for agent in agents:
            await agent.joined.wait()
        print(json.dumps({"agents": len(agents), "dials": sum(agent.dials for agent in agents)}), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)))
