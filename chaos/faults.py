"""The faults. A fault is injected and later healed, without an effect on faults that overlap it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaos.broken import black_hole, careless, stalled
from chaos.cluster import CLIENTS, ETCD, HOSTS, SERVERS, Cluster, between
from chaos.intruders import clone, lying_term, second_agent, twin
from chaos.namespaces import Pair


class Fault(Protocol):
    """A fault. `name`: its name in the report."""

    name: str

    async def inject(self) -> None:
        """Inject the fault."""

    async def heal(self) -> None:
        """Remove the cause. The fleet must recover by itself."""


@dataclass
class Kill:
    """kill -9 of some processes at once; healed by starting them again."""

    name: str
    cluster: Cluster
    parts: Sequence[str]

    async def inject(self) -> None:
        """See Fault."""
        for part in self.parts:
            self.cluster.kill(part)

    async def heal(self) -> None:
        """See Fault."""
        for part in self.parts:
            self.cluster.launch(part)


@dataclass
class Stop:
    """A clean stop (SIGTERM); healed by starting it again."""

    name: str
    cluster: Cluster
    part: str
    took_s: float = 0.0

    async def inject(self) -> None:
        """See Fault. Returns when it has ended."""
        self.took_s = await self.cluster.terminate(self.part)

    async def heal(self) -> None:
        """See Fault."""
        self.cluster.launch(self.part)


@dataclass
class Pause:
    """SIGSTOP of some processes: they hold their connections and say nothing, then go on as if no time had passed."""

    name: str
    cluster: Cluster
    parts: Sequence[str]

    async def inject(self) -> None:
        """See Fault."""
        for part in self.parts:
            self.cluster.pause(part)

    async def heal(self) -> None:
        """See Fault."""
        for part in self.parts:
            self.cluster.resume(part)


@dataclass
class Cut:
    """Nothing that these senders send to these receivers arrives. Silent, as when a machine vanishes."""

    name: str
    cluster: Cluster
    pairs: Sequence[Pair]

    async def inject(self) -> None:
        """See Fault."""
        await self.cluster.network.cut(self.pairs)

    async def heal(self) -> None:
        """See Fault."""
        await self.cluster.network.restore(self.pairs)


@dataclass
class FullDisk:
    """No block is left on one machine's disk; healed by making room and starting what has ended over it."""

    name: str
    cluster: Cluster
    machine: str

    async def inject(self) -> None:
        """See Fault."""
        for part in self.cluster.on(self.machine):
            part.excused = True
        await asyncio.to_thread(_fill, self._filler)

    async def heal(self) -> None:
        """See Fault."""
        self._filler.unlink(missing_ok=True)
        for part in self.cluster.on(self.machine):
            self.cluster.launch(part.name)
            part.excused = False

    @property
    def _filler(self) -> Path:
        return self.cluster.disk(self.machine) / "filler"


def _fill(filler: Path) -> None:
    """Write until nothing more goes, in ever smaller pieces."""
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass


@dataclass(frozen=True, slots=True)
class Heads:
    """Who leads at the moment of a fault."""

    server: str  # of the servers
    member: str  # of etcd


Draw = Callable[[random.Random, Cluster, Heads], Fault]


def draw(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """One fault by chance: each shape has its weight, its victim is drawn."""
    shapes, weights = zip(*SHAPES, strict=True)
    shape: Draw = chance.choices(shapes, weights)[0]
    return shape(chance, cluster, heads)


def kill_leader(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader ends at once."""
    return Kill(f"kill -9 the leader, {heads.server}", cluster, [heads.server])


def kill_server(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """Some server ends at once."""
    name = chance.choice(SERVERS)
    return Kill(f"kill -9 {name}", cluster, [name])


def stop_leader(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader is asked to end."""
    return Stop(f"SIGTERM to the leader, {heads.server}", cluster, heads.server)


def pause_leader(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader stands still, and then believes in itself for a moment."""
    return Pause(f"SIGSTOP the leader, {heads.server}", cluster, [heads.server])


def kill_member(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """Some etcd member ends at once, its leader as often as not."""
    name = chance.choice([heads.member, *ETCD])
    return Kill(f"kill -9 {name}", cluster, [name])


def pause_member(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """Some etcd member stands still."""
    name = chance.choice([heads.member, *ETCD])
    return Pause(f"SIGSTOP {name}", cluster, [name])


def kill_both_leaders(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader and etcd's leader end at once."""
    return Kill(f"kill -9 {heads.server} and {heads.member}, both leaders", cluster, [heads.server, heads.member])


def kill_agent(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """An agent ends at once; its flintlockd goes on."""
    name = f"{chance.choice(HOSTS)}/agent"
    return Kill(f"kill -9 {name}", cluster, [name])


def kill_flintlockd(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """A flintlockd ends at once, and has its microVMs again when it is back."""
    name = f"{chance.choice(HOSTS)}/flintlockd"
    return Kill(f"kill -9 {name}", cluster, [name])


def kill_host(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """A host's power fails."""
    host = chance.choice(HOSTS)
    return Kill(f"kill -9 all of {host}", cluster, cluster.of_host(host))


def pause_host(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """A part of a host stands still."""
    name = chance.choice(cluster.of_host(chance.choice(HOSTS)))
    return Pause(f"SIGSTOP {name}", cluster, [name])


def cut_leader(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader's machine vanishes, for its clients too."""
    return vanish(cluster, heads.server)


def cut_host(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """A host's machine vanishes."""
    return vanish(cluster, chance.choice(HOSTS))


def cut_member(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """An etcd member's machine vanishes."""
    return vanish(cluster, chance.choice([heads.member, *ETCD]))


def leader_from_etcd(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader still has its hosts and its clients, and no store."""
    return Cut(f"{heads.server}, the leader, cut from etcd", cluster, between([heads.server], ETCD))


def leader_from_hosts(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The leader still has its store, and none of its hosts."""
    return Cut(f"{heads.server}, the leader, cut from all hosts", cluster, between([heads.server], HOSTS))


def leader_from_servers(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """The other servers see in etcd who leads, and cannot reach it."""
    return Cut(f"{heads.server}, the leader, cut from the other servers", cluster, between([heads.server], SERVERS))


def etcd_from_servers(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """etcd is whole, and no server reaches it."""
    return Cut("etcd cut from all servers", cluster, between(ETCD, SERVERS))


def etcd_apart(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """etcd's members reach everybody but each other: there is no quorum."""
    return Cut("etcd's members cut from each other", cluster, between(ETCD, ETCD))


def halves(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """Two sides, drawn machine by machine; clients reach both."""
    machines = [*ETCD, *SERVERS, *HOSTS]
    side = {machine for machine in machines if chance.random() < 0.5}
    others = [machine for machine in machines if machine not in side]
    name = f"partition: {', '.join(sorted(side)) or 'nobody'} | {', '.join(others) or 'nobody'}"
    return Cut(name, cluster, between(sorted(side), others))


def one_way(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """A machine hears and is not heard, or is heard and does not hear."""
    machine = chance.choice([heads.server, heads.member, chance.choice(SERVERS), chance.choice(HOSTS)])
    others = [other for other in (*ETCD, *SERVERS, *HOSTS) if other != machine]
    if chance.random() < 0.5:
        return Cut(f"{machine} is not heard by anybody", cluster, [(machine, other) for other in others])
    return Cut(f"{machine} does not hear anybody", cluster, [(other, machine) for other in others])


def full_disk(chance: random.Random, cluster: Cluster, heads: Heads) -> Fault:
    """A server's or an etcd member's disk is full."""
    machine = chance.choice([*ETCD, *SERVERS])
    return FullDisk(f"the disk of {machine} is full", cluster, machine)


def vanish(cluster: Cluster, machine: str) -> Fault:
    """A machine's link is cut. Clients dial only servers, so that they miss no other machine."""
    others = [*ETCD, *SERVERS, *HOSTS, *([CLIENTS] if machine in SERVERS else [])]
    return Cut(f"{machine} vanishes", cluster, between([machine], others))


def kill_everything(cluster: Cluster) -> Fault:
    """All servers, agents and etcd members at once; the microVMs stay, as after a software update gone wrong."""
    parts = [name for name in cluster.parts if not name.endswith("/flintlockd")]
    return Kill("kill -9 all servers, agents and etcd members", cluster, parts)


SHAPES: tuple[tuple[Draw, float], ...] = (
    (kill_leader, 3),
    (kill_server, 1),
    (stop_leader, 1),
    (pause_leader, 3),
    (kill_member, 2),
    (pause_member, 2),
    (kill_both_leaders, 1),
    (kill_agent, 2),
    (kill_flintlockd, 2),
    (kill_host, 2),
    (pause_host, 2),
    (cut_leader, 2),
    (cut_host, 2),
    (cut_member, 1),
    (leader_from_etcd, 2),
    (leader_from_hosts, 1),
    (leader_from_servers, 1),
    (etcd_from_servers, 1),
    (etcd_apart, 1),
    (halves, 2),
    (one_way, 3),
    (full_disk, 1),
    (black_hole, 2),
    (stalled, 2),
    (careless, 3),
    (twin, 3),
    (clone, 2),
    (second_agent, 3),
    (lying_term, 2),
)
