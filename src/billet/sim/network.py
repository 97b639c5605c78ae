"""The simulated network: partitions, connections of the link, and calls from clients to servers.

The real link code runs on both ends (link/server.py, link/agent.py); only the transport is simulated. A connection
keeps the order of its frames. It may be cut for a while, which its ends notice by unanswered pings, and it may break,
which loses the frames in flight. Frames that hold only orders or answers may also be lost, duplicated or reordered:
TCP does none of that, but a retry above it may.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from picows import WSListener

from billet.core.columns import CANNOT_BID
from billet.link.outbox import PING_AFTER_S, PONG_WITHIN_S
from billet.sim.calls import REFUSED, TOO_LATE, Arrival, Said, Work, resolve
from billet.sim.connection import End, SimFrame
from billet.sim.history import Heard, Ordered, Parted, Passed, Reported, Shown, Told
from billet.sim.loop import SimProcess
from billet.sim.world import World
from billet.wire import flintlock as wire
from billet.wire.pb import link_pb2 as pb

STORE = "store"
CONNECT_S = 2.0  # timeout of a connection attempt that is not refused
NOT_WELL = frozenset(reason.name for reason in CANNOT_BID)
LINE_S = (0.03, 0.2)  # one way, of the hosts behind a slow line
LATE_S = 5.0  # longest delay of a reordered frame or of a duplicate


Accept = Callable[[str], WSListener | None]


class Network:
    """All paths between the parts. Places are servers, hosts, "store" and clients, by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.listening: dict[str, tuple[SimProcess, Accept]] = {}  # by link address
        self.parted_from: Callable[[str], None] = lambda host: None  # called when a server has lost a host's link
        self._chance = world.chance("network")
        self._half = world.chance("half-broken links")
        self._lines_s: dict[str, float] = {}  # by host
        self._numbers = itertools.count(1)  # of connections
        self._shown: set[tuple[str, str]] = set()  # who has reported which uid
        self._cuts: dict[tuple[str, str], float] = {}  # end of each cut, by (from, to)
        self._of_host: dict[tuple[str, str], int] = {}  # latest link by server process and host
        self._connections: list[tuple[End, End]] = []

    # Partitions.

    def passes(self, here: str, there: str) -> bool:
        """Whether a message gets through now."""
        return self._cuts.get((here, there), 0.0) <= self.world.now_s

    def cut(self, here: str, there: str, until_s: float) -> None:
        """Block this direction until then."""
        self._cuts[here, there] = until_s
        for end in self._ends(here, there):
            silent_s = PING_AFTER_S * self._chance.random() + PONG_WITHIN_S
            end.peer.process.call_at(self.world.now_s + silent_s, self._silent, end)
        self.world.loop.call_at(until_s + 0.001, self._healed, here, there, context=self.world.loop.world)

    def heal(self) -> None:
        """End all cuts."""
        for here, there in list(self._cuts):
            self._cuts[here, there] = 0.0
            self._healed(here, there)

    def _ends(self, here: str, there: str) -> list[End]:
        self._connections = [pair for pair in self._connections if not all(end.is_disconnected for end in pair)]
        return [end for pair in self._connections for end in pair if (end.name, end.peer.name) == (here, there)]

    def _silent(self, end: End) -> None:
        """Close the other end if the cut still lasts: its pings were not answered."""
        if not self.passes(end.name, end.peer.name):
            end.peer.disconnect()

    def _healed(self, here: str, there: str) -> None:
        if self.passes(here, there):
            for end in self._ends(here, there):
                held, end.held = end.held, []
                for frame in held:  # at once, before the frames that were sent after them and are in flight
                    end.peer.process.call_at(self.world.now_s, self._deliver, end, frame)

    def reset(self) -> None:
        """Break one connection; frames in flight on it are lost."""
        self._ends("", "")
        if self._connections:
            a, b = self._chance.choice(self._connections)
            self.world.tell("network", f"the connection of {a.name} and {b.name} breaks")
            self._break(a, b)

    def hang_up(self, name: str) -> None:
        """Break all connections of a host."""
        self._ends("", "")
        for pair in self._connections:
            if pair[0].name == name:
                self._break(*pair)

    def _break(self, *ends: End) -> None:
        for end in ends:
            end.broken = True
            end.process.call_at(self.world.now_s + self.delay_s(), end.closed)

    def redial(self, name: str = "") -> None:
        """Break one connection, of this host if it is given, at the agent's end only.

        The server's end stands until its pings are not answered, or until the agent's next hello.
        """
        self._ends("", "")
        halves = [pair for pair in self._connections if name in ("", pair[0].name)]
        if halves:
            near, far = self._half.choice(halves)
            self.world.tell("network", f"the connection of {near.name} and {far.name} breaks at one end")
            near.broken = far.broken = True
            silent_s = PING_AFTER_S * self._half.random() + PONG_WITHIN_S
            far.process.call_at(self.world.now_s + silent_s, far.closed)
            near.process.call_at(self.world.now_s, near.closed)

    # Frames.

    def carry(self, end: End, frame: SimFrame | None) -> None:
        """Send a frame after those in flight; None closes the connection."""
        if end.process.acts():
            if frame and end.kind is pb.Up:
                self._note_shown(end, pb.Up.FromString(frame.payload).inventory)
            elif frame:
                self._note_told(end, pb.Down.FromString(frame.payload))
            self._pass_on(end, frame)

    def _pass_on(self, end: End, frame: SimFrame | None) -> None:
        world, faults = self.world, self.world.faults
        when_s = world.now_s + self.delay_s() + self._line_s(end.name if end.kind is pb.Up else end.peer.name)
        if frame and not world.calm and (faults.frame_lost or faults.frame_twice or faults.frame_late):
            repeatable = self._repeatable(end, frame)
            if repeatable == frame.payload and world.happens(self._chance, faults.frame_lost):
                world.tell("network", f"a frame from {end.name} to {end.peer.name} is lost")
                return
            if repeatable and world.happens(self._chance, faults.frame_twice):
                again_s = when_s + self._chance.uniform(0.0, LATE_S)
                end.peer.process.call_at(again_s, self._deliver, end, SimFrame(repeatable))
            if repeatable == frame.payload and world.happens(self._chance, faults.frame_late):
                late_s = when_s + self._chance.uniform(0.0, LATE_S)
                end.peer.process.call_at(late_s, self._deliver, end, frame)
                return
        end.last_s = max(end.last_s, when_s)
        end.peer.process.call_at(end.last_s, self._deliver, end, frame)

    def _line_s(self, host: str) -> float:
        """How long the line to a host takes, on top of the delay that all messages have."""
        if self.world.faults.far and host not in self._lines_s:
            chance = self.world.chance(f"line to {host}")
            self._lines_s[host] = chance.uniform(*LINE_S) if chance.random() < self.world.faults.far else 0.0
        return self._lines_s.get(host, 0.0)

    def _note_shown(self, end: End, inventory: pb.InventoryUpdate) -> None:
        new = [row.uid for row in inventory.seen if (end.name, row.uid) not in self._shown]
        if new:
            self._shown.update((end.name, uid) for uid in new)
            self.world.note(Shown(self.world.now_s, end.name, new))

    def _note_told(self, end: End, down: pb.Down) -> None:
        first = frozenset(
            order.token for order in down.orders if order.token and not order.resent and not order.verdict_only
        )
        if first or down.calls or down.HasField("welcome"):
            calls = len(down.calls)
            self.world.note(Told(self.world.now_s, end.link, end.peer.name, down.welcome.term, calls, first))

    def _repeatable(self, end: End, frame: SimFrame) -> bytes:
        """The part of a frame that may arrive twice: its orders or answers; all of it when it has nothing else."""
        if end.kind is pb.Down:
            down = pb.Down.FromString(frame.payload)
            return pb.Down(orders=down.orders).SerializeToString() if down.orders else b""
        up = pb.Up.FromString(frame.payload)
        return pb.Up(answers=up.answers).SerializeToString() if up.answers else b""

    def _deliver(self, end: End, frame: SimFrame | None) -> None:
        if end.broken:
            return
        if not self.passes(end.name, end.peer.name):
            end.held.append(frame)
        else:
            end.peer.receive(frame)

    def arrived(self, end: End, frame: SimFrame) -> None:
        """Note what an end receives, for the checkers."""
        if end.kind is pb.Down:
            self._note_reported(end, pb.Up.FromString(frame.payload))
        else:
            down = pb.Down.FromString(frame.payload)
            now_s, agent = self.world.now_s, end.process.name
            if down.HasField("welcome"):
                self.world.note(Ordered(now_s, agent, end.name, down.welcome.term, ""))
            for order in down.orders:
                if order.token:
                    self.world.tell(agent, f"is told to create {order.token[-6:]}, term {order.term}")
                    self.world.note(
                        Ordered(now_s, agent, end.name, order.term, order.token,
                                order.instance, order.resent, order.verdict_only)
                    )  # fmt: skip
                elif order.method in (wire.GET, wire.DELETE):
                    self.world.note(Passed(now_s, end.name, order.term, wire.read_uid(order.payload)))

    def _note_reported(self, end: End, up: pb.Up) -> None:
        now_s, host, server = self.world.now_s, end.peer.name, end.process.name
        if up.HasField("hello"):
            before = self._of_host.get((server, host), 0)
            self.world.note(Parted(now_s, before, host, server))
            self._of_host[server, host] = end.link
            if before != end.link:
                self.parted_from(host)
        refusals = [refusal for bids in up.bids for refusal in bids.refusals]
        refusals += [answer.refusal for answer in up.answers if answer.HasField("refusal")]  # of orders
        away = any(refusal.reason in NOT_WELL for refusal in refusals)
        if up.HasField("report") or away:
            well = not away and (up.report.daemon_ok or not up.HasField("report"))
            self.world.note(Heard(now_s, host, server, well))
        if up.HasField("inventory"):
            inventory = up.inventory
            rows = {row.uid: row.token for row in inventory.seen}
            self.world.note(Reported(now_s, end.link, host, server, inventory.full, rows, list(inventory.gone)))

    def parted(self, end: End) -> None:
        """See Carrier."""
        if end.kind is pb.Down:
            host, server = end.peer.name, end.process.name
            self.world.note(Parted(self.world.now_s, end.link, host, server))
            if self._of_host.get((server, host)) == end.link:
                del self._of_host[server, host]
                self.parted_from(host)

    def has_greeted(self, server: str, host: str) -> bool:
        """Whether the server at this link address has a link to a host, which has said hello."""
        there = self.listening.get(server)
        return there is not None and there[0].alive and (there[0].name, host) in self._of_host

    def delay_s(self) -> float:
        """Draw the delay of one message."""
        return 0.0002 + self._chance.expovariate(1.0) * self.world.faults.delay_s

    # Connections.

    async def dial(self, process: SimProcess, name: str, server: str, path: str, listener: WSListener) -> End:
        """Connect an agent to a server. Raises OSError."""
        await asyncio.sleep(2 * self.delay_s())
        place = server.partition(":")[0]
        if not (self.passes(name, place) and self.passes(place, name)):
            await asyncio.sleep(CONNECT_S)
            raise OSError(f"{server} does not answer")
        there = self.listening.get(server)
        if there is None or not there[0].alive:
            raise OSError(f"{server} refused the connection")
        accepted: asyncio.Future[End] = self.world.loop.create_future()
        there[0].call_at(self.world.now_s, self._accept, there, process, (name, place), path, accepted)
        async with asyncio.timeout(CONNECT_S):
            end = await accepted
        end.listen(listener)
        return end

    def _accept(
        self,
        there: tuple[SimProcess, Accept],
        process: SimProcess,
        names: tuple[str, str],
        path: str,
        accepted: asyncio.Future[End],
    ) -> None:
        server, accept = there
        listener = accept(path)
        if listener is None or accepted.done():
            return
        number = next(self._numbers)
        near = End(self, process, names[0], pb.Up, number)
        far = End(self, server, names[1], pb.Down, number)
        near.peer, far.peer = far, near
        far.listener = listener
        self._connections.append((near, far))
        listener.on_ws_connected(far)  # type: ignore[arg-type]
        far.last_s = self.world.now_s + self.delay_s()
        process.call_at(far.last_s, resolve, accepted, near)

    def died(self, process: SimProcess, silently: bool) -> None:
        """A process has died. Its peers see their connections closed, or `silently` notice unanswered pings later."""
        for near, far in self._connections:
            for end in (near, far):
                if end.process is process and not end.is_disconnected:
                    end.is_disconnected = True
                    silent_s = PING_AFTER_S * self._chance.random() + PONG_WITHIN_S if silently else self.delay_s()
                    when_s = max(end.last_s, self.world.now_s + silent_s)
                    end.peer.process.call_at(when_s, end.peer.closed)

    # Calls to servers.

    async def call(self, here: str, there: str, process: SimProcess, work: Work, timeout_s: float) -> Said:
        """Call a server over a separate connection. Cancelling the call cancels the work after a delay."""
        if not process.alive:
            return REFUSED
        answer: asyncio.Future[Said] = self.world.loop.create_future()
        timer = self.world.loop.call_later(timeout_s, resolve, answer, TOO_LATE)
        arrival = Arrival(self, here, there, process, work, answer)
        process.call_at(self.world.now_s + self.delay_s(), arrival.begin)
        process.at_death.append(arrival.died)
        try:
            return await answer
        finally:
            timer.cancel()
            process.at_death.remove(arrival.died)
            process.call_at(self.world.now_s + self.delay_s(), arrival.give_up)


def request(path: str) -> Any:
    """Stands in for picows.WSUpgradeRequest."""
    return SimpleNamespace(headers={}, path=path.encode())
