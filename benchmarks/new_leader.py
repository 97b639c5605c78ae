"""`python -m benchmarks.new_leader`: how long a new leader of a large fleet needs until it awards, step by step.

etcd is real, and so are the leader's store, link, ledger, reconciler, auctioneer and service. The hosts are not: each
is a connection to the leader's link in this process, that announces its microVMs, bids and says yes. They have said
hello before the election, as agents do, which keep a connection to every server; and a client's create waits already.
Each tells its microVMs within LIST_S of the new leader's welcome: the last step cannot be shorter.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import uvloop
from picows import WSMsgType
from ulid import ULID

from billet.api.flintlock_service import FlintlockService
from billet.api.recorded import NoRecordedAuctions
from billet.core.bidding import bid
from billet.core.model import Facts, Host, Observed, Placement, PlacementState, Resources, VmState
from billet.core.report import InventoryUpdate
from billet.core.state import Change, PutHost, PutPlacement
from billet.demo.etcd import start_etcd
from billet.demo.processes import Processes
from billet.leader.accuracy import AccuracyTracker
from billet.leader.admission import Admission
from billet.leader.archive import NoArchive
from billet.leader.auctioneer import Auctioneer
from billet.leader.chronicle import Chronicle
from billet.leader.create_slots import CreateSlots
from billet.leader.health import HealthTracker
from billet.leader.leadership import Leadership, LinkTerm
from billet.leader.ledger import Ledger, loaded
from billet.leader.reconciler import Reconciler
from billet.leader.rules import Rules
from billet.link import bid_messages
from billet.link import messages as wire
from billet.link.connection import AgentConnection
from billet.link.hello import put_hello
from billet.link.server import LinkServer
from billet.ports import Created, Leader, Store, Term
from billet.process import SystemClock
from billet.store.open import open_store
from billet.wire import flintlock
from billet.wire.headers import TOKEN
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.pb import link_pb2 as pb

ROOM = Resources(4000, 1 << 24, 1 << 30, 100_000)
SHAPE = Resources(2, 2048, 10_000, 1)
CHUNK = 120  # changes in one commit
LIST_S = 1.0  # at most, of a host's List
FILLERS = 4  # commits that wait together
ME = Leader("new", "127.0.0.1:1", "127.0.0.1:2")


class VirtualHost:
    """An agent's end of the link, and the transport of the leader's end."""

    def __init__(self, link: LinkServer, host: Host, rows: list[Observed]) -> None:
        self.is_disconnected, self.underlying_transport = False, self
        self.awarded_s = 0.0
        self._host, self._link = host, link
        self._taken = Resources(*(len(rows) * amount for amount in SHAPE))
        inventory = wire.put_inventory(InventoryUpdate(True, rows, [], []))
        self._everything = pb.Up(inventory=inventory).SerializeToString()
        self._connection = AgentConnection(link)
        self._connection.on_ws_connected(self)  # type: ignore[arg-type]  # a stand-in for picows' transport
        hello = put_hello(host, "bench", f"agent of {host.id}", 0)
        self._tell(pb.Up(hello=hello).SerializeToString())

    def get_extra_info(self, name: str) -> None:
        """See asyncio.BaseTransport: nothing is known about this connection."""

    def send(self, kind: WSMsgType, payload: bytes) -> None:
        """See picows."""
        asyncio.get_running_loop().call_soon(self._hear, pb.Down.FromString(payload))

    def disconnect(self) -> None:
        """See picows."""
        self.is_disconnected = True

    def _tell(self, payload: bytes) -> None:
        self._link.received(self._connection, pb.Up.FromString(payload))

    def _hear(self, down: pb.Down) -> None:
        if down.HasField("welcome"):  # an agent lists its host's microVMs before it tells them
            asyncio.get_running_loop().call_later(random.uniform(0, LIST_S), self._tell, self._everything)
        for call in down.calls:
            answers = [
                (lot, bid(self._host, self._taken, Facts(), auction, Rules().weights))
                for lot, auction in bid_messages.get_call(call)
            ]
            self._tell(pb.Up(bids=[bid_messages.put_bids(call.round, answers)]).SerializeToString())
        for order in down.orders:
            self.awarded_s = time.monotonic()
            uid = str(ULID())
            made = rpc.CreateMicroVMResponse(microvm=types.MicroVM(spec=types.MicroVMSpec(uid=uid)))
            outcome = Created(uid, made.SerializeToString())
            self._tell(pb.Up(answers=[wire.put_outcome(order.id, outcome)]).SerializeToString())


def placed(hosts: int, placements: int) -> Iterator[Placement]:
    """What is in the store before."""
    for n in range(placements):
        yield Placement(
            id=f"01TOKEN{n:019d}", namespace="ns", name=f"vm-{n}", demand=SHAPE, host=f"host-{n % hosts:03d}",
            state=PlacementState.STARTED, uid=f"01VM{n:022d}", score=0.5, runner_up="host-000", changed_at_s=1e9,
        )  # fmt: skip


async def fill(store: Store, hosts: int, placements: int) -> None:
    """Write hosts and placements as an earlier leader did."""
    term = await store.campaign(Leader("old", "127.0.0.1:3", "127.0.0.1:4"))
    changes: list[Change] = [PutHost(Host(f"host-{n:03d}", ROOM, ROOM)) for n in range(hosts)]
    changes += [PutPlacement(placement) for placement in placed(hosts, placements)]
    chunks = iter([changes[n : n + CHUNK] for n in range(0, len(changes), CHUNK)])

    async def work() -> None:
        for chunk in chunks:
            await store.commit(term, chunk)

    await asyncio.gather(*(work() for _ in range(FILLERS)))
    await store.resign(term)


def connect(link: LinkServer, hosts: int, placements: int) -> list[VirtualHost]:
    """Every host says hello."""
    rows: dict[str, list[Observed]] = {f"host-{n:03d}": [] for n in range(hosts)}
    for p in placed(hosts, placements):
        rows[p.host].append(Observed(p.uid, p.namespace, p.name, p.demand, VmState.CREATED, p.id))
    return [VirtualHost(link, Host(host_id, ROOM, ROOM), seen) for host_id, seen in rows.items()]


def create_request() -> bytes:
    """One more microVM."""
    kernel = types.Kernel(image="r.example/k:1", filename="vmlinux")
    spec = types.MicroVMSpec(id="one-more", namespace="ns", vcpu=2, memory_in_mb=2048, kernel=kernel)
    return rpc.CreateMicroVMRequest(microvm=spec).SerializeToString()


async def lead_once(store: Store, term: Term, link: LinkServer, hosts: list[VirtualHost], n: int) -> dict[str, float]:
    """From the election to the first answer and on to the last host; seconds since the election, by step."""
    elected_s, steps = time.monotonic(), {}

    def step(name: str, at_s: float = 0.0) -> None:
        steps[name] = (at_s or time.monotonic()) - elected_s

    ledger = Ledger(await loaded(store), store, term)
    step("the ledger is loaded")
    clock, rules = SystemClock(), Rules()
    reconciler = Reconciler(ledger, clock, 60.0, 86_400.0, refuse)
    accuracy = AccuracyTracker(ledger.state, clock, reconciler, lambda outcome: None)
    health = HealthTracker(ledger.state, clock, rules.suspect_share, reconciler)
    auctioneer = Auctioneer(ledger, link, reconciler.ready, rules, clock, lambda recorder: None, accuracy, health)
    admission = Admission(ledger, reconciler, health, link, False, clock)
    leadership = Leadership(
        ledger, auctioneer, reconciler, link, rules, accuracy, health, admission,
        CreateSlots(rules.creates, "create"), Chronicle(ledger, clock, NoArchive(), reconciler),
    )  # fmt: skip
    service = FlintlockService(leadership, NoRecordedAuctions(), "bench")
    link.begin(LinkTerm(term.number, rules.weights, admission, ledger.state.fleet, rules.arrive_s))
    reconciling = asyncio.create_task(reconciler.run())
    await service.unary(flintlock.CREATE, create_request(), 30.0, {TOKEN: f"01NEW{n:021d}"})
    step("the first microVM is answered")
    step("the first microVM is awarded", max(host.awarded_s for host in hosts))
    while len(reconciler.ready) < len(hosts):
        await reconciler.ready.next_one(60.0)
    step("every host may bid")
    ledger.end("measured")
    await reconciling
    link.end("measured")
    return steps


async def refuse(host_id: str, uid: str) -> bool:
    """No microVM is to be deleted here."""
    raise AssertionError(f"{uid} on {host_id} was to be deleted")


async def memory_bytes(store: Store, placements: int) -> int:
    """What one placement takes in a ledger."""
    tracemalloc.start()
    state = await loaded(store)
    gc.collect()
    taken_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(state.placements) == placements
    return taken_bytes // placements


async def measure(url: str, folder: Path, hosts: int, placements: int, repeats: int) -> list[dict[str, float]]:
    """Fill the store, then begin some terms on it."""
    store = open_store(url, str(folder))
    await store.open()
    begun_s = time.monotonic()
    await fill(store, hosts, placements)
    click.echo(f"{placements} placements on {hosts} hosts written in {time.monotonic() - begun_s:.1f} s")
    runs = []
    click.echo(f"a placement takes {await memory_bytes(store, placements)} bytes of a leader's memory")
    for n in range(repeats):
        link = LinkServer("", 0.05, 2.0)
        connected = connect(link, hosts, placements)
        term = await store.campaign(replace(ME, id=f"new-{n}"))
        runs.append(await lead_once(store, term, link, connected, n))
        await store.resign(term)
    await store.close()
    return runs


@click.command()
@click.option("--hosts", default=500, show_default=True, help="Number of hosts.")
@click.option("--placements", default=100_000, show_default=True, help="Number of placements in total.")
@click.option("--members", default=3, show_default=True, help="Number of etcd members.")
@click.option("--repeats", default=3, show_default=True, help="Number of elections.")
def new_leader(hosts: int, placements: int, members: int, repeats: int) -> None:
    """Print the seconds from the election of a new leader to each step."""
    with TemporaryDirectory() as folder, Processes(Path(folder)) as processes:
        url = start_etcd(processes, members)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runs = runner.run(measure(url, Path(folder), hosts, placements, repeats))
    for name in sorted(runs[0], key=lambda name: runs[0][name]):
        times = [run[name] for run in runs]
        click.echo(f"{median(times):6.2f} s  {name}  ({', '.join(f'{at_s:.2f}' for at_s in times)})")


if __name__ == "__main__":
    new_leader()
