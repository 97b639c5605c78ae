"""Run one seed: build the cluster, play faults and clients, wait until it is quiet, and check the history."""

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
from billet.sim.checkers import check, differences
from billet.sim.clients import Crowd
from billet.sim.etcd import Etcd
from billet.sim.fault_injector import FaultInjector
from billet.sim.flintlockd import DELETING
from billet.sim.history import Answered, Quiescent, QuotaSet, Unexpected
from billet.sim.hosts import SimMachine, draw_hosts
from billet.sim.loop import StuckError, VirtualLoop, name_of_current, noticing_spins
from billet.sim.network import Network
from billet.sim.servers import Ids, SimServer, draw_settings
from billet.sim.world import World

BUSY_S = 40.0  # the longest phase with faults
LONG_BUSY_S = 200.0  # the same in runs with outages
HANDS_S = 0.5  # how often the history records what creates and deletes work on
QUIET_S = 240.0  # the longest until the store agrees with the hosts: two sweeps after the last reservation expires
CALM_S = 9.0  # a silently broken connection is noticed by the next ping
LOOK_S = 2.0


class SeedResult(NamedTuple):
    """The result of one seed. `lines`: the trace; `trace`: its digest; `lasted_s`: virtual seconds."""

    seed: int
    trace: str
    violations: list[Violation]
    lines: list[str]
    steps: int
    lasted_s: float
    answers: int  # to calls of clients: replies and errors


def run_seeds(seeds: Iterable[int], jobs: int) -> Iterator[SeedResult]:
    """Run many seeds on `jobs` processors. Results come in the order of the seeds, without `lines`."""
    if jobs == 1:
        yield from map(_without_trace, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:  # spawn would import everything in each process
        yield from pool.imap(_without_trace, seeds, chunksize=8)


def _without_trace(seed: int) -> SeedResult:
    return run_seed(seed)._replace(lines=[])


def run_seed(seed: int) -> SeedResult:
    """Run one seed."""
    loop = VirtualLoop()
    world = World(seed, loop)
    loop.set_exception_handler(lambda _, context: _note_failed_callback(world, context))
    collecting = gc.isenabled()
    gc.disable()  # a collection in mid-run would run finalisers in an order that differs between runs
    state = random.getstate()
    random.seed(seed)  # the link's agent draws its pauses from the global generator
    try:
        with listening_to_logs(world):
            try:
                with noticing_spins(loop):
                    loop.run_until_complete(_main(world))
            except StuckError as error:
                world.note(Unexpected(world.now_s, str(error)))
            _look_for_failures(world)
            violations = check(world.history)
            answers = sum(isinstance(event, Answered) for event in world.history)
            result = SeedResult(seed, world.trace, violations, list(world.lines), loop.steps, world.now_s, answers)
            loop.dispose()
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
    etcd.untimely = crowd.send_again
    fault_injector = FaultInjector(world, net, etcd, servers, machines)
    fault_injector.a_day_later = crowd.send_some_again
    fault_injector.begin()
    await _ready(etcd, len(machines))
    pause_s, operations = chance.choice((0.1, 1.0, 2.0)), chance.randint(4, 12)
    if world.faults.long:
        pause_s *= 10
    work = [asyncio.create_task(crowd.work(f"c{n}", operations, pause_s)) for n in range(chance.randint(2, 4))]
    operator = asyncio.create_task(crowd.operate())
    looking = asyncio.create_task(_look_at_work(etcd))
    await asyncio.wait(work, timeout=LONG_BUSY_S if world.faults.long else BUSY_S)
    fault_injector.calm()
    world.tell("world", "all faults have ended")
    await asyncio.wait([*work, *crowd.sent_again, operator])
    await _until_quiescent(world, etcd, servers, machines, crowd)
    await _probe(world, crowd)
    looking.cancel()


async def _look_at_work(etcd: Etcd) -> None:
    while True:
        etcd.note_in_hand()
        await asyncio.sleep(HANDS_S)


async def _ready(etcd: Etcd, hosts: int) -> None:
    """Wait until all hosts have joined, but not long: faults have begun already."""
    for _ in range(30):
        await asyncio.sleep(0.2)
        if len(etcd.state.hosts) == hosts:
            return


async def _until_quiescent(
    world: World, etcd: Etcd, servers: list[SimServer], machines: list[SimMachine], crowd: Crowd
) -> None:
    """Wait until everything is up and the store agrees with the hosts, at two looks in a row."""
    chance, calm_s, well = world.chance("look"), world.now_s, 0
    while True:
        if world.now_s - calm_s >= CALM_S:
            await _remove_strangers(etcd, machines, crowd, chance)
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


async def _remove_strangers(etcd: Etcd, machines: list[SimMachine], crowd: Crowd, chance: Random) -> None:
    """Remove the hosts that no machine has: rogues were let in under their names."""
    known = {machine.host.id for machine in machines}
    for host_id in [host_id for host_id in etcd.state.hosts if host_id not in known]:
        await crowd.change_host("look", chance, host_id, "FENCE")
        await crowd.change_host("look", chance, host_id, "REMOVE")


async def _answers(etcd: Etcd, crowd: Crowd, chance: Random) -> bool:
    """Whether every host answers a List. Uncordons hosts first."""
    for host in list(etcd.state.hosts.values()):
        if host.cordoned:
            await crowd.change_host("look", chance, host.id, "UNCORDON")
    return await crowd.list_all("look", chance) == Code.OK


async def _probe(world: World, crowd: Crowd) -> None:
    """Check that calls succeed again: look up every acknowledged microVM, and create one more."""
    chance = world.chance("probe")
    for uid in list(crowd.uids):
        await crowd.get("probe", chance, uid)
    await crowd.create("probe", chance, (1, 1024))


def _note_failed_callback(world: World, context: dict[str, Any]) -> None:
    """Note what asyncio reports about a callback. Reports about tasks are left to _look_for_failures."""
    if "handle" in context:
        world.note(Unexpected(world.now_s, f"{context['message']}: {context.get('exception')!r}"))


def _look_for_failures(world: World) -> None:
    """Note every task that ended with an error that is not Billet's own."""
    for task in world.loop.tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error and not isinstance(error, BilletError):
                world.note(Unexpected(world.now_s, f"{type(error).__name__}: {error}"))


@contextmanager
def listening_to_logs(world: World) -> Iterator[None]:
    """Add log lines to the trace. A line with a traceback is an unexpected failure."""
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
