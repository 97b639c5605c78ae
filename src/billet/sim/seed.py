"""One seed, from nothing to its verdict."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import random
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import structlog

from billet.core.errors import BilletError, Code
from billet.sim.checker_state import Violation
from billet.sim.checkers import differences, judge
from billet.sim.clients import Crowd
from billet.sim.fault_injector import FaultInjector
from billet.sim.flintlockd import DELETING
from billet.sim.history import Answered, Quiescent, QuotaSet, Unexpected
from billet.sim.hosts import SimMachine, draw_hosts
from billet.sim.loop import StuckError, VirtualLoop, name_of_current
from billet.sim.network import Network
from billet.sim.servers import Ids, SimServer, draw_settings
from billet.sim.store import Etcd
from billet.sim.world import World

BUSY_S = 40.0  # the longest that faults come
QUIET_S = 150.0  # the longest until the store says what the hosts show: two sweeps after the last reservation expires
CALM_S = 9.0  # what broke without a word shows by the next ping
LOOK_S = 2.0


class SeedResult(NamedTuple):
    """What became of one seed. `lines` is its story, `trace` the digest of it; `lasted_s` is virtual."""

    seed: int
    trace: str
    violations: list[Violation]
    lines: list[str]
    steps: int
    lasted_s: float
    answers: int  # to clients' calls: replies and errors


def run_seeds(seeds: Iterable[int], jobs: int) -> Iterator[SeedResult]:
    """Run many, in their order, on several processors. Stories are left out: a seed tells its own again."""
    if jobs == 1:
        yield from map(_without_trace, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:  # spawn would import everything for each
        yield from pool.imap(_without_trace, seeds, chunksize=8)


def _without_trace(seed: int) -> SeedResult:
    return run_seed(seed)._replace(lines=[])


def run_seed(seed: int) -> SeedResult:
    """Run one seed."""
    loop = VirtualLoop()
    world = World(seed, loop)
    loop.set_exception_handler(lambda _, context: _broke(world, context))
    collecting = gc.isenabled()
    gc.disable()  # a pause in the middle of a run would end what was thrown away in the order of chance
    state = random.getstate()
    random.seed(seed)  # the dialler draws its pauses there
    try:
        with listening_to_logs(world):
            try:
                loop.run_until_complete(_main(world))
            except StuckError as error:
                world.note(Unexpected(world.now_s, str(error)))
            _look_for_failures(world)
            violations = judge(world.evidence)
            answers = sum(isinstance(event, Answered) for event in world.evidence)
            result = SeedResult(seed, world.trace, violations, list(world.lines), loop.steps, world.now_s, answers)
            loop.bury()
    finally:
        random.setstate(state)
        if collecting:
            gc.enable()
    return result


async def _main(world: World) -> None:
    chance = world.chance("scenario")
    net, etcd, new_id = Network(world), Etcd(world), Ids()
    settings = draw_settings(world, chance)
    for namespace, quota in settings.rules.quotas.items():
        world.note(QuotaSet(world.now_s, namespace, quota))
    servers = [SimServer(world, net, etcd, n, settings, new_id) for n in range(chance.choice((1, 2, 3, 3, 3)))]
    links = [server.me.link for server in servers]
    machines = [SimMachine(world, net, host, n, links) for n, host in enumerate(draw_hosts(chance, world.ties))]
    for server in servers:
        server.peers = {peer.id: peer for peer in servers}
    crowd = Crowd(world, net, servers, machines)
    fault_injector = FaultInjector(world, net, servers, machines)
    fault_injector.begin()
    await _ready(etcd, len(machines))
    pause_s, operations = chance.choice((0.1, 1.0, 2.0)), chance.randint(4, 12)
    work = [asyncio.create_task(crowd.work(f"c{n}", operations, pause_s)) for n in range(chance.randint(2, 4))]
    operator = asyncio.create_task(crowd.operate())
    await asyncio.wait(work, timeout=BUSY_S)
    fault_injector.calm()
    world.tell("world", "all faults have ended")
    await asyncio.wait([*work, operator])
    await _until_quiescent(world, etcd, servers, machines, crowd)
    await _probe(world, crowd)


async def _ready(etcd: Etcd, hosts: int) -> None:
    """Wait until all hosts have joined; not long, since things go wrong already."""
    for _ in range(30):
        await asyncio.sleep(0.2)
        if len(etcd.state.hosts) == hosts:
            return


async def _until_quiescent(
    world: World, etcd: Etcd, servers: list[SimServer], machines: list[SimMachine], crowd: Crowd
) -> None:
    """Wait until all is up and the store says what the hosts show, and see that twice."""
    chance, calm_s, well = world.chance("look"), world.now_s, 0
    while True:
        vms = {
            vm.uid: (machine.host.id, vm.demand, vm.message.status.state == DELETING)
            for machine in machines
            for vm in machine.daemon.vms.values()
        }
        found = differences(etcd.state.placements, vms)
        busy = found or any(deleting for _, _, deleting in vms.values())
        up = all(server.up and not server.stopping for server in servers) and all(machine.up for machine in machines)
        calm = world.now_s - calm_s >= CALM_S and len(etcd.state.hosts) == len(machines)
        well = well + 1 if up and calm and not busy and await _answers(etcd, crowd, chance) else 0
        if well == 2 or world.now_s - calm_s > QUIET_S:
            break
        await asyncio.sleep(LOOK_S)
    world.note(Quiescent(world.now_s, found))


async def _answers(etcd: Etcd, crowd: Crowd, chance: Random) -> bool:
    """Whether every host answers; the operator lets those bid again that were cordoned."""
    for host in list(etcd.state.hosts.values()):
        if host.cordoned:
            await crowd.change_host("look", chance, host.id, "UNCORDON")
    return await crowd.list_all("look", chance) == Code.OK


async def _probe(world: World, crowd: Crowd) -> None:
    """Everything works again: what was acknowledged is there, and one more can be made."""
    chance = world.chance("probe")
    for uid in list(crowd.uids):
        await crowd.get("probe", chance, uid)
    await crowd.create("probe", chance, (1, 1024))


def _broke(world: World, context: dict[str, Any]) -> None:
    """asyncio complains. Of tasks that were left behind it may: _look_for_failures goes through all."""
    if "handle" in context:
        world.note(Unexpected(world.now_s, f"{context['message']}: {context.get('exception')!r}"))


def _look_for_failures(world: World) -> None:
    """Parts that ended by an error that is none of Billet's own."""
    for task in world.loop.tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error and not isinstance(error, BilletError):
                world.note(Unexpected(world.now_s, f"{type(error).__name__}: {error}"))


@contextmanager
def listening_to_logs(world: World) -> Iterator[None]:
    """A part that catches an error which it did not expect says so in its log."""
    before = structlog.get_config()

    def hear(_: Any, __: str, event: MutableMapping[str, Any]) -> Any:
        if event.get("exc_info"):
            world.note(Unexpected(world.now_s, f"{event['event']}: {event}"))
        said = {key: value for key, value in event.items() if key not in ("event", "level", "log_level")}
        world.tell(name_of_current(), f"{event['event']} {' '.join(f'{k}={v}' for k, v in said.items())}".rstrip())
        raise structlog.DropEvent

    structlog.configure(processors=[hear])
    try:
        yield
    finally:
        structlog.configure(**before)
